"""BEST-RQ: predict the code that a frozen random quantiser gives to every masked frame."""

# B recordings, L inputs of the encoder, D numbers an input, T mel frames, F bands, N frames of the encoder,
# P masked ones of them in the row that has most, C codebooks, V codes

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.codebook import code_perplexity
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.mel_front_end import MelFrontEnd, mel_front_end
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.positions import NOWHERE, positions_of, take_frames
from hf_ssl.modeling.blocks.pretrained import SSLConfig, SSLPreTrainedModel
from hf_ssl.modeling.blocks.random_projection import RandomProjectionQuantizer
from hf_ssl.modeling.blocks.span_masking import independent_span_mask


@strict
class BestRQConfig(SSLConfig):
    """Configuration of BEST-RQ; the defaults are the paper's.

    Masks and stacks are counted in mel frames, of 10 ms at 16 kHz. The inputs of the default encoder, `wav2vec2-bert`,
    hold two of them each and it subsamples no further: its frames come every 20 ms. The paper's encoder subsamples by
    four, as `parakeet_encoder` does with `subsampling_factor: 4`.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): an encoder of log-mel frames of any length
            (`wav2vec2-bert`, `parakeet_encoder`, `nemotron_asr_streaming_encoder`, `lasr_encoder`); by default
            `wav2vec2-bert`. Its own SpecAugment is switched off.
        codebook_size (`int`): V.
        codebook_dim (`int`): dimensions in which frames and codes are compared.
        num_codebooks (`int`): C; the loss is the mean over them.
        quantizer_stack (`int`, *optional*): mel frames that a code stands for. Those of the encoder's frame n start at
            the mel frame n·s, where s is how many mel frames lie between two frames of the encoder; by default they
            are s, so that each has one code. A frame whose stack runs over the end has no code.
        quantizer_seed (`int`): of the projections and codebooks, which are never trained.
        mask_probability (`float`): with which each mel frame starts a masked span, in (0, 1].
        mask_length (`int`): mel frames of a span: 40 are 400 ms.
        mask_threshold (`float`): least masked share, in (0, 1], of the stack of a frame that is predicted (NeMo's).
        noise_std (`float`): standard deviation of what replaces masked frames; the others have 1. `wav2vec2-bert`
            normalises each of its inputs first, after which this only matters where an input is masked in part.

    Raises:
        InputError: for values out of range, or an encoder that does not read log-mel frames of any length.
    """

    model_type = "best-rq"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2-bert")}

    codebook_size: int = 8192
    codebook_dim: int = 16
    num_codebooks: int = 1
    quantizer_stack: int | None = None
    quantizer_seed: int = 0
    mask_probability: float | int = 0.01
    mask_length: int = 40
    mask_threshold: float | int = 0.8
    noise_std: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("codebook_size", "codebook_dim", "num_codebooks", "mask_length"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.quantizer_stack is not None and self.quantizer_stack < 1:
            raise InputError(f"quantizer_stack is {self.quantizer_stack}; give at least 1 mel frame, or leave it out.")
        for name in ("mask_probability", "mask_threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a share above 0, at most 1.")
        if self.noise_std < 0:
            raise InputError(f"noise_std is {self.noise_std}; a standard deviation is at least 0.")
        assert isinstance(self.encoder_config, PreTrainedConfig)
        mel_front_end(self.encoder_config)
        if "apply_spec_augment" in self.encoder_config.to_dict():
            self.encoder_config.apply_spec_augment = False
            # With either above 0 it would have a mask embedding, which nothing trains.
            self.encoder_config.mask_time_prob = self.encoder_config.mask_feature_prob = 0.0

    @property
    def front_end(self) -> MelFrontEnd:
        """How the encoder reads mel frames."""
        return mel_front_end(self.encoder_config)

    @property
    def stack(self) -> int:
        """Mel frames that a code stands for."""
        return self.quantizer_stack or self.front_end.stride


class BestRQForPreTraining(SSLPreTrainedModel):
    """Random-projection quantiser (Chiu et al. 2022, arXiv:2202.01855): masked prediction of codes that nobody learnt.

    `L = mean_{n ∈ M} −log p(y_n | X̃, n)`, the cross-entropy of a softmax layer on the encoder's output for the masked
    input X̃ with `y_n = argmin_v ‖ norm(c_v) − norm(A x_n) ‖` (section 3): x_n the clean mel frames of frame n, side
    by side, A a random projection and c_v the codes of a random codebook, both frozen. M are the frames of which
    enough was masked. Masked mel frames are noise.

    Features have to come with mean 0 and variance 1 in each band, else all vectors fall to a few codes; the processor
    of the encoder sees to it.

    References: SpeechBrain, `nnet/quantisers.py` and the BEST-RQ recipe; NeMo, `ssl_modules`. Deviations:

    * Each recording has its own mask and noise; SpeechBrain draws one mask for the batch, from a grid of 4 frames.
    * The noise is new at every mel frame, as in the paper; NeMo has one frozen vector.
    * Spans may start anywhere, and are cut at the end; in NeMo they start a span's length before it at the latest.
    """

    config: BestRQConfig
    main_input_name = "input_features"
    _keep_in_fp32_modules_strict = ["quantizer"]

    def __init__(self, config: BestRQConfig) -> None:
        super().__init__(config)
        self.quantizer = RandomProjectionQuantizer(
            input_size=config.stack * config.front_end.num_bands,
            code_size=config.codebook_dim,
            num_codes=config.codebook_size,
            num_codebooks=config.num_codebooks,
            seed=config.quantizer_seed,
        )
        self.prediction_head = nn.Linear(self.encoder.config.hidden_size, config.num_codebooks * config.codebook_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RandomProjectionQuantizer):
            projection, codebook = module.drawn()
            init.copy_(module.projection, projection)
            init.copy_(module.codebook, codebook)

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        mask_time_indices: Tensor,
        noise: Tensor,
        masked_positions: Tensor,
        attention_mask: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of recordings; [`draw_inputs`] makes its masks and noise.

        Args:
            input_features (`Tensor` of shape `(B, L, D)`): the clean features, of mean 0 and variance 1.
            mask_time_indices (boolean `Tensor` of shape `(B, T)`): `True` = masked, of the T mel frames of L inputs.
            noise (`Tensor` of shape `(B, L, D)`): what stands in place of the masked mel frames.
            masked_positions (`Tensor` of shape `(B, P)`): the frames of the encoder that are predicted, see
                [`positions_of`].
            attention_mask (`Tensor` of shape `(B, L)`, *optional*): 1 = input, 0 = padding; none where all rows are
                full.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the number of predicted frames
                ([`count_predictions`]) in the whole optimiser step; by default that of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `masked` (nats); `logits` (B·P·C, V) and `targets` (B·P·C,); `features` (B, D),
            the mean of the encoder's output; `diagnostics` `codebook_perplexity`, of the targets.
        """
        mel_shape = (*mask_time_indices.shape, self.config.front_end.num_bands)  # (B, T, F)
        frames = input_features.reshape(mel_shape)
        masked = torch.where(mask_time_indices[..., None], noise.reshape(mel_shape), frames)
        encoded = self.encoder(masked.reshape(input_features.shape), attention_mask=attention_mask, **kwargs)
        hidden = encoded.last_hidden_state  # (B, N, hidden size)

        targets = self._targets(frames, masked_positions)  # (B, P, C)
        logits = self.prediction_head(take_frames(hidden, masked_positions)).unflatten(-1, (targets.shape[-1], -1))
        logits, targets = logits.flatten(0, 2), targets.flatten()  # (B·P·C, V), (B·P·C,)

        num_predictions = self.count_predictions({"masked_positions": masked_positions})
        divisor = (num_items_in_batch or num_predictions)["masked"].clamp(min=1) * self.config.num_codebooks
        loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED) / divisor
        return SSLOutput(
            loss=loss,
            loss_terms={"masked": loss.detach()},
            num_predictions=num_predictions,
            logits=logits,
            targets=targets,
            features=hidden.detach().mean(dim=1),
            diagnostics={"codebook_perplexity": code_perplexity(targets, self.config.codebook_size)},
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @torch.no_grad()
    def _targets(self, frames: Tensor, positions: Tensor) -> Tensor:
        """The codes (B, P, C) of clean mel frames (B, T, F) at the encoder's frames (B, P); −100 where none is."""
        first = positions.clamp(min=0) * self.config.front_end.stride
        stack = first[..., None] + torch.arange(self.config.stack, device=positions.device)  # (B, P, stack)
        # The clamp is for recordings shorter than one stack, which have no position: something has to stand there.
        vectors = take_frames(frames, stack.flatten(1).clamp(max=frames.shape[1] - 1)).reshape(positions.numel(), -1)
        codes = self.quantizer(vectors).unflatten(0, positions.shape)
        return codes.masked_fill((positions == NOWHERE)[..., None], IGNORED)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many frames are predicted."""
        return {"masked": (batch["masked_positions"] != NOWHERE).sum()}

    @staticmethod
    def draw_inputs(
        config: BestRQConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the masks and the noise.

        Args:
            config ([`BestRQConfig`]): the config.
            batch (`dict[str, Tensor]`): `input_features` (B, L, D), and `attention_mask` (B, L) where rows are padded.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `mask_time_indices`, `noise` and `masked_positions`.

        Raises:
            InputError: for inputs that the encoder does not read, or too few of them for a single frame.
        """
        num_rows, num_inputs = _check_features(config.front_end, batch)
        lengths = [num_inputs] * num_rows
        if "attention_mask" in batch:
            lengths = batch["attention_mask"].sum(dim=1).tolist()
        front_end = config.front_end
        mask = torch.zeros(num_rows, num_inputs * front_end.stack, dtype=torch.bool)
        noise = torch.zeros_like(batch["input_features"])
        predicted = torch.zeros(num_rows, front_end.num_frames(num_inputs), dtype=torch.bool)
        for row, (length, generator) in enumerate(zip(lengths, generators, strict=True)):
            row_mask = independent_span_mask(
                length * front_end.stack, config.mask_probability, config.mask_length, generator
            )
            mask[row, : len(row_mask)] = row_mask
            noise[row, :length] = config.noise_std * torch.randn(noise[row, :length].shape, generator=generator)
            enough = _masked_stacks(config, row_mask)[: front_end.num_frames(length)]
            predicted[row, : len(enough)] = enough
        return {**batch, "mask_time_indices": mask, "noise": noise, "masked_positions": positions_of(predicted)}


def _masked_stacks(config: BestRQConfig, mask: Tensor) -> Tensor:
    """Of which of the encoder's frames enough mel frames are masked, (T,) to (N,); those with a whole stack only."""
    if len(mask) < config.stack:
        return torch.zeros(0, dtype=torch.bool)
    stacks = mask.float().unfold(0, config.stack, config.front_end.stride)  # (N, stack)
    return stacks.mean(dim=-1) >= config.mask_threshold


def _check_features(front_end: MelFrontEnd, batch: dict[str, Tensor]) -> tuple[int, int]:
    """Refuses what is no (B, L, D) of this encoder; gives B and L."""
    if "input_features" not in batch or batch["input_features"].shape[-1] != front_end.input_size:
        found = {name: tuple(value.shape) for name, value in batch.items()}
        raise InputError(
            f"BEST-RQ's encoder reads input_features of {front_end.input_size} numbers each, but the batch has "
            f"{found}; use the feature extractor that belongs to the encoder."
        )
    num_rows, num_inputs, _ = batch["input_features"].shape
    if front_end.num_frames(num_inputs) == 0:
        raise InputError(f"{num_inputs} inputs are too few for one frame of the encoder; raise data.min_seconds.")
    return num_rows, num_inputs
