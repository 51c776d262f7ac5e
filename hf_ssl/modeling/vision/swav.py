"""SwAV: the cluster of one view of an image is predicted from its other views."""

# B images of this process, V views of each, of which 2 are global, K prototypes, D hidden size, P projection size

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_temperatures
from hf_ssl.modeling.blocks.codebook import code_perplexity
from hf_ssl.modeling.blocks.gather import num_processes, process_rank
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.queue import MemoryQueue
from hf_ssl.modeling.blocks.sinkhorn import sinkhorn
from hf_ssl.modeling.blocks.views import EncodedViews, check_views, encode_multi_crop, ready_image_encoder

NUM_GLOBAL = 2
"""Views that have codes, in the paper and here."""


@strict
class SwAVConfig(PooledImageConfig):
    """Configuration of SwAV; the defaults are the paper's for ImageNet, shares those of 100 epochs.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        projection_hidden_size (`int`): of the projection head's hidden layer.
        projection_size (`int`): P, of its output.
        num_prototypes (`int`): K.
        temperature (`float`): τ > 0 of the softmax over prototypes that predicts a code.
        epsilon (`float`): ε > 0 of the codes: the smaller, the sharper. Where the loss stays at ln K, the authors
            advise .03.
        sinkhorn_iterations (`int`): at least 1.
        queue_size (`int`): past images that are assigned to prototypes together with the batch; 0 for no queue. The
            authors have 3840 for batches of 256 images, and none for 4096.
        queue_start_share (`float`): share of the training, in [0, 1], after which the queue is used, once it is full;
            the authors' is 15 of 200 epochs.
        freeze_prototypes_share (`float`): share of the training, in [0, 1], for which the prototypes stay as they
            are; the authors' is 1 epoch.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "swav"

    projection_hidden_size: int = 2048
    projection_size: int = 128
    num_prototypes: int = 3000
    temperature: float | int = 0.1
    epsilon: float | int = 0.05
    sinkhorn_iterations: int = 3
    queue_size: int = 0
    queue_start_share: float | int = 0.075
    freeze_prototypes_share: float | int = 0.01

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_temperatures(self, "temperature", "epsilon")
        for name, least in (("num_prototypes", 2), ("sinkhorn_iterations", 1), ("queue_size", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}.")
        for name in ("queue_start_share", "freeze_prototypes_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a share of the training, in [0, 1].")


class SwAVForPreTraining(SSLPreTrainedModel):
    """Unsupervised learning of visual features by contrasting cluster assignments (Caron et al. 2020, 2006.09882).

    `L(z_t, z_s) = ℓ(z_t, q_s) + ℓ(z_s, q_t)` (Eq. 1), `ℓ(z, q) = -Σ_k q_k log softmax_k(zᵀ c_k / τ)` (Eq. 2): z is the
    normalised projection of a view, c_k the prototypes, and the code q of a view is its soft assignment to them such
    that the batch uses all of them equally (Eq. 3 to 5; [`sinkhorn`]). With local views (multi-crop), the code of
    each of the 2 global views is predicted from all the other views; the loss is the mean over these 2 (V - 1) pairs.

    * Codes are those of all processes' images together, and of a queue of past ones; no gradient flows through them.
    * Prototypes are unit vectors: normalised in the forward pass, and brought back to length 1 after each step.
    * Batch statistics are those of all processes; all views pass the projection head as one batch.

    Deviations from the authors' code (facebookresearch/swav, commit 06b1b7c): the gradient of the prototypes is that
    of their directions, where theirs has a radial part that the normalisation after the step takes away; the queue
    fills from the first step on and is used from `queue_start_share` on, theirs starts to fill there; the hidden layer
    of the head has no bias, which its batch norm would undo; the head's linear layers start as transformers has it.
    """

    config: SwAVConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["rows", "uses_queue"]

    uses_queue: Tensor

    def __init__(self, config: SwAVConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, "SwAV", config.pooling)
        hidden_size = hidden_size_of(self.encoder.config)
        self.projection_head = ProjectionHead([hidden_size, config.projection_hidden_size, config.projection_size])
        self.prototypes = nn.Linear(config.projection_size, config.num_prototypes, bias=False)
        num_queues = NUM_GLOBAL if config.queue_size else 0
        self.queues = nn.ModuleList(MemoryQueue(config.queue_size, config.projection_size) for _ in range(num_queues))
        self.register_buffer("uses_queue", torch.zeros(()))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MemoryQueue):
            module.empty()
        if module is self:
            init.zeros_(self.uses_queue)

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
            pixel_values (`Tensor` of shape `(B, 2, C, S, S)`): two global views of each image, normalised as the
                encoder expects.
            local_pixel_values (`Tensor` of shape `(B, V - 2, C, s, s)`, *optional*): local views.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): not used: the loss is defined over a batch, not over
                predictions.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms["swapped_prediction"]`; `logits` (2B, K), the scores of the global views over τ,
            and `targets` (2B,), the prototype that the other global view's code prefers; `features` (V B, D), the
            encoder's; `diagnostics`: `prototypes_used`, how many the codes prefer (at most 2B), and
            `prototypes_an_image`, how many share the code of one image (K when all images have become one).

        Raises:
            InputError: when `pixel_values` is not two views of each image.
        """
        encoded = self.embed(pixel_values, local_pixel_values, **kwargs)
        output = self.compare(encoded)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output

    def embed(self, pixel_values: Tensor, local_pixel_values: Tensor | None = None, **kwargs: Any) -> EncodedViews:
        """The encoder's part, which knows each image by itself: `features` (B, V, D)."""
        check_views(pixel_values, NUM_GLOBAL, "SwAV")
        return encode_multi_crop(self.encoder, pixel_values, local_pixel_values, self.config.pooling, **kwargs)

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave."""
        assert encoded.features is not None
        features = encoded.features.transpose(0, 1)  # (V, B, D)
        projections = self.projection_head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        with torch.autocast(features.device.type, enabled=False):
            z = F.normalize(projections.float(), dim=2)  # (V, B, P)
            prototypes = F.normalize(self.prototypes.weight.float(), dim=1)  # (K, P)
            scores = z @ prototypes.T  # (V, B, K)
            codes = self.codes(z[:NUM_GLOBAL], scores[:NUM_GLOBAL], prototypes)  # (2, B, K)
            loss = swapped_prediction(scores / self.config.temperature, codes)
        targets = codes.argmax(dim=2).flip(0).flatten()
        return SSLOutput(
            loss=loss,
            loss_terms={"swapped_prediction": loss.detach()},
            num_predictions={},
            logits=(scores[:NUM_GLOBAL] / self.config.temperature).flatten(0, 1).detach(),
            targets=targets,
            diagnostics={
                "prototypes_used": code_perplexity(targets, self.config.num_prototypes),
                "prototypes_an_image": torch.special.entr(codes).sum(dim=2).mean().exp(),
            },
            features=features.flatten(0, 1).detach(),
        )

    @torch.no_grad()
    def codes(self, z: Tensor, scores: Tensor, prototypes: Tensor) -> Tensor:
        """The code q of each global view, for which the batch and, once it is used, the queue use all prototypes
        equally.

        Args:
            z (`Tensor` of shape `(2, B, P)`): normalised projections; in training they enter the queue.
            scores (`Tensor` of shape `(2, B, K)`): their cosines with the prototypes.
            prototypes (`Tensor` of shape `(K, P)`): unit vectors.

        Returns:
            `Tensor` of shape `(2, B, K)`: rows sum to 1.
        """
        settings = (self.config.epsilon, self.config.sinkhorn_iterations)
        if not self.queues:
            return torch.stack([sinkhorn(of_view, *settings) for of_view in scores])
        codes = []
        for queue, of_view, rows in zip(self.queues, scores, z, strict=True):
            assert isinstance(queue, MemoryQueue)
            past = queue.rows.tensor_split(num_processes())[
                process_rank()
            ]  # each process has all rows: count one once
            counts = self.uses_queue * (queue.num_filled == len(queue.rows))
            weights = torch.cat([counts.expand(len(past)), torch.ones_like(of_view[:, 0])])
            codes.append(sinkhorn(torch.cat([past @ prototypes.T, of_view]), *settings, weights)[len(past) :])
            if self.training:
                queue.push(rows)
        return torch.stack(codes)

    def before_optimizer_step(self, progress: float) -> None:
        """Leave the prototypes as they are for the first share of the training (the authors' code)."""
        if progress < self.config.freeze_prototypes_share:
            self.prototypes.weight.grad = None

    @torch.no_grad()
    def after_optimizer_step(self, progress: float) -> None:
        """Bring the prototypes back to unit length, and take the step's projections into the queue."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        self.uses_queue.fill_(progress >= self.config.queue_start_share)
        for queue in self.queues:
            assert isinstance(queue, MemoryQueue)
            queue.commit()


def swapped_prediction(logits: Tensor, codes: Tensor) -> Tensor:
    """The mean over all pairs of a code and another view of `-Σ_k q_k log softmax_k(logits)`, in nats.

    Args:
        logits (`Tensor` of shape `(V, B, K)`): scores of all views over the temperature.
        codes (`Tensor` of shape `(A, B, K)`): of the first A of them.
    """
    num_views, num_codes = len(logits), len(codes)
    of_others = codes.sum(dim=0).repeat(num_views, 1, 1)  # what each view predicts: the sum of all codes but its own
    of_others[:num_codes] -= codes
    mean = F.cross_entropy(logits.flatten(0, 1), of_others.flatten(0, 1))  # over views and images
    return mean * num_views / (num_codes * (num_views - 1))
