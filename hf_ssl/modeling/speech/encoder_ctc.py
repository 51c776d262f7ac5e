"""Recognition with an encoder that transformers has no CTC model of: data2vec 2.0, Parakeet's Conformer, ..."""

# B recordings, L inputs (samples or mel frames), T frames, V units

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import can_return_tuple

from hf_ssl.modeling.blocks.front_end import frames_of_inputs


@strict
class EncoderForCTCConfig(PreTrainedConfig):
    """Configuration of [`EncoderForCTC`]; its fields are named as in transformers' CTC models.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`): of an encoder of waveforms of the wav2vec 2.0 family's kind, or
            of log-mel frames.
        vocab_size (`int`): V, the blank included.
        pad_token_id (`int`): the blank.
        ctc_loss_reduction (`str`): `"sum"` over the recordings, or `"mean"`.
        ctc_zero_infinity (`bool`): whether a recording with fewer frames than its transcript needs counts nothing.
    """

    model_type = "encoder-ctc"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="data2vec2-audio")}

    encoder_config: dict | PreTrainedConfig | None = None
    vocab_size: int = 32
    pad_token_id: int | None = 0
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = True

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one frame to the next, which a pipeline counts time stamps by (waveform encoders only)."""
        assert isinstance(self.encoder_config, PreTrainedConfig)
        return math.prod(self.encoder_config.conv_stride)


class EncoderForCTC(PreTrainedModel):
    """Any speech encoder with a linear layer on its frames, trained with CTC (Graves et al. 2006).

    What transformers' own classes of the kind are, for encoders that it has none for. A checkpoint of the bare encoder
    loads into it: `AutoModelForCTC.from_pretrained(encoder, config=EncoderForCTCConfig(encoder_config=...))`.
    """

    config: EncoderForCTCConfig
    base_model_prefix = "speech_encoder"  # not "encoder", as a part of speech encoders is called
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: EncoderForCTCConfig) -> None:
        super().__init__(config)
        assert isinstance(config.encoder_config, PreTrainedConfig)
        self.speech_encoder = AutoModel.from_config(config.encoder_config)
        self.lm_head = nn.Linear(config.encoder_config.hidden_size, config.vocab_size)
        self.main_input_name = self.speech_encoder.main_input_name
        self.supports_gradient_checkpointing = self.speech_encoder.supports_gradient_checkpointing
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """The scores of every frame, and the loss of the transcripts.

        Args:
            input_values (`Tensor` of shape `(B, L)`, *optional*): waveforms; this or `input_features`.
            input_features (`Tensor` of shape `(B, L, F)`, *optional*): log-mel frames.
            attention_mask (`Tensor` of shape `(B, L)`, *optional*): 1 = input, 0 = padding.
            labels (`Tensor` of shape `(B, U)`, *optional*): units in 1 … V − 1, padded with −100.
            kwargs: further arguments of the encoder.

        Returns:
            `CausalLMOutput`: `logits` (B, T, V), and `loss` with labels.
        """
        inputs = input_values if input_features is None else input_features
        assert inputs is not None
        outputs = self.speech_encoder(inputs, attention_mask=attention_mask, **kwargs)
        logits = self.lm_head(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            if attention_mask is None:
                attention_mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                logit_lengths=frames_of_inputs(self.speech_encoder.config, attention_mask.sum(dim=1)),
                blank_token_id=self.config.pad_token_id,
                reduction=self.config.ctc_loss_reduction,
                zero_infinity=self.config.ctc_zero_infinity,
            )
        return CausalLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def freeze_feature_encoder(self) -> None:
        """Train the CNN of a waveform encoder no further."""
        self.speech_encoder.feature_extractor._freeze_parameters()
