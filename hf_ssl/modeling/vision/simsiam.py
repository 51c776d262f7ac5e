"""SimSiam: from one view of an image, predict the projection of another, which for the moment counts as given."""

# B images of this process, C x H x W pixels, D hidden size, P projection size

from typing import Any

from huggingface_hub.dataclasses import strict

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.similarity import cosine, direction_spread
from hf_ssl.modeling.blocks.two_views import TwoViewPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, ready_image_encoder


@strict
class SimSiamConfig(PooledImageConfig):
    """Configuration of SimSiam; the defaults are the paper's for ImageNet.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        num_projection_layers (`int`): linear layers of the projector, at least 1; the paper has 2 for CIFAR-10.
        projection_hidden_size (`int`, *optional*): of its hidden layers; by default the encoder's hidden size, as in
            the authors' code.
        projection_size (`int`): P, of its output and of the predictor's.
        prediction_hidden_size (`int`): of the predictor's hidden layer, a bottleneck: a quarter of P in the paper.

    Raises:
        InputError: for values out of range.
    """

    model_type = "simsiam"

    num_projection_layers: int = 3
    projection_hidden_size: int | None = None
    projection_size: int = 2048
    prediction_hidden_size: int = 512

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_projection_layers < 1:
            raise InputError(f"num_projection_layers is {self.num_projection_layers}; the projector needs at least 1.")

    @property
    def projection_sizes(self) -> list[int]:
        """Dimensions of the projector from input to output."""
        return self.perceptron_sizes(self.num_projection_layers, self.projection_hidden_size, self.projection_size)


class SimSiamForPreTraining(TwoViewPreTrainedModel):
    """Simple Siamese representations (Chen & He 2020, arXiv:2011.10566).

    `L = ½ D(p_1, stopgrad(z_2)) + ½ D(p_2, stopgrad(z_1))` (Eq. 4), `D(p, z) = −cos(p, z)` (Eq. 1), `z = f(x)`,
    `p = h(z)`: f the encoder with its projector, h the predictor, x_1 and x_2 two views of one image. The loss is the
    mean over the images and lies in [−1, 1]. Downstream one uses the encoder without its projector.

    * Without the stopped gradient, or without the predictor, everything collapses to one direction.
      `projection_spread` tells: it is near 1 while the projections are spread, and 0 when they are not (section 4.1).
    * The predictor's learning rate does not decay (`constant_learning_rate`; the last row of the paper's Table 1).
    * Each view passes by itself, so that batch normalisation sees one view at a time; its statistics are those of all
      processes.
    * The projector has a batch norm on its output, without scale and shift. The authors freeze the bias before it,
      which that norm takes away again; here there is none.

    Deviations from the authors' code (facebookresearch/simsiam, commit a7bc177): linear layers start from N(0, 0.02²)
    instead of PyTorch's uniform distribution, which the norms and the cosine undo except in the bias of the
    predictor's last layer, which starts at 0; a ResNet's blocks start as transformers has them, the authors' with the
    scale of their last batch norm at 0.
    """

    config: SimSiamConfig
    title = "SimSiam"
    constant_learning_rate = ("prediction_head",)

    def __init__(self, config: SimSiamConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, self.title, config.pooling)
        self.projection_head = ProjectionHead(config.projection_sizes, last_batch_norm="plain")
        self.prediction_head = ProjectionHead(
            [config.projection_size, config.prediction_hidden_size, config.projection_size]
        )
        self.post_init()

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave.

        Returns:
            [`SSLOutput`]: `loss_terms["similarity"]`, from 1 down to −1; `diagnostics["projection_spread"]`, see
            [`direction_spread`]; `features` (2B, D), the encoder's output.
        """
        assert encoded.features is not None
        z_1, z_2 = z = self.projection_head.each_view(encoded.features.transpose(0, 1))  # (2, B, P)
        p_1, p_2 = self.prediction_head.each_view(z)
        loss = -(cosine(p_1, z_2.detach()).mean() + cosine(p_2, z_1.detach()).mean()) / 2
        return SSLOutput(
            loss=loss,
            loss_terms={"similarity": loss.detach()},
            num_predictions={},
            diagnostics={"projection_spread": direction_spread(z_1)},
            features=encoded.features.detach().transpose(0, 1).flatten(0, 1),
        )
