"""Context prediction: tell from two patches of an image where the second lies, seen from the first."""

# B images, P = 9 patches of each, S side of an image, s side of a patch, D hidden size

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling.blocks.batch_norm import JointBatchNorm1d
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.patch_degradation import drop_colours, grayscale, pixelate, project_colours
from hf_ssl.modeling.blocks.patch_grid import (
    NUM_PATCHES,
    check_patch_sizes,
    cut_patches,
    draw_patch_corners,
    standardise,
)
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, check_squares, encode_views, ready_image_encoder

COLOURS = ("drop", "project", "gray", "keep")
CENTRE = NUM_PATCHES // 2
NUM_POSITIONS = NUM_PATCHES - 1
LEAST_PIXELATED_SIDE = 10


@strict
class ContextPredictionConfig(PooledImageConfig):
    """Configuration of context prediction; the defaults are the paper's, for images of 432 pixels.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any transformers image encoder that can read images
            of `patch_size`; by default ResNet-50.
        pooling (`str`): see [`PooledImageConfig`].
        patch_size (`int`): s, side of a patch in pixels.
        patch_jitter (`int`): how far a patch may lie from one side of its range to the other, in pixels: the paper's 7
            in each direction are 14.
        colours (`str`): what is done against chromatic aberration: `"drop"` two of three channels, `"project"` along
            the axis from green to magenta, `"gray"` for some images, or `"keep"` all, for pictures that no lens took.
        gray_probability (`float`): share of grey images, with `colours="gray"`.
        pixelation_probability (`float`): share of the patches that are reduced to 10 … s pixels a side.
        head_hidden_size (`int`): of the layer that reads a pair of patches.
        head_dropout (`float`): share of that layer's outputs that are dropped in training.

    Raises:
        InputError: for values out of range or that do not fit together.
    """

    model_type = "context-prediction"

    patch_size: int = 96
    patch_jitter: int = 14
    colours: str = "drop"
    gray_probability: float | int = 0.66
    pixelation_probability: float | int = 0.33
    head_hidden_size: int = 4096
    head_dropout: float | int = 0.5

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_patch_sizes(self.patch_size, patch_jitter=self.patch_jitter)
        if self.colours not in COLOURS:
            raise unknown_name("treatment of colours (model.colours)", self.colours, COLOURS)
        check_shares(self, "gray_probability", "pixelation_probability", "head_dropout")
        if self.pixelation_probability > 0 and self.patch_size <= LEAST_PIXELATED_SIDE:
            raise InputError(
                f"A patch of {self.patch_size} pixels cannot be reduced to {LEAST_PIXELATED_SIDE}; set "
                "model.pixelation_probability=0."
            )
        if self.head_hidden_size < 1:
            raise InputError(f"head_hidden_size is {self.head_hidden_size}; it must be at least 1.")


class ContextPredictionForPreTraining(SSLPreTrainedModel):
    """Relative places of patches (Doersch et al. 2015, arXiv:1505.05192).

    `L = −mean log p(k | f(x_centre), f(x_k))`: f is the encoder, x_centre the middle one of 3 x 3 patches and x_k one
    of its 8 neighbours, whose place k is to be told. The head reads both vectors side by side. What would give the
    place away without an understanding of the picture is taken away: edges that go on (a gap between the patches, and
    jitter), the colour fringes of the lens (`colours`), brightness and contrast (each patch is standardised), the
    sharpness of detail (pixelation).

    All 9 patches of an image go through the encoder in one pass and make 8 pairs, as in OpenMMLab's mmselfsup
    (`relative_loc`), whose head this is: linear, batch norm, ReLU, dropout, linear. The batch norm makes this a loss
    over a batch; its statistics are those of all processes.

    Deviations from the paper and its code (cdoersch/deepcontext, `train.py`):

    * There, a grid over the whole picture, as large as fits, makes pairs of all neighbours in both directions; here
      there is one grid of 3 x 3 and the centre is always the first patch.
    * The head: there, a layer on each patch (fc6), one on the pair with a batch norm (fc7), and two more.
    * Noise in dropped channels is drawn once for the nine patches of an image. It has the deviation of the paper, a
      hundredth of the kept channel's.
    * A patch is pixelated by means over blocks; there, by a linear interpolation down and up again.
    * A patch is divided by its standard deviation over all channels; there so that this is 50 of 255, here 1.
    * Channels are mixed (`"project"`, `"gray"`) as they come, normalised; where the image processor has other
      deviations for each channel, that is not quite the same as before the normalisation.
    """

    config: ContextPredictionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ContextPredictionConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, "Context prediction", config.pooling)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden_size_of(config.encoder_config), config.head_hidden_size, bias=False),
            JointBatchNorm1d(config.head_hidden_size),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_hidden_size, NUM_POSITIONS),
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        patch_corners: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images; [`draw_inputs`] says where the patches lie and what is done to them.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): images.
            patch_corners (`Tensor` of shape `(B, 9, 3, 2)`): see [`draw_patch_corners`].
            num_items_in_batch (`dict[str, Tensor]`, *optional*): not used: the loss is defined over a batch, not over
                predictions.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: the other draws, see [`embed`], and arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms["position"]`, nats a pair; `logits` (8 B, 8) and `targets` (8 B,), the pairs of
            an image side by side; `features` (9 B, D), of the patches.

        Raises:
            InputError: when `pixel_values` is not one square image an item.
        """
        encoded = self.embed(pixel_values, patch_corners, **kwargs)
        output = self.compare(encoded)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output

    def embed(
        self,
        pixel_values: Tensor,
        patch_corners: Tensor,
        gray: Tensor | None = None,
        kept_channels: Tensor | None = None,
        channel_noise: Tensor | None = None,
        pixelated_sides: Tensor | None = None,
        **kwargs: Any,
    ) -> EncodedViews:
        """f(x): cuts the patches, takes away what is too easy and encodes them, each by itself.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, S, S)`): images.
            patch_corners (`Tensor` of shape `(B, 9, 3, 2)`): see [`draw_patch_corners`].
            gray (boolean `Tensor` of shape `(B,)`, *optional*): the images that lose their colours.
            kept_channels (`Tensor` of shape `(B, 9)`, *optional*): the one channel that each patch keeps.
            channel_noise (`Tensor` of shape `(B, 3, s, s)`, *optional*): what replaces the others, from N(0, 1).
            pixelated_sides (`Tensor` of shape `(B, 9)`, *optional*): the resolution of each patch, s = its own.
            kwargs: further arguments of the encoder.

        Returns:
            [`EncodedViews`] with `features` (B, 9, D).

        Raises:
            InputError: when `pixel_values` is not one square image an item.
        """
        check_squares(pixel_values, "Context prediction")
        with torch.autocast(pixel_values.device.type, enabled=False):  # bf16 would leave pixels too few bits
            images = pixel_values if gray is None else grayscale(pixel_values, gray)
            patches = cut_patches(images, patch_corners, self.config.patch_size)  # (B, 9, 3, s, s)
            if pixelated_sides is not None:
                patches = pixelate(patches, pixelated_sides)
            if kept_channels is not None and channel_noise is not None:
                patches = drop_colours(patches, kept_channels, channel_noise)
            elif self.config.colours == "project":
                patches = project_colours(patches)
            patches = standardise(patches)
        return encode_views(self.encoder, patches, self.config.pooling, **kwargs)

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The head and the loss, over the pairs of the whole batch; see [`forward`] for what it returns."""
        f = encoded.features
        assert f is not None  # (B, 9, D)
        centre, neighbours = f[:, CENTRE, None], torch.cat([f[:, :CENTRE], f[:, CENTRE + 1 :]], dim=1)
        pairs = torch.cat([centre.expand_as(neighbours), neighbours], dim=-1).flatten(0, 1)  # (8 B, 2 D)
        logits = self.head(pairs).float()  # (8 B, 8)
        targets = torch.arange(NUM_POSITIONS, device=logits.device).repeat(len(f))
        loss = F.cross_entropy(logits, targets)
        return SSLOutput(
            loss=loss,
            loss_terms={"position": loss.detach()},
            num_predictions={},
            logits=logits.detach(),
            targets=targets,
            features=f.detach().flatten(0, 1),
        )

    @staticmethod
    def draw_inputs(
        config: ContextPredictionConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws where the patches lie and what is done to their colours and resolution.

        Args:
            config ([`ContextPredictionConfig`]): the config.
            batch (`dict[str, Tensor]`): `pixel_values` of B images, of which only the size is looked at.
            generators (`list[torch.Generator]`): one an image.

        Returns:
            `dict[str, Tensor]`: the batch with `patch_corners` and, as the config asks for them, the other arguments
                of [`embed`].

        Raises:
            InputError: when the patches do not fit into the image.
        """
        draws = [_draw_degradation(config, generator) for generator in generators]
        corners = draw_patch_corners(
            batch["pixel_values"].shape[-1],
            patch_size=config.patch_size,
            patch_jitter=config.patch_jitter,
            generators=generators,
        )
        stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
        return {**batch, "patch_corners": corners, **stacked}


def _draw_degradation(config: ContextPredictionConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """What is done to the nine patches of one image, by the names of [`ContextPredictionForPreTraining.embed`]."""
    draws = {}
    if config.colours == "gray":
        draws["gray"] = torch.rand((), generator=generator) < config.gray_probability
    if config.colours == "drop":
        draws["kept_channels"] = torch.randint(3, (NUM_PATCHES,), generator=generator)
        draws["channel_noise"] = torch.randn(3, config.patch_size, config.patch_size, generator=generator)
    if config.pixelation_probability > 0:
        # evenly over the number of pixels, as in the authors' code
        least, most = LEAST_PIXELATED_SIDE**2, config.patch_size**2
        sides = (least + (most - least) * torch.rand(NUM_PATCHES, generator=generator)).sqrt().long()
        pixelated = torch.rand(NUM_PATCHES, generator=generator) < config.pixelation_probability
        draws["pixelated_sides"] = torch.where(pixelated, sides, config.patch_size)
    return draws
