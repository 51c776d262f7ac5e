"""MoCo: a query should know its key among the keys of many past steps."""

# B images of this process, N images of all processes, V views that are queries, C x H x W pixels, D hidden size,
# P projection size, K queue size

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling.blocks.checks import check_temperatures
from hf_ssl.modeling.blocks.contrastive import info_nce
from hf_ssl.modeling.blocks.gather import gather_with_gradient, num_processes, process_rank
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.queue import MemoryQueue
from hf_ssl.modeling.blocks.similarity import direction_spread
from hf_ssl.modeling.blocks.student_teacher import MomentumEncoderPreTrainedModel
from hf_ssl.modeling.blocks.teacher import follow, make_teacher
from hf_ssl.modeling.blocks.views import EncodedViews, check_views, encode_each_view, ready_image_encoder

KEY_BATCH_NORMS = ("shuffle", "joint")


@strict
class MoCoConfig(PooledImageConfig):
    """Configuration of MoCo; the defaults are those of v1 for ImageNet, the recipe `moco_v2_imagenet` has v2's.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        num_projection_layers (`int`): linear layers of the projection head, at least 1: 1 in v1, 2 in v2. There is no
            batch norm between them.
        projection_hidden_size (`int`, *optional*): of its hidden layers; by default the encoder's hidden size, as in
            v2.
        projection_size (`int`): P, of its output.
        temperature (`float`): τ > 0 of the softmax over cosines: .07 in v1, .2 in v2.
        momentum (`float`): m in [0, 1), by which the key encoder keeps its weights at each step.
        queue_size (`int`): K, how many keys of past steps are negatives, at least 1.
        key_batch_norm (`str`): how batch norms are kept from telling which query and key share a process:
            `"shuffle"`, keys are normalised on another process than their queries (section 3.3), or `"joint"`, all
            statistics are of the images of all processes.
        symmetric (`bool`): each view is a query for the other's key; the authors' demonstration on CIFAR-10 has that
            as an option.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "moco"

    num_projection_layers: int = 1
    projection_hidden_size: int | None = None
    projection_size: int = 128
    temperature: float | int = 0.07
    momentum: float | int = 0.999
    queue_size: int = 65_536
    key_batch_norm: str = "shuffle"
    symmetric: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.key_batch_norm not in KEY_BATCH_NORMS:
            raise unknown_name("key_batch_norm", self.key_batch_norm, KEY_BATCH_NORMS)
        check_temperatures(self, "temperature")
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"The momentum is {self.momentum}; give a share in [0, 1): at 1 the key encoder never learns."
            )
        if self.num_projection_layers < 1:
            raise InputError(f"num_projection_layers is {self.num_projection_layers}; the head needs at least 1.")
        if self.projection_hidden_size is not None and self.num_projection_layers == 1:
            raise InputError("A projection head of 1 layer has no hidden layer; leave projection_hidden_size out.")

    @property
    def projection_sizes(self) -> list[int]:
        """Dimensions of the projection head from input to output."""
        return self.perceptron_sizes(self.num_projection_layers, self.projection_hidden_size, self.projection_size)


class MoCoForPreTraining(MomentumEncoderPreTrainedModel):
    """Momentum contrast (He et al. 2019, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297).

    `l = -log( exp(q·k₊ / τ) / (exp(q·k₊ / τ) + Σ_k exp(q·k / τ)) )` (Eq. 1): the query q is what encoder and head make
    of one view, its key k₊ what the key encoder and its head make of the other, both of length 1, and k runs over a
    queue of the last K keys. The key encoder follows the query encoder, `θ_k ← m θ_k + (1 − m) θ_q` (Eq. 2), and
    takes no gradient.

    * The key encoder moves after the optimiser step; in the authors' code, before the next keys are made. In between
      nothing changes, and in the very first step both have the same weights, so the keys are the same.
    * The queue takes the keys of a step in after that step, those of all processes (Algorithm 1).
    * The key encoder's batch norms use their own batch's statistics in training, and keep running means of their own.
    * "Shuffling BN": the keys' images are dealt to the processes in another order, the keys are put back in order. The
      order comes from a number that is drawn for each image, and is the same on all processes. On one process it
      would change nothing.
    * A symmetric loss is the mean of both directions, in the authors' demonstration their sum; as there, one queue
      takes the keys of both views. solo-learn's "MoCo V2+" has a queue for each.

    Reference: facebookresearch/moco, `moco/builder.py`. Deviations: there the weight decay is of all parameters, here
    of matrices only, as everywhere in this package; the linear layers of the head start from N(0, 0.02²), as
    transformers has it; K need not be a multiple of the batch.
    """

    config: MoCoConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["teacher", "rows"]

    def __init__(self, config: MoCoConfig) -> None:
        super().__init__(config)
        joint = config.key_batch_norm == "joint"
        ready_image_encoder(self.encoder, "MoCo", config.pooling, joint_batch_norm=joint)
        self.projection_head = ProjectionHead(config.projection_sizes, batch_norm=False)
        self.queue = MemoryQueue(config.queue_size, config.projection_size)
        self.teacher = make_teacher(self.student)
        self.post_init()
        self.synchronise_teacher()  # the head has its weights only now
        self.train()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MemoryQueue):
            module.empty()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        key_order: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of pairs of views.

        Args:
            pixel_values (`Tensor` of shape `(B, 2, C, H, W)`): two views of each image, normalised as the encoder
                expects: of the first the queries are made, of the second the keys.
            key_order (`Tensor` of shape `(B,)`, *optional*): see [`draw_inputs`]; only several processes that shuffle
                need it.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): not used: the loss is defined over a batch, not over
                predictions.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms["info_nce"]`; `logits` (V B, 1 + K) and `targets` (V B,) of telling the key
            apart; `diagnostics["key_spread"]`, the [`direction_spread`] of the keys; `features` (V B, D), the
            encoder's output.

        Raises:
            InputError: when `pixel_values` is not two views of each image.
        """
        encoded = self.embed(pixel_values, key_order=key_order, **kwargs)
        output = self.compare(encoded)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output

    def embed(self, pixel_values: Tensor, key_order: Tensor | None = None, **kwargs: Any) -> EncodedViews:
        """The encoders' part: `features` (B, V, D) of the queries, `teacher_features` (B, V, D) of their keys."""
        check_views(pixel_values, 2, "MoCo")
        num_queries = 2 if self.config.symmetric else 1
        queries, keys = pixel_values[:, :num_queries], pixel_values.flip(1)[:, :num_queries]
        encoded = encode_each_view(self.encoder, queries, self.config.pooling, **kwargs)
        encoded.teacher_features = self.encode_keys(keys, key_order)
        return encoded

    @torch.no_grad()
    def encode_keys(self, keys: Tensor, key_order: Tensor | None) -> Tensor:
        """The key encoder's output (B, V, D) for the views (B, V, C, H, W)."""
        encoder, keys = self.teacher["encoder"], keys.float()
        if self.config.key_batch_norm == "joint" or num_processes() == 1:
            return encode_each_view(encoder, keys, self.config.pooling)["features"]
        assert key_order is not None
        permutation = gather_with_gradient(key_order).argsort()  # (N,): the same on all processes
        dealt = permutation.chunk(num_processes())[process_rank()]  # (B,): the images that are this process's turn
        encoded = encode_each_view(encoder, gather_with_gradient(keys)[dealt], self.config.pooling)["features"]
        in_order = gather_with_gradient(encoded)[permutation.argsort()]  # (N, V, D)
        return in_order.chunk(num_processes())[process_rank()]

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave; its keys wait for the queue."""
        assert encoded.features is not None
        assert encoded.teacher_features is not None
        h = encoded.features.transpose(0, 1).flatten(0, 1)  # (V B, D): first views of all images, then second
        q = self.projection_head(h)  # (V B, P)
        with torch.no_grad():
            k = self.teacher["projection_head"](encoded.teacher_features.transpose(0, 1).flatten(0, 1))
        loss, logits, targets = info_nce(q, k, self.queue.rows, self.config.temperature)
        if self.training:
            self.queue.push(nn.functional.normalize(k.float(), dim=1))
        return SSLOutput(
            loss=loss,
            loss_terms={"info_nce": loss.detach()},
            num_predictions={},
            logits=logits.detach(),
            targets=targets,
            diagnostics={"key_spread": direction_spread(k)},
            features=h.detach(),
        )

    def after_optimizer_step(self, progress: float) -> None:
        """The key encoder follows the query encoder; the queue takes the keys of this step in."""
        follow(self.teacher, self.student, self.config.momentum, copy_buffers=False)
        self.queue.commit()

    @staticmethod
    def draw_inputs(
        config: MoCoConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draw the number by which the images are ordered anew for the key encoder.

        Args:
            config ([`MoCoConfig`]): the objective's config.
            batch (`dict[str, Tensor]`): `pixel_values` (B, 2, C, H, W).
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `key_order` (B,), uniform in [0, 1), fp64, where keys are shuffled.
        """
        if config.key_batch_norm == "joint":
            return batch
        numbers = [torch.rand((), generator=generator, dtype=torch.float64) for generator in generators]
        return {**batch, "key_order": torch.stack(numbers)}
