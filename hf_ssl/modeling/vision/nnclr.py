"""NNCLR: a view should be like the nearest neighbour of the other view of its image."""

# B images of this process, N images of all processes, C x H x W pixels, D hidden size, P projection size, K queue size

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_temperatures
from hf_ssl.modeling.blocks.contrastive import info_nce_in_batch
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.queue import MemoryQueue
from hf_ssl.modeling.blocks.similarity import direction_spread
from hf_ssl.modeling.blocks.two_views import TwoViewPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, ready_image_encoder


@strict
class NNCLRConfig(PooledImageConfig):
    """Configuration of NNCLR; the defaults are the paper's for ImageNet.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        num_projection_layers (`int`): linear layers of the projection head, at least 1.
        projection_hidden_size (`int`): of its hidden layers.
        projection_size (`int`): P, of its output and of the prediction head's.
        prediction_hidden_size (`int`): of the prediction head's one hidden layer.
        temperature (`float`): τ > 0 of the softmax over cosines.
        queue_size (`int`): K, how many projections of past steps the neighbour is looked for in, at least 1.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "nnclr"

    num_projection_layers: int = 3
    projection_hidden_size: int = 2048
    projection_size: int = 256
    prediction_hidden_size: int = 4096
    temperature: float | int = 0.1
    queue_size: int = 98_304

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_temperatures(self, "temperature")
        if self.num_projection_layers < 1:
            raise InputError(f"num_projection_layers is {self.num_projection_layers}; the head needs at least 1.")

    @property
    def projection_sizes(self) -> list[int]:
        """Dimensions of the projection head from input to output."""
        return self.perceptron_sizes(self.num_projection_layers, self.projection_hidden_size, self.projection_size)

    @property
    def prediction_sizes(self) -> list[int]:
        """Dimensions of the prediction head from input to output."""
        return [self.projection_size, self.prediction_hidden_size, self.projection_size]


class NNCLRForPreTraining(TwoViewPreTrainedModel):
    """With a little help from my friends: nearest-neighbour contrastive learning (Dwibedi et al. 2021,
    arXiv:2104.14548).

    `l_i = −log( exp(NN(z_i, Q)·p_i⁺ / τ) / Σ_k exp(NN(z_i, Q)·p_k⁺ / τ) )` (Eq. 3): z is the projection of one view,
    `p⁺ = g(z⁺)` what the prediction head makes of the projection of the other, NN the nearest row of the queue Q of
    past projections, all of length 1; k runs over the images of all processes. The loss is the mean of both
    directions.

    * The neighbour takes no gradient, so it flows through the predictions only.
    * The queue takes in the projections of the first view, those of all processes, after each step.
    * The projection head has a batch norm after each linear layer, the last included; the prediction head after its
      hidden layer. Their statistics, and the encoder's, are of one view of the images of all processes.

    Without an authors' code the reference is vturrisi/solo-learn, `solo/methods/nnclr.py`, commit 9187ea3, whose loss
    this is, with both views' neighbours as anchors. Deviations: the last batch norm of the projection head has a scale
    and no shift, as SimCLR's; the linear layers start from N(0, 0.02²) as transformers has it.
    """

    config: NNCLRConfig
    title = "NNCLR"
    _keep_in_fp32_modules_strict = ["rows"]

    def __init__(self, config: NNCLRConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, self.title, config.pooling)
        self.projection_head = ProjectionHead(config.projection_sizes, last_batch_norm="scale")
        self.prediction_head = ProjectionHead(config.prediction_sizes)
        self.queue = MemoryQueue(config.queue_size, config.projection_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MemoryQueue):
            module.empty()

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave; its projections wait for the queue.

        Returns:
            [`SSLOutput`]: `loss_terms["info_nce"]`; `logits` (2B, N) and `targets` (2B,) of telling apart which
            prediction belongs to a neighbour; `diagnostics` `neighbour_spread`, how far the neighbours spread
            ([`direction_spread`]), and `neighbour_similarity`, the mean cosine of projections and their neighbours;
            `features` (2B, D), the encoder's output.
        """
        assert encoded.features is not None
        z_1, z_2 = z = self.projection_head.each_view(encoded.features.transpose(0, 1))  # (2, B, P)
        p_1, p_2 = self.prediction_head.each_view(z)
        (nn_1, similarity_1), (nn_2, similarity_2) = self.nearest_neighbours(z_1), self.nearest_neighbours(z_2)
        tau = self.config.temperature
        first, second = info_nce_in_batch(nn_1, p_2, tau), info_nce_in_batch(nn_2, p_1, tau)
        loss = (first[0] + second[0]) / 2
        if self.training:
            self.queue.push(nn.functional.normalize(z_1.float(), dim=1))
        return SSLOutput(
            loss=loss,
            loss_terms={"info_nce": loss.detach()},
            num_predictions={},
            logits=torch.cat([first[1], second[1]]).detach(),
            targets=torch.cat([first[2], second[2]]),
            diagnostics={
                "neighbour_spread": direction_spread(torch.cat([nn_1, nn_2])),
                "neighbour_similarity": (similarity_1 + similarity_2).mean() / 2,
            },
            features=encoded.features.detach().transpose(0, 1).flatten(0, 1),
        )

    @torch.no_grad()
    def nearest_neighbours(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The row of the queue that is nearest to each projection: between unit vectors, of greatest cosine.

        Args:
            z (`Tensor` of shape `(B, P)`): projections, not normalised.

        Returns:
            the rows (B, P) and their cosines (B,); fp32.
        """
        with torch.autocast(z.device.type, enabled=False):
            cosines = nn.functional.normalize(z.float(), dim=1) @ self.queue.rows.T  # (B, K)
            similarity, nearest = cosines.max(dim=1)
            return self.queue.rows[nearest], similarity

    def after_optimizer_step(self, progress: float) -> None:
        """The queue takes the projections of this step in."""
        self.queue.commit()
