"""SimCLR: two views of one image should agree, and differ from the views of all other images."""

# B images of this process, N images of all processes, C x H x W pixels, D hidden size, P projection size

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_temperatures
from hf_ssl.modeling.blocks.contrastive import nt_xent
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.two_views import TwoViewPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, check_views, encode_views, ready_image_encoder


@strict
class SimCLRConfig(PooledImageConfig):
    """Configuration of SimCLR; the defaults are the paper's for ImageNet.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        num_projection_layers (`int`): linear layers of the projection head, at least 1.
        projection_hidden_size (`int`, *optional*): of its hidden layers; by default the encoder's hidden size, as in
            the paper.
        projection_size (`int`): P, of its output.
        projection_batch_norm (`bool`): batch normalisation after each linear layer of the head, the last included.
        temperature (`float`): τ > 0 of the softmax over cosines.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "simclr"

    num_projection_layers: int = 2
    projection_hidden_size: int | None = None
    projection_size: int = 128
    projection_batch_norm: bool = True
    temperature: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_temperatures(self, "temperature")
        if self.num_projection_layers < 1:
            raise InputError(f"num_projection_layers is {self.num_projection_layers}; the head needs at least 1.")
        if self.projection_hidden_size is not None and self.num_projection_layers == 1:
            raise InputError("A projection head of 1 layer has no hidden layer; leave projection_hidden_size out.")

    @property
    def projection_sizes(self) -> list[int]:
        """Dimensions of the projection head from input to output."""
        return self.perceptron_sizes(self.num_projection_layers, self.projection_hidden_size, self.projection_size)


class SimCLRForPreTraining(TwoViewPreTrainedModel):
    """A simple framework for contrastive learning of visual representations (Chen et al. 2020, arXiv:2002.05709).

    `l_i = -log( exp(sim(z_i, z_j) / τ) / Σ_{k ≠ i} exp(sim(z_i, z_k) / τ) )` (Eq. 1), `z = g(h)`, `h = f(x)`: f the
    encoder, g the projection head, i and j the two views of one image, k all 2N views. The loss is the mean over 2N.
    Downstream one uses h, and g is dropped.

    * Both views go through the encoder in one pass, so that batch normalisation sees them jointly; its statistics, in
      the encoder and in the head, are those of all processes ("global BN", section 2.2).
    * The negatives are the views of all processes, with gradient.
    * The head is the one of the authors' code (google-research/simclr, tf2/model.py, commit be265c2): linear layers
      without bias, a batch norm after each, the last one without shift.

    Deviations: the authors' code sums the losses of the two halves of the 2N views and so has twice the loss of the
    paper's equation, which stands here; the head's linear layers start from N(0, 0.02²) as transformers has it, the
    authors' from N(0, 0.01²), which the norms after them undo; a ResNet's blocks start as transformers has them, the
    authors' with the scale of their last batch norm at 0.
    """

    config: SimCLRConfig
    title = "SimCLR"

    def __init__(self, config: SimCLRConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, self.title, config.pooling)
        self.projection_head = ProjectionHead(
            config.projection_sizes,
            batch_norm=config.projection_batch_norm,
            last_batch_norm="scale" if config.projection_batch_norm else None,
        )
        self.post_init()

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> EncodedViews:
        """The encoder's part, which knows each image by itself: `features` (B, 2, D), h of both views."""
        check_views(pixel_values, 2, self.title)
        return encode_views(self.encoder, pixel_values, self.config.pooling, **kwargs)

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave.

        Returns:
            [`SSLOutput`]: `loss_terms["nt_xent"]`; `logits` (2B, 2N) and `targets` (2B,) of telling the positive
            apart; `features` (2B, D), the encoder's h.
        """
        assert encoded.features is not None
        h = encoded.features.transpose(0, 1).flatten(0, 1)  # (2B, D): first views of all images, then second
        z_1, z_2 = self.projection_head(h).chunk(2)  # (B, P) each
        loss, logits, targets = nt_xent(z_1, z_2, self.config.temperature)
        return SSLOutput(
            loss=loss,
            loss_terms={"nt_xent": loss.detach()},
            num_predictions={},
            logits=logits.detach(),
            targets=targets,
            features=h.detach(),
        )
