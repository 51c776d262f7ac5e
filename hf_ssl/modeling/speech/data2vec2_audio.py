"""data2vec 2.0 for speech: data2vec with many masks a recording, and an encoder that sees only what is not masked."""

# B recordings, S samples, T frames (20 ms), M masks a recording, R masked frames a mask, V visible ones (T = R + V),
# D hidden size, G dimensions of the decoder

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.latent_regression import average_layers, channel_std, regression_errors
from hf_ssl.modeling.blocks.layer_outputs import outputs_of
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pooling import pool
from hf_ssl.modeling.blocks.positions import NOWHERE, positions_of, take_frames
from hf_ssl.modeling.blocks.pretrained import SSLConfig
from hf_ssl.modeling.blocks.span_masking import equal_span_masks
from hf_ssl.modeling.blocks.student_teacher import StudentTeacherPreTrainedModel
from hf_ssl.modeling.blocks.teacher import follow, linear_decay, make_teacher
from hf_ssl.modeling.blocks.waveform import frames_of_rows
from hf_ssl.modeling.speech.data2vec2_decoder import Data2Vec2AudioDecoder
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig, Data2Vec2AudioConvLayer, init_like_torch


@strict
class Data2Vec2AudioPreTrainingConfig(SSLConfig):
    """Configuration of data2vec 2.0 for speech; the defaults are the published ones for BASE.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): of a `data2vec2-audio` encoder, which can leave out
            what is masked, as no other can; by default BASE.
        num_masks (`int`): M, masks a recording, each of which makes a clone of it.
        mask_time_prob (`float`): share of the frames, in (0, 1), that each mask hides: ⌊p·T⌋, exactly.
        mask_prob_adjust (`float`): added to that share where the number of spans is computed, since spans overlap.
        mask_time_length (`int`): frames (of 20 ms) a span.
        mask_noise_std (`float`): standard deviation of the noise that the decoder reads in place of masked frames.
        average_top_k_layers (`int`): how many of the teacher's upper layers make a target.
        ema_decay (`float`): τ in [0, 1] at the beginning of the training.
        ema_end_decay (`float`): τ in [0, 1] after the rise.
        ema_rise_share (`float`): share of the training, in [0, 1], over which τ rises linearly: .1875 are 75k of 400k
            updates.
        decoder_dim (`int`): G, channels of the decoder.
        decoder_layers (`int`): its convolutions.
        decoder_kernel (`int`): frames that each of them sees.
        decoder_groups (`int`): of the convolutions, a divisor of D and G.
        decoder_input_dropout (`float`): of the visible frames that the decoder reads.

    Raises:
        InputError: for values out of range or that do not fit the encoder, or another encoder.
    """

    model_type = "data2vec2-audio-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="data2vec2-audio")}

    num_masks: int = 8
    mask_time_prob: float | int = 0.5
    mask_prob_adjust: float | int = 0.05
    mask_time_length: int = 5
    mask_noise_std: float | int = 0.01
    average_top_k_layers: int = 8
    ema_decay: float | int = 0.999
    ema_end_decay: float | int = 0.99999
    ema_rise_share: float | int = 0.1875
    decoder_dim: int = 384
    decoder_layers: int = 4
    decoder_kernel: int = 7
    decoder_groups: int = 16
    decoder_input_dropout: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        encoder = self.encoder_config
        assert isinstance(encoder, PreTrainedConfig)
        if not isinstance(encoder, Data2Vec2AudioConfig):
            raise InputError(
                f"The encoder {encoder.model_type!r} reads masked frames, too; data2vec 2.0 needs one that leaves "
                "them out: data2vec2-audio."
            )
        counts = ("num_masks", "mask_time_length", "average_top_k_layers", "decoder_dim", "decoder_layers")
        for name in (*counts, "decoder_kernel", "decoder_groups"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        check_shares(self, "mask_prob_adjust", "ema_decay", "ema_end_decay", "ema_rise_share", "decoder_input_dropout")
        if not 0 < self.mask_time_prob < 1:
            raise InputError(f"mask_time_prob is {self.mask_time_prob}; give a share above 0 and below 1.")
        if self.average_top_k_layers > encoder.num_hidden_layers:
            raise InputError(
                f"average_top_k_layers is {self.average_top_k_layers} but the encoder has {encoder.num_hidden_layers} "
                f"layers; set it to at most {encoder.num_hidden_layers}."
            )
        for name, size in (("hidden_size", encoder.hidden_size), ("decoder_dim", self.decoder_dim)):
            if size % self.decoder_groups:
                raise InputError(
                    f"decoder_groups is {self.decoder_groups}, which does not divide {name} {size}; give a divisor."
                )


class Data2Vec2AudioForPreTraining(StudentTeacherPreTrainedModel):
    """data2vec 2.0 (Baevski et al. 2022, arXiv:2212.07525) for speech: one teacher pass serves many masks.

    The teacher reads the recording once and whole, and its upper layers make the targets as in data2vec:
    `y_t = 1/K Σ_l â_t^l`, â^l the output of layer l's feed-forward part, normalised over time. M masks make M clones
    of the recording; of each, the student's Transformer reads the visible frames alone, and a small convolutional
    decoder predicts the others (section 3). The loss is the mean of `‖f_t − y_t‖² / √D` over the masked frames of all
    clones.

    CNN and projection are shared, and gradient reaches them through the student; all else of the encoder (positional
    convolution, norm, blocks, ALiBi's scales) is the teacher's own: `Δ ← τ Δ + (1 − τ) θ` after each step.

    Reference: fairseq, `examples/data2vec/models/data2vec2.py`. Deviations:

    * Masks are drawn after the crop, for the frames that there are. The reference draws them before and crops them
      apart from the audio; their counts then differ, and it takes the first clone's for all.
    * Of recordings of different lengths each has its own count; what fills the rectangle is neither attended to nor
      counted. Padding does not enter the convolutions or the normalisation over time.
    * τ is placed by the share of the training that is done, not by the number of updates.
    * `target_std` and `prediction_std`, which the reference stops on, are of each process's frames and then averaged.
    """

    config: Data2Vec2AudioPreTrainingConfig
    main_input_name = "input_values"
    _supports_flash_attn = False
    _supports_flex_attn = False
    _keep_in_fp32_modules_strict = ["teacher"]

    def __init__(self, config: Data2Vec2AudioPreTrainingConfig) -> None:
        super().__init__(config)
        self.decoder = Data2Vec2AudioDecoder(
            self.encoder.config.hidden_size,
            config.decoder_dim,
            num_layers=config.decoder_layers,
            kernel_size=config.decoder_kernel,
            groups=config.decoder_groups,
            input_dropout=config.decoder_input_dropout,
        )
        self.teacher = make_teacher(self.student)
        self.post_init()

    @property
    def student(self) -> nn.Module:
        """What the teacher follows: the Transformer, without CNN and projection."""
        return self.encoder.encoder

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Data2Vec2AudioConvLayer) or module is self.decoder.projection:
            init_like_torch(module)
        elif module is self.teacher:  # after its parts and the student: those that no checkpoint has brought
            student = self.student.state_dict()
            for name, weight in module.state_dict(keep_vars=True).items():
                init.copy_(weight, student[name])

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        visible_positions: Tensor,
        masked_positions: Tensor,
        mask_noise: Tensor,
        attention_mask: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of recordings; [`draw_inputs`] makes their masks.

        Args:
            input_values (`Tensor` of shape `(B, S)`): waveforms.
            visible_positions (`Tensor` of shape `(B, M, V)`): the frames that each mask leaves; [`NOWHERE`] fills the
                rectangle.
            masked_positions (`Tensor` of shape `(B, M, R)`): those that it hides.
            mask_noise (`Tensor` of shape `(B, M, R, D)`): what the decoder reads in their place.
            attention_mask (`Tensor` of shape `(B, S)`, *optional*): 1 = sample, 0 = padding; none where all rows are
                full.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisor of the loss ([`count_predictions`])
                summed over the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `regression`; `diagnostics` `target_std` and `prediction_std` over the masked
            frames ([`channel_std`]); `features` (B, D), the mean of the encoder's output for the first mask;
            `hidden_states` of shape `(B·M, V, D)`.
        """
        num_masks = masked_positions.shape[1]
        visible, masked = visible_positions.flatten(0, 1), masked_positions.flatten(0, 1)  # (B·M, V), (B·M, R)
        encoded = self.encoder(input_values, attention_mask=attention_mask, positions=visible, **kwargs)
        is_frame = self._is_frame(encoded.local_features, attention_mask)  # (B, T)

        targets = self.targets(encoded.local_features, is_frame)  # (B, T, D)
        targets = take_frames(targets, masked_positions.flatten(1)).view_as(mask_noise).flatten(0, 1)  # (B·M, R, D)
        predictions = self.decoder(
            encoded.last_hidden_state,
            visible,
            mask_noise.flatten(0, 1),
            masked,
            is_frame.repeat_interleave(num_masks, dim=0),
        )

        is_masked = masked != NOWHERE
        total = (regression_errors(predictions, targets) * is_masked).sum()
        num_predictions = self.count_predictions({"masked_positions": masked_positions})
        loss = total / (num_items_in_batch or num_predictions)["regression"].clamp(min=1)
        first = slice(None, None, num_masks)
        return SSLOutput(
            loss=loss,
            loss_terms={"regression": loss.detach()},
            num_predictions=num_predictions,
            diagnostics={
                "target_std": channel_std(targets, is_masked),
                "prediction_std": channel_std(predictions, is_masked),
            },
            features=pool(encoded.last_hidden_state.detach()[first], attention_mask=(visible != NOWHERE)[first]),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _is_frame(self, local_features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Which frames are not padding, boolean (B, T)."""
        if attention_mask is None:
            return torch.ones(local_features.shape[:2], dtype=torch.bool, device=local_features.device)
        return self.encoder._get_feature_vector_attention_mask(local_features.shape[1], attention_mask)

    @torch.no_grad()
    def targets(self, local_features: Tensor, is_frame: Tensor) -> Tensor:
        """What is to be predicted of each frame.

        Args:
            local_features (`Tensor` of shape `(B, T, D)`): the projected output of the CNN, unmasked.
            is_frame (boolean `Tensor` of shape `(B, T)`): `False` = padding.

        Returns:
            `Tensor` of shape `(B, T, D)`, fp32, without gradient.
        """
        top_layers = self.teacher.layers[-self.config.average_top_k_layers :]
        with outputs_of(layer.feed_forward.output_dense for layer in top_layers) as outputs:
            self.teacher(local_features.float(), is_frame)
        return average_layers(outputs, is_frame)

    def after_optimizer_step(self, progress: float) -> None:
        """Move the teacher towards the student.

        Args:
            progress (`float`): share of the training that is done, in [0, 1].
        """
        config = self.config
        decay = linear_decay(progress, config.ema_decay, config.ema_end_decay, config.ema_rise_share)
        follow(self.teacher, self.student, decay)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many frames are masked, in all clones."""
        return {"regression": (batch["masked_positions"] != NOWHERE).sum()}

    @staticmethod
    def draw_inputs(
        config: Data2Vec2AudioPreTrainingConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the masks and the noise.

        Args:
            config ([`Data2Vec2AudioPreTrainingConfig`]): the config.
            batch (`dict[str, Tensor]`): `input_values` (B, S), and `attention_mask` (B, S) where rows are padded.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `visible_positions` (B, M, V), `masked_positions` (B, M, R) and
            `mask_noise` (B, M, R, D): for 62 seconds of speech, BASE's batch, 38 MB.

        Raises:
            InputError: for a waveform of so few frames that none is masked.
        """
        assert isinstance(config.encoder_config, Data2Vec2AudioConfig)
        drawn = []
        for num_frames, generator in zip(frames_of_rows(config.encoder_config, batch)[0], generators, strict=True):
            if int(num_frames * config.mask_time_prob) == 0:
                raise InputError(
                    f"A waveform of {num_frames} frames has none to mask at mask_time_prob {config.mask_time_prob}; "
                    "raise data.min_seconds."
                )
            mask = equal_span_masks(
                config.num_masks,
                num_frames,
                config.mask_time_prob,
                config.mask_time_length,
                config.mask_prob_adjust,
                generator,
            )
            visible, masked = positions_of(~mask), positions_of(mask)  # (M, V), (M, R)
            noise = torch.randn(*masked.shape, config.encoder_config.hidden_size, generator=generator)
            drawn.append((visible, masked, noise * config.mask_noise_std))
        visible_rows, masked_rows, noise_rows = zip(*drawn, strict=True)
        return {
            **batch,
            "visible_positions": _stack(visible_rows, NOWHERE),
            "masked_positions": _stack(masked_rows, NOWHERE),
            "mask_noise": _stack(noise_rows, 0.0),
        }


def _stack(rows: tuple[Tensor, ...], fill: float) -> Tensor:
    """Rows (M, P, ...) of different P to one tensor (B, M, P, ...)."""
    padded = pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True, padding_value=fill)
    return padded.transpose(1, 2)
