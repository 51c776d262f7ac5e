"""DINO: a student finds in any crop of an image what its own moving average finds in the large ones."""

# B images of this process, V views of the student (the first two global), C x H x W pixels, D hidden size,
# E bottleneck size, K prototypes

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.centred_softmax import CentredSoftmax
from hf_ssl.modeling.blocks.checks import check_shares, check_temperatures
from hf_ssl.modeling.blocks.dino_head import DINOHead, WeightNormLinear
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.blocks.self_distillation import Distillation, collapse_diagnostics, distil, other_views
from hf_ssl.modeling.blocks.student_teacher import MomentumEncoderPreTrainedModel
from hf_ssl.modeling.blocks.teacher import cosine_decay, follow, make_teacher
from hf_ssl.modeling.blocks.views import (
    EncodedViews,
    check_views,
    encode_multi_crop,
    encode_views,
    ready_image_encoder,
)


@strict
class DINOConfig(PooledImageConfig):
    """Configuration of DINO; the defaults are the paper's for ImageNet.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any transformers image encoder whose last layer is a
            feature map or a sequence; by default ViT-B/16. Its drop-path (`drop_path_rate`, where it has one; .1 in
            the paper) is the student's: the teacher drops nothing.
        pooling (`str`): how the encoder's last layer becomes one vector: `"cls"`, the class token, or `"mean"` over
            all positions.
        num_prototypes (`int`): K, of the head's output, at least 2.
        head_hidden_size (`int`): of the head's two hidden layers.
        bottleneck_size (`int`): E, of the unit vectors before the last layer.
        norm_last_layer (`bool`): whether the prototypes stay unit vectors. Learning their lengths gives better
            features for a ViT-S but can make larger models unstable.
        student_temperature (`float`): τ_s > 0.
        teacher_temperature (`float`): τ_t > 0 at the beginning.
        final_teacher_temperature (`float`): τ_t > 0 after the warm-up.
        temperature_warmup_share (`float`): share of the training, in [0, 1], over which τ_t rises linearly: the
            paper's 30 of 300 epochs.
        centre_decay (`float`): m in [0, 1] of the centre.
        ema_decay (`float`): λ in [0, 1] of the teacher at the beginning; it rises to 1 with half a cosine. For a batch
            of 256 the authors advise .9995.
        freeze_last_layer_share (`float`): share of the training, in [0, 1], for which the prototypes stay as they
            are: the authors' first of 100 epochs.

    Raises:
        InputError: for values out of range.
    """

    model_type = "dino-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="vit")}

    pooling: str = "cls"
    num_prototypes: int = 65536
    head_hidden_size: int = 2048
    bottleneck_size: int = 256
    norm_last_layer: bool = True
    student_temperature: float | int = 0.1
    teacher_temperature: float | int = 0.04
    final_teacher_temperature: float | int = 0.07
    temperature_warmup_share: float | int = 0.1
    centre_decay: float | int = 0.9
    ema_decay: float | int = 0.996
    freeze_last_layer_share: float | int = 0.01

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_prototypes < 2:
            raise InputError(f"num_prototypes is {self.num_prototypes}; a distribution needs at least 2.")
        for name in ("head_hidden_size", "bottleneck_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1.")
        check_temperatures(self, "student_temperature", "teacher_temperature", "final_teacher_temperature")
        check_shares(self, "temperature_warmup_share", "centre_decay", "ema_decay", "freeze_last_layer_share")


class DINOForPreTraining(MomentumEncoderPreTrainedModel):
    """Self-distillation with no labels (Caron et al. 2021, arXiv:2104.14294).

    `min Σ_{t ∈ {x_1^g, x_2^g}} Σ_{s ∈ V, s ≠ t} H(P_t(t), P_s(s))` (Eq. 3), `H(a, b) = −Σ_k a_k log b_k`, here the
    mean over these pairs and over images: V are two global views of an image and any number of local ones, smaller
    crops; `P_s = softmax(g_s / τ_s)`, `P_t = softmax((g_t − c) / τ_t)`, g an encoder with a head. The teacher takes no
    gradient and follows the student, `θ_t ← λ θ_t + (1 − λ) θ_s`. The centre c, a moving average of g_t, and the low
    temperature τ_t together keep it from collapse; [`collapse_diagnostics`] tells how far it is from either kind.

    * Views of one size go through the encoder in one pass, so the global and the local ones are normalised apart where
      the encoder has batch norms. The teacher's use their own batch's statistics in training, as in the authors' code.
    * The encoder that is exported is the teacher's, which is the better one throughout the training (figure 6) and the
      one that the authors publish.

    Reference: facebookresearch/dino, `main_dino.py`, commit 7c446df. Deviations: λ, τ_t and the frozen first epoch are
    placed by the share of the training that is done, τ_t step by step instead of epoch by epoch; scores are fp32 under
    autocast, there half precision.
    """

    config: DINOConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["teacher", "sharpen"]

    def __init__(self, config: DINOConfig) -> None:
        super().__init__(config)
        self.ready_encoder()
        self.projection_head = DINOHead(
            hidden_size_of(self.encoder.config),
            config.num_prototypes,
            hidden_size=config.head_hidden_size,
            bottleneck_size=config.bottleneck_size,
            norm_last_layer=config.norm_last_layer,
        )
        self.sharpen = CentredSoftmax(
            config.num_prototypes,
            centre_decay=config.centre_decay,
            temperature=config.teacher_temperature,
            final_temperature=config.final_teacher_temperature,
            warmup_share=config.temperature_warmup_share,
        )
        self.teacher = make_teacher(self.student)
        self.post_init()
        self.synchronise_teacher()  # the head has its weights only now
        self.train()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (WeightNormLinear, CentredSoftmax)):
            module.reset_parameters()

    def ready_encoder(self) -> None:
        """Check the encoder and make it ready, before the teacher becomes its copy."""
        ready_image_encoder(self.encoder, "DINO", self.config.pooling)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        local_pixel_values: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images.

        Args:
            pixel_values (`Tensor` of shape `(B, 2, C, H, W)`): two global views of each image, normalised as the
                encoder expects.
            local_pixel_values (`Tensor` of shape `(B, V - 2, C, h, w)`, *optional*): local views, of a size of their
                own.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`; what they give is of the global
                views.

        Returns:
            [`SSLOutput`]: `loss_terms["cross_view"]`; `diagnostics` of [`collapse_diagnostics`]; `features` (2B, D),
            the encoder's output for the global views.

        Raises:
            InputError: when `pixel_values` is not two views of each image.
        """
        encoded = self.embed(pixel_values, local_pixel_values, **kwargs)
        output = self.compare(encoded, num_items_in_batch)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output

    def embed(self, pixel_values: Tensor, local_pixel_values: Tensor | None = None, **kwargs: Any) -> EncodedViews:
        """The encoders' part: `features` (B, V, D) of all views, `teacher_features` (B, 2, D) of the global ones."""
        check_views(pixel_values, 2, "DINO")
        pooling = self.config.pooling
        encoded = encode_multi_crop(self.encoder, pixel_values, local_pixel_values, pooling, **kwargs)
        with torch.no_grad():
            # in fp32 also where the student is not
            encoded.teacher_features = encode_views(self.teacher["encoder"], pixel_values.float(), pooling)["features"]
        return encoded

    def compare(self, encoded: EncodedViews, num_items_in_batch: dict[str, Tensor] | None = None) -> SSLOutput:
        """The loss from what [`embed`] gave; what the teacher makes of its views waits for the centre."""
        assert encoded.features is not None
        student, teacher = self.projection_head, self.teacher["projection_head"]
        z = student.bottleneck(encoded.features)  # (B, V, E)
        with torch.no_grad():
            z_teacher = teacher.bottleneck(encoded.teacher_features)  # (B, 2, E)
        weights = z.new_full((len(z),), 1 / len(z))
        distilled = self.distil(z, z_teacher, self.sharpen, weights, observed=z_teacher)
        pairs = other_views(z_teacher.shape[1], z.shape[1], z.device)  # (2, V)
        num_predictions = self.count_predictions({"pixel_values": z})
        divisor = (num_items_in_batch or num_predictions)["cross_view"]
        loss = (distilled.cross_entropy * pairs).sum() / divisor
        return SSLOutput(
            loss=loss,
            loss_terms={"cross_view": loss.detach()},
            num_predictions=num_predictions,
            diagnostics=collapse_diagnostics(distilled, weights, pairs),
            features=encoded.features[:, :2].flatten(0, 1).detach(),
        )

    def distil(
        self, z: Tensor, z_teacher: Tensor, sharpen: CentredSoftmax, weights: Tensor, observed: Tensor
    ) -> Distillation:
        """[`distil`] with both heads' prototypes; the centre sees the mean of the teacher's `observed` (B, ..., E)."""
        prototypes, teacher_prototypes = self.projection_head.prototypes, self.teacher["projection_head"].prototypes
        if self.training:
            # The last layer is linear, so the mean of its outputs is its output for the mean.
            mean = observed.flatten(0, -2).mean(dim=0)
            with torch.autocast(mean.device.type, enabled=False):
                sharpen.observe(teacher_prototypes @ mean, num_rows=len(observed))
        temperature = self.config.student_temperature
        return distil(
            z, z_teacher, prototypes, teacher_prototypes, temperature=temperature, sharpen=sharpen, weights=weights
        )

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many images there are: the loss is a mean over them, and each has its term by itself."""
        images = batch["pixel_values"]
        return {"cross_view": images.new_full((), len(images), dtype=torch.long)}

    @property
    def exported_encoder(self) -> PreTrainedModel:
        """The teacher's."""
        return self.teacher["encoder"]

    def before_optimizer_step(self, progress: float) -> None:
        """The prototypes stay as they are at first.

        Args:
            progress (`float`): share of the training that is done, in [0, 1].
        """
        if progress < self.config.freeze_last_layer_share:
            for parameter in self.projection_head.last_layer.parameters():
                parameter.grad = None

    def after_optimizer_step(self, progress: float) -> None:
        """Move the teacher towards the student, the centre towards the teacher's outputs, and set τ_t.

        Args:
            progress (`float`): share of the training that is done, in [0, 1].
        """
        follow(self.teacher, self.student, cosine_decay(progress, self.config.ema_decay), copy_buffers=False)
        self.sharpen.commit(progress)
