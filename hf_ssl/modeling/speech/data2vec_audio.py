"""data2vec for speech: from a masked recording, predict what a teacher makes of the whole one."""

# B recordings, S samples, T frames (20 ms), P masked frames of the recording that has most, D hidden size, K layers

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.latent_regression import average_layers, channel_std, regression_errors
from hf_ssl.modeling.blocks.layer_outputs import outputs_of
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.positions import NOWHERE, positions_of, take_frames
from hf_ssl.modeling.blocks.pretrained import SSLConfig
from hf_ssl.modeling.blocks.student_teacher import StudentTeacherPreTrainedModel
from hf_ssl.modeling.blocks.teacher import copy_weights, follow, linear_decay, make_teacher
from hf_ssl.modeling.blocks.waveform import adapt_waveform_encoder, draw_frame_masks, masked_frames


@strict
class Data2VecAudioPreTrainingConfig(SSLConfig):
    """Configuration of data2vec for speech; the defaults are the paper's for BASE.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): a waveform encoder of the wav2vec 2.0 family whose
            Transformer keeps the rate of its frames (`data2vec-audio`, `wav2vec2`, `hubert`, `wavlm`,
            `unispeech-sat` ...; not `sew`); by default data2vec audio BASE. Its own SpecAugment is switched off, and
            it has a mask embedding in any case.
        average_top_k_layers (`int`): K, how many of the teacher's upper layers make a target, at least 1.
        ema_decay (`float`): τ in [0, 1] at the beginning of the training.
        ema_end_decay (`float`): τ in [0, 1] after the rise.
        ema_rise_share (`float`): share of the training, in [0, 1], over which τ rises linearly: .075 are the paper's
            30k of 400k updates.
        mask_time_prob (`float`): masked share of the frames in (0, 1], before overlap: .65 masks about 49 %.
        mask_time_length (`int`): frames (of 20 ms) a masked span.
        mask_time_min_masks (`int`): the least number of spans in a recording, at least 1.

    Raises:
        InputError: for values out of range, more layers than the encoder has, or an encoder that is not of that
            family.
    """

    model_type = "data2vec-audio-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="data2vec-audio")}

    average_top_k_layers: int = 8
    ema_decay: float | int = 0.999
    ema_end_decay: float | int = 0.9999
    ema_rise_share: float | int = 0.075
    mask_time_prob: float | int = 0.65
    mask_time_length: int = 10
    mask_time_min_masks: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("average_top_k_layers", "mask_time_length", "mask_time_min_masks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        check_shares(self, "ema_decay", "ema_end_decay", "ema_rise_share", "mask_time_prob")
        if self.mask_time_prob == 0:
            raise InputError("mask_time_prob is 0; without masked frames there is nothing to predict.")
        assert isinstance(self.encoder_config, PreTrainedConfig)
        adapt_waveform_encoder(self.encoder_config, "data2vec")
        _check_layers(self.encoder_config, self.average_top_k_layers)


class Data2VecAudioForPreTraining(StudentTeacherPreTrainedModel):
    """data2vec (Baevski et al. 2022, arXiv:2202.03555) for speech: a student regresses its own teacher's layers.

    The student reads the recording with masked spans; the teacher, whose Transformer is a moving average of the
    student's (`Δ ← τ Δ + (1 − τ) θ`, section 3.2), reads it unmasked. The target of frame t is
    `y_t = 1/K Σ_l â_t^l` over the teacher's top K layers (section 3.3): a^l is what the feed-forward part of layer l
    adds to its residual, before dropout, and â^l is a^l normalised over time in each channel. The loss is the mean
    over the masked frames of `‖f_t(x̃) − y_t‖² / √D`: f a linear layer on the student's output for the masked input x̃.

    The CNN and the feature projection are shared; gradient reaches them through the student only. The positional
    convolution of the teacher is the student's own, copied after every step.

    Reference: fairseq, `examples/data2vec/models/data2vec_audio.py`. Deviations:

    * The masks of a batch are not thinned to the same size (see [`span_mask`]).
    * Padding does not enter the statistics of the normalisation over time; the reference crops and has none.
    * τ is placed by the share of the training that is done, not by the number of updates.
    * `target_std` and `prediction_std`, which the reference stops on, are of each process's frames and then averaged.
    * The encoder starts as transformers has it, whose positional convolution has another spread than PyTorch's
      default; the linear layer starts from N(0, 0.02²) without bias.
    """

    config: Data2VecAudioPreTrainingConfig
    main_input_name = "input_values"
    _keep_in_fp32_modules_strict = ["teacher"]

    def __init__(self, config: Data2VecAudioPreTrainingConfig) -> None:
        super().__init__(config)
        hidden_size = self.encoder.config.hidden_size
        self.projection_head = nn.Linear(hidden_size, hidden_size)
        self.teacher = make_teacher(self.student)
        self.post_init()

    @property
    def student(self) -> nn.Module:
        """What the teacher follows: the Transformer, without CNN and projection."""
        return self.encoder.encoder

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        mask_time_indices: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of recordings; [`draw_inputs`] makes its masks.

        Args:
            input_values (`Tensor` of shape `(B, S)`): waveforms.
            mask_time_indices (boolean `Tensor` of shape `(B, T)`): `True` = masked.
            masked_positions (`Tensor` of shape `(B, P)`): the masked frames, see [`positions_of`].
            attention_mask (`Tensor` of shape `(B, S)`, *optional*): 1 = sample, 0 = padding; none where all rows are
                full.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `regression`; `diagnostics` `target_std` and `prediction_std` over the masked
            frames ([`channel_std`]); `features` (B, D), the mean of the encoder's output.
        """
        with (
            outputs_of([self.encoder.feature_projection.projection]) as projected,
            masked_frames(self.encoder, mask_time_indices),
        ):
            encoded = self.encoder(input_values, attention_mask=attention_mask, **kwargs)
        hidden = encoded.last_hidden_state  # (B, T, D)
        targets = take_frames(self.targets(projected[0], attention_mask), masked_positions)  # (B, P, D)
        predictions = self.projection_head(take_frames(hidden, masked_positions))  # (B, P, D)

        is_masked = masked_positions != NOWHERE  # (B, P): not what fills the rectangle
        total = (regression_errors(predictions, targets) * is_masked).sum()
        num_predictions = self.count_predictions({"mask_time_indices": mask_time_indices})
        loss = total / (num_items_in_batch or num_predictions)["regression"].clamp(min=1)
        return SSLOutput(
            loss=loss,
            loss_terms={"regression": loss.detach()},
            num_predictions=num_predictions,
            diagnostics={
                "target_std": channel_std(targets, is_masked),
                "prediction_std": channel_std(predictions, is_masked),
            },
            features=hidden.detach().mean(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @torch.no_grad()
    def targets(self, projected: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the student is to predict.

        Args:
            projected (`Tensor` of shape `(B, T, D)`): what the Transformer reads, before dropout and unmasked.
            attention_mask (`Tensor` of shape `(B, S)`, *optional*): 1 = sample, 0 = padding.

        Returns:
            `Tensor` of shape `(B, T, D)`, fp32, without gradient.
        """
        is_frame = None
        if attention_mask is not None:
            is_frame = self.encoder._get_feature_vector_attention_mask(projected.shape[1], attention_mask)
        top_layers = self.teacher.layers[-self.config.average_top_k_layers :]
        with outputs_of(feed_forward_output(layer) for layer in top_layers) as layers:
            # A copy, since transformers' encoders write zeros over padding.
            self.teacher(projected.to(torch.float32, copy=True), attention_mask=is_frame)
        if is_frame is None:
            is_frame = torch.ones(projected.shape[:2], dtype=torch.bool, device=projected.device)
        return average_layers(layers, is_frame)

    def after_optimizer_step(self, progress: float) -> None:
        """Move the teacher's layers towards the student's; its positional convolution becomes the student's.

        Args:
            progress (`float`): share of the training that is done, in [0, 1].
        """
        config = self.config
        decay = linear_decay(progress, config.ema_decay, config.ema_end_decay, config.ema_rise_share)
        follow(self.teacher, self.student, decay)
        copy_weights(self.teacher.pos_conv_embed, self.encoder.encoder.pos_conv_embed)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many frames are masked."""
        return {"regression": batch["mask_time_indices"].sum()}

    @staticmethod
    def draw_inputs(
        config: Data2VecAudioPreTrainingConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the masks.

        Args:
            config ([`Data2VecAudioPreTrainingConfig`]): the config.
            batch (`dict[str, Tensor]`): `input_values` (B, S), and `attention_mask` (B, S) where rows are padded.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `mask_time_indices` (B, T) and `masked_positions` (B, P).

        Raises:
            InputError: for a waveform without a single frame.
        """
        _, mask = draw_frame_masks(config, batch, generators)
        return {**batch, "mask_time_indices": mask, "masked_positions": positions_of(mask)}


def feed_forward_output(layer: nn.Module) -> nn.Module:
    """The last linear layer of a Transformer layer's feed-forward part (of a Conformer's second one).

    What it returns is neither dropped out nor added to the residual yet, be the layer normalised before or after.
    """
    return [module for name, module in layer.named_modules() if name.endswith(".output_dense")][-1]


def _check_layers(encoder_config: PreTrainedConfig, top_k: int) -> None:
    """Refuses encoders whose layers have not one frame for each of the CNN's, and more layers than there are."""
    fields = encoder_config.to_dict()
    if "squeeze_factor" in fields or fields.get("add_adapter"):
        raise InputError(
            f"The encoder '{encoder_config.model_type}' changes the rate of its frames (squeeze_factor or "
            "add_adapter), but data2vec predicts a target for each; use data2vec-audio, or leave its adapter out."
        )
    if top_k > encoder_config.num_hidden_layers:
        raise InputError(
            f"average_top_k_layers is {top_k} but the encoder has {encoder_config.num_hidden_layers} layers; set it "
            f"to at most {encoder_config.num_hidden_layers}."
        )
