"""iGPT: an image is a sequence of colours, and each is predicted from those before it."""

# B images, S x S pixels, T = S² pixels in raster order, C colours of the palette, D hidden size

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, ImageGPTConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pretrained import SSLConfig, SSLPreTrainedModel


@strict
class IGPTConfig(SSLConfig):
    """Configuration of iGPT; the default encoder is the paper's iGPT-S.

    The objective has no values of its own: the palette's size and the image's are those of the encoder.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): an `imagegpt`, whose `vocab_size` is C + 1 (the last
            token stands for the start of a sequence) and whose `n_positions` is T. The default has no dropout, unlike
            transformers'.

    Raises:
        InputError: for another encoder.
    """

    model_type = "igpt"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="imagegpt")}

    def __post_init__(self, **kwargs: Any) -> None:
        if self.encoder_config is None:
            self.encoder_config = ImageGPTConfig(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        super().__post_init__(**kwargs)
        assert isinstance(self.encoder_config, PreTrainedConfig)
        if self.encoder_config.model_type != "imagegpt":
            raise InputError(
                f"The encoder '{self.encoder_config.model_type}' reads no colours in raster order; iGPT needs an "
                "'imagegpt'."
            )


class IGPTForPreTraining(SSLPreTrainedModel):
    """Generative pretraining from pixels (Chen et al. 2020, ICML): the autoregressive objective.

    `L = E_x[ −log p(x) ]`, `p(x) = Π_i p(x_i | x_1 … x_{i−1})` (section 2.1): x_i is pixel i in raster order, one of
    the C colours of a palette, and the Transformer of GPT-2 reads `sos, x_1 … x_{T−1}`. The loss is the mean over all
    pixels of all images, in nats.

    Which colours these are is known to the image processor alone, as a text model's words are to its tokenizer:
    [`hf_ssl.data.colours`] turns pixels into tokens, with the palette that is saved beside each checkpoint and
    exported beside the encoder (`clusters` of transformers' `ImageGPTImageProcessor`).

    Reference: openai/image-gpt, `src/model.py`, commit c6af2eb. As there, the output layer is not tied to the
    embeddings and starts at zero (section 3.3), so that the first loss is ln C. On the same weights, logits and loss
    are those of transformers' `ImageGPTForCausalImageModeling`, which is given `sos` too. Deviations:

    * The encoder starts as transformers' ImageGPT does; the authors' positions start from N(0, 0.01²), its from
      N(0, 0.02²), and their attention projections have a spread that depends on D.
    * The paper's other objective, masked pixels ("BERT"), is not here.
    """

    config: IGPTConfig
    main_input_name = "input_ids"

    def __init__(self, config: IGPTConfig) -> None:
        super().__init__(config)
        encoder = self.encoder.config
        self.lm_head = nn.Linear(encoder.hidden_size, encoder.vocab_size - 1, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.lm_head:
            init.zeros_(module.weight)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images.

        Args:
            input_ids (`Tensor` of shape `(B, T)`): the number of each pixel's colour in 0 … C − 1, row after row.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `pixels` (nats); `logits` (B T, C) and `targets` (B T,); `features` (B, D), the
            mean over the pixels of the encoder's output.

        Raises:
            InputError: for images of another size than the encoder's.
        """
        num_pixels = self.encoder.config.n_positions
        if input_ids.shape[1] != num_pixels:
            raise InputError(
                f"input_ids has {input_ids.shape[1]} pixels an image but the encoder has n_positions={num_pixels}; "
                "give it images of that many (in a run, data.image_size squared)."
            )
        start = self.encoder.config.vocab_size - 1
        shifted = F.pad(input_ids[:, :-1], (1, 0), value=start)  # (B, T): sos, x_1 … x_{T-1}
        encoded = self.encoder(input_ids=shifted, use_cache=False, **kwargs)
        hidden = encoded.last_hidden_state  # (B, T, D)
        logits = self.lm_head(hidden).flatten(0, 1).float()  # (B T, C)
        targets = input_ids.flatten()

        total = F.cross_entropy(logits, targets, reduction="sum")
        num_predictions = self.count_predictions({"input_ids": input_ids})
        loss = total / (num_items_in_batch or num_predictions)["pixels"]
        return SSLOutput(
            loss=loss,
            loss_terms={"pixels": loss.detach()},
            num_predictions=num_predictions,
            logits=logits.detach(),
            targets=targets,
            features=hidden.detach().mean(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many pixels there are."""
        return {"pixels": batch["input_ids"].new_full((), batch["input_ids"].numel())}
