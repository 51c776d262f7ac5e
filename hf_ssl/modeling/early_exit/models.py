"""The five models with exits: of whole texts, images and recordings, of tokens, and of frames with CTC."""

# B rows, L inputs (samples or mel frames), T tokens or frames, C classes, V units

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.front_end import frames_of_inputs
from hf_ssl.modeling.early_exit.base import EarlyExitModel, Inputs
from hf_ssl.modeling.early_exit.output import EarlyExitOutput


class EarlyExitForSequenceClassification(EarlyExitModel):
    """Classes of texts, or numbers (`problem_type="regression"`), with an exit after some layers.

    DeeBERT (Xin et al. 2020, arXiv:2004.12993), PABEE (Zhou et al. 2020, arXiv:2006.04152), BERxiT (Xin et al. 2021).
    """

    def mask_of(self, hidden: Tensor, inputs: Inputs) -> Tensor | None:
        """The attention mask (B, T)."""
        return inputs.get("attention_mask")

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> EarlyExitOutput:
        """The scores of every text's classes, or of every token's.

        Args:
            input_ids (`Tensor` of shape `(B, T)`): tokens, padded at the end.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 = token, 0 = padding.
            token_type_ids (`Tensor` of shape `(B, T)`, *optional*): segments, for encoders that have them.
            inputs_embeds (`Tensor` of shape `(B, T, D)`, *optional*): instead of `input_ids`.
            labels (`Tensor` of shape `(B,)`, of tokens `(B, T)`, *optional*): classes; −100 is not counted.
            kwargs: further arguments of the encoder.

        Returns:
            [`EarlyExitOutput`]: `logits` (B, C), of tokens (B, T, C).

        Raises:
            InputError: for fields of the config that have been set to what cannot be.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
        }
        return self.run(inputs | kwargs, labels)


class EarlyExitForTokenClassification(EarlyExitForSequenceClassification):
    """Classes of tokens, with an exit after some layers.

    A text leaves as a whole, when the least certain of its tokens is certain enough (special tokens are counted).
    """

    reads_positions = True

    def exit_loss(self, logits: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """The mean of the tokens' cross-entropies."""
        return self.loss_function(logits, labels, self.config)


class EarlyExitForImageClassification(EarlyExitModel):
    """Classes of images, with an exit after some layers, or some stages of a hierarchical encoder."""

    main_input_name = "pixel_values"

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> EarlyExitOutput:
        """The scores of every image's classes.

        Args:
            pixel_values (`Tensor` of shape `(B, channels, H, W)`): images.
            labels (`Tensor` of shape `(B,)`, *optional*): classes.
            kwargs: further arguments of the encoder.

        Returns:
            [`EarlyExitOutput`]: `logits` (B, C).

        Raises:
            InputError: for fields of the config that have been set to what cannot be.
        """
        return self.run({"pixel_values": pixel_values} | kwargs, labels)


class EarlyExitForAudioClassification(EarlyExitModel):
    """Classes of recordings, with an exit after some layers."""

    main_input_name = "input_values"  # or what the encoder of a model has

    def mask_of(self, hidden: Tensor, inputs: Inputs) -> Tensor | None:
        """The frames that padding has no part in; SEW's layers have one for two of its encoder's."""
        if "attention_mask" not in inputs:
            return None
        given, num_frames = inputs["attention_mask"], hidden.shape[1]
        encoder_config = self.backbone.config
        squeeze = round(frames_of_inputs(encoder_config, given.shape[1]) / num_frames)
        lengths = frames_of_inputs(encoder_config, given.sum(dim=1)) // squeeze
        return torch.arange(num_frames, device=hidden.device) < lengths[:, None]

    def freeze_feature_encoder(self) -> None:
        """Train the CNN of a waveform encoder no further."""
        self.backbone.feature_extractor._freeze_parameters()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> EarlyExitOutput:
        """The scores of every recording's classes, or of every frame's units.

        Args:
            input_values (`Tensor` of shape `(B, L)`, *optional*): waveforms, or what the encoder calls so.
            input_features (`Tensor` of shape `(B, L, F)`, *optional*): log-mel frames.
            attention_mask (`Tensor` of shape `(B, L)`, *optional*): 1 = input, 0 = padding.
            labels (`Tensor` of shape `(B,)`, *optional*): classes; with CTC `(B, U)`, units padded with −100.
            kwargs: further arguments of the encoder.

        Returns:
            [`EarlyExitOutput`]: `logits` (B, C), with CTC (B, T, V).

        Raises:
            InputError: for fields of the config that have been set to what cannot be.
        """
        inputs = {
            "input_values": input_values,
            "input_features": input_features,
            "attention_mask": attention_mask,
        }
        return self.run(inputs | kwargs, labels)


class EarlyExitForCTC(EarlyExitForAudioClassification):
    """Transcripts of recordings, with an exit after some layers (HuBERT-EE, Yoon et al. 2022, arXiv:2204.06328).

    A recording's certainty is the mean over its frames. A head is a linear layer on every frame; the paper's has a
    block of self-attention before it.
    """

    reads_positions = True
    reduction = "mean"

    @property
    def num_classes(self) -> int:
        """V, the blank included."""
        return self.config.vocab_size

    def exit_loss(self, logits: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """The negative log probability of the transcripts."""
        values = inputs[self.main_input_name]
        given = inputs.get("attention_mask")
        if given is None:
            given = torch.ones(values.shape[:2], dtype=torch.long, device=values.device)
        return self.loss_function(
            logits=logits,
            labels=labels,
            logit_lengths=frames_of_inputs(self.backbone.config, given.sum(dim=1)),
            blank_token_id=self.config.pad_token_id,
            reduction=self.config.ctc_loss_reduction,
            zero_infinity=self.config.ctc_zero_infinity,
        )

    def _check_encoder(self, encoder_config: PreTrainedConfig) -> None:
        super()._check_encoder(encoder_config)
        if vars(encoder_config).get("squeeze_factor", 1) > 1:
            raise InputError(
                f"The layers of a {encoder_config.model_type} encoder have fewer frames than its output, so that the "
                "exits before the last cannot transcribe as it does; use another encoder."
            )
        if self.config.learn_to_exit:
            raise InputError("Without an alignment no frame is right or wrong for CTC; leave learn_to_exit out.")
