"""What the objectives have in common that compare two views of each image over a batch."""

# B images of this process, C x H x W pixels

from typing import Any

from torch import Tensor
from transformers.utils.generic import can_return_tuple

from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, check_views, encode_each_view


class TwoViewPreTrainedModel(SSLPreTrainedModel):
    """Base of the objectives whose loss is over two views of each image of a batch.

    An objective writes [`compare`], where its equation stands; `title` is its name in messages.
    """

    main_input_name = "pixel_values"
    title: str

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of pairs of views: [`embed`], then [`compare`].

        Args:
            pixel_values (`Tensor` of shape `(B, 2, C, H, W)`): two views of each image, normalised as the encoder
                expects.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): not used: the loss is defined over a batch, not over
                predictions.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`] as [`compare`] says.

        Raises:
            InputError: when `pixel_values` is not two views of each image.
        """
        encoded = self.embed(pixel_values, **kwargs)
        output = self.compare(encoded)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> EncodedViews:
        """The encoder's part, which knows each image by itself: `features` (B, 2, D) of both views.

        Each view passes by itself, so that batch normalisation sees one view at a time.
        """
        check_views(pixel_values, 2, self.title)
        return encode_each_view(self.encoder, pixel_values, self.config.pooling, **kwargs)

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave."""
        raise NotImplementedError
