"""RotNet: tell by which angle an image was rotated."""

# B images, R rotations of each, C x S x S pixels, D hidden size

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import check_squares, encode_views, ready_image_encoder

QUARTER = 90


@strict
class RotationConfig(PooledImageConfig):
    """Configuration of RotNet; the defaults are the paper's.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        rotations (`list[int]`): the classes, in degrees anticlockwise: different multiples of 90 from 0 to 270. The
            paper compares all four with `[0, 180]` and `[90, 270]`.

    Raises:
        InputError: for other angles. The paper's eight rotations, multiples of 45 degrees, are not among them: they
            need an interpolation, whose traces tell the angle.
    """

    model_type = "rotation"

    rotations: list[int] | tuple[int, ...] = (0, 90, 180, 270)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.rotations = list(self.rotations)
        if not {0, 90, 180, 270}.issuperset(self.rotations) or len(set(self.rotations)) != len(self.rotations):
            raise InputError(
                f"rotations is {self.rotations}; give different angles of 0, 90, 180 and 270 degrees, which move "
                "pixels without interpolating."
            )
        if len(self.rotations) < 2:
            raise InputError(f"rotations is {self.rotations}; to tell angles apart there must be at least 2.")


class RotationForPreTraining(SSLPreTrainedModel):
    """Predicting image rotations (Gidaris et al. 2018, arXiv:1803.07728).

    `loss(X, θ) = −1/R Σ_y log F^y( g(X|y) | θ )` (Eq. 3), the mean over the images X: g(X|y) is X rotated by the y-th
    angle, F^y the probability that a linear layer on the pooled encoder gives to that angle. All R rotations of an
    image are in the batch together, as in the authors' code (gidariss/FeatureLearningRotNet, `dataloader.py`).

    Pixels are moved and not interpolated (`torch.rot90`), and the rotation comes last, after the crop and the flip of
    the data: a flip after a rotation by 90 degrees would make it one by 270.

    Deviation: the encoder's last layer is pooled, whatever the encoder; the authors' AlexNet has two more layers
    before its classifier.
    """

    config: RotationConfig
    main_input_name = "pixel_values"

    def __init__(self, config: RotationConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, "RotNet", config.pooling)
        self.classifier = nn.Linear(hidden_size_of(config.encoder_config), len(config.rotations))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images.

        Args:
            pixel_values (`Tensor` of shape `(B, C, S, S)`): images as they stand upright, cropped and flipped.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the images of the whole optimiser step
                ([`count_predictions`]); by default those of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms["rotation"]`, nats a prediction; `logits` (R B, R) and `targets` (R B,), the
            rotations of an image side by side; `features` (R B, D).

        Raises:
            InputError: when `pixel_values` is not one square image an item.
        """
        check_squares(pixel_values, "RotNet")
        turns = [angle // QUARTER for angle in self.config.rotations]
        rotated = torch.stack([pixel_values.rot90(turn, dims=(2, 3)) for turn in turns], dim=1)  # (B, R, C, S, S)
        encoded = encode_views(self.encoder, rotated, self.config.pooling, **kwargs)
        assert encoded.features is not None
        logits = self.classifier(encoded.features).float()  # (B, R, R)
        targets = torch.arange(len(turns), device=logits.device).expand(logits.shape[:2])

        loss_of_images = F.cross_entropy(logits.mT, targets, reduction="none").mean(dim=1)  # (B,)
        num_predictions = self.count_predictions({"pixel_values": pixel_values})
        divisors = num_items_in_batch or num_predictions
        loss = loss_of_images.sum() / divisors["rotation"]
        return SSLOutput(
            loss=loss,
            loss_terms={"rotation": loss.detach()},
            num_predictions=num_predictions,
            logits=logits.detach().flatten(0, 1),
            targets=targets.flatten(),
            features=encoded.features.detach().flatten(0, 1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The images, each with all of its R rotations: R times as many predictions, which no cut takes apart."""
        return {"rotation": torch.full((), len(batch["pixel_values"]), device=batch["pixel_values"].device)}
