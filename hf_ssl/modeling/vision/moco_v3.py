"""MoCo v3: momentum contrast within a large batch, for Vision Transformers."""

# B images of this process, N images of all processes, C x H x W pixels, D hidden size, P projection size

from typing import Any, Self

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_temperatures
from hf_ssl.modeling.blocks.contrastive import info_nce_in_batch
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.similarity import direction_spread
from hf_ssl.modeling.blocks.student_teacher import MomentumEncoderPreTrainedModel
from hf_ssl.modeling.blocks.teacher import cosine_decay, follow, make_teacher
from hf_ssl.modeling.blocks.two_views import TwoViewPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, check_views, encode_each_view, ready_image_encoder


@strict
class MoCoV3Config(PooledImageConfig):
    """Configuration of MoCo v3; the defaults are the authors' for ViT-B on ImageNet.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any transformers image encoder whose last layer is a
            feature map or a sequence; by default ViT-B/16. A ViT-MAE's masking is switched off.
        pooling (`str`): how the encoder's last layer becomes one vector: `"cls"`, the class token, or `"mean"` over
            all positions.
        num_projection_layers (`int`): linear layers of the projection head, at least 1: 3 for ViT, 2 for ResNet.
        num_prediction_layers (`int`): of the prediction head, at least 1.
        mlp_hidden_size (`int`): of the hidden layers of both heads.
        projection_size (`int`): P, of the output of both.
        temperature (`float`): τ > 0 of the softmax over cosines: .2 for ViT, 1 for ResNet.
        momentum (`float`): m in [0, 1] at the beginning, by which the momentum encoder keeps its weights at each step;
            it rises to 1 as half a cosine.
        freeze_patch_embedding (`bool`): the patches' projection stays as it was drawn, which keeps a ViT's training
            stable (section 4.2); only for encoders that have one.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "moco_v3"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="vit")}

    pooling: str = "cls"
    num_projection_layers: int = 3
    num_prediction_layers: int = 2
    mlp_hidden_size: int = 4096
    projection_size: int = 256
    temperature: float | int = 0.2
    momentum: float | int = 0.99
    freeze_patch_embedding: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_temperatures(self, "temperature")
        if not 0 <= self.momentum <= 1:
            raise InputError(f"The momentum is {self.momentum}; give a share in [0, 1], such as 0.99.")
        for name in ("num_projection_layers", "num_prediction_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; the head needs at least 1.")

    @property
    def projection_sizes(self) -> list[int]:
        """Dimensions of the projection head from input to output."""
        return self.perceptron_sizes(self.num_projection_layers, self.mlp_hidden_size, self.projection_size)

    @property
    def prediction_sizes(self) -> list[int]:
        """Dimensions of the prediction head from input to output."""
        hidden = [self.mlp_hidden_size] * (self.num_prediction_layers - 1)
        return [self.projection_size, *hidden, self.projection_size]


class MoCoV3ForPreTraining(MomentumEncoderPreTrainedModel, TwoViewPreTrainedModel):
    """An empirical study of training self-supervised Vision Transformers (Chen et al. 2021, arXiv:2104.02057).

    `loss = ctr(q_1, k_2) + ctr(q_2, k_1)`, `ctr(q, k)_i = −2τ log( exp(q_i·k_i / τ) / Σ_j exp(q_i·k_j / τ) )`
    (Algorithm 1): q_v is what encoder, projection head and prediction head make of view v, k_v what the momentum
    encoder and its projection head do, all of length 1; j runs over the images of all processes. The momentum encoder
    follows encoder and projection head and takes no gradient; its momentum rises to 1 as half a cosine.

    * There is no queue: the keys of a large batch are negatives enough.
    * Both heads have a batch norm after each linear layer, the last one without scale and shift (section 3); its
      statistics are of one view of the images of all processes. The momentum encoder's are of its own batch.
    * The patches' projection of a ViT is not trained.
    * The momentum encoder moves after the optimiser step; in the authors' code, before the next keys are made, which
      are the same.

    Reference: facebookresearch/moco-v3, `moco/builder.py`, commit c349e6e. Deviations: the positions of transformers'
    ViT are learned, the authors' are fixed sines and cosines; encoder and heads start as transformers has them, there
    from Xavier's distribution; for ResNet the authors' code ends the prediction head without the batch norm that the
    paper gives it, which here it has in any case.
    """

    config: MoCoV3Config
    title = "MoCo v3"
    _keep_in_fp32_modules_strict = ["teacher"]

    def __init__(self, config: MoCoV3Config) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, self.title, config.pooling)
        self.projection_head = ProjectionHead(config.projection_sizes, last_batch_norm="plain")
        self.prediction_head = ProjectionHead(config.prediction_sizes, last_batch_norm="plain")
        self.teacher = make_teacher(self.student)
        self.post_init()
        self.synchronise_teacher()  # the head has its weights only now
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Frozen patches take no gradient either."""
        super().train(mode)
        if self.config.freeze_patch_embedding:
            patch_embedding(self.encoder).requires_grad_(False)
        return self

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> EncodedViews:
        """The encoders' part: `features` and `teacher_features`, (B, 2, D) each."""
        check_views(pixel_values, 2, self.title)
        encoded = encode_each_view(self.encoder, pixel_values, self.config.pooling, **kwargs)
        with torch.no_grad():
            teacher = encode_each_view(self.teacher["encoder"], pixel_values.float(), self.config.pooling)
        encoded.teacher_features = teacher.features
        return encoded

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave.

        Returns:
            [`SSLOutput`]: `loss_terms["contrastive"]`, the sum of both directions; `logits` (2B, N) and `targets`
            (2B,) of telling the key apart; `diagnostics["key_spread"]`, the [`direction_spread`] of the keys;
            `features` (2B, D), the encoder's output.
        """
        assert encoded.features is not None
        assert encoded.teacher_features is not None
        z = self.projection_head.each_view(encoded.features.transpose(0, 1))  # (2, B, P)
        q_1, q_2 = self.prediction_head.each_view(z)
        with torch.no_grad():
            k_1, k_2 = self.teacher["projection_head"].each_view(encoded.teacher_features.transpose(0, 1))
        tau = self.config.temperature
        first, second = info_nce_in_batch(q_1, k_2, tau), info_nce_in_batch(q_2, k_1, tau)
        loss = 2 * tau * (first[0] + second[0])
        return SSLOutput(
            loss=loss,
            loss_terms={"contrastive": loss.detach()},
            num_predictions={},
            logits=torch.cat([first[1], second[1]]).detach(),
            targets=torch.cat([first[2], second[2]]),
            diagnostics={"key_spread": direction_spread(torch.cat([k_1, k_2]))},
            features=encoded.features.detach().transpose(0, 1).flatten(0, 1),
        )

    def after_optimizer_step(self, progress: float) -> None:
        """The momentum encoder follows the encoder, the less the further the training is."""
        decay = cosine_decay(progress, self.config.momentum)
        follow(self.teacher, self.student, decay, copy_buffers=False)


def patch_embedding(encoder: PreTrainedModel) -> nn.Module:
    """The layer that makes a token of each patch.

    Raises:
        InputError: for an encoder that has none.
    """
    try:
        return encoder.get_input_embeddings()
    except NotImplementedError as error:
        raise InputError(
            f"The encoder '{encoder.config.model_type}' has no patch embedding to freeze; set "
            "freeze_patch_embedding=false."
        ) from error
