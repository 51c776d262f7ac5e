"""wav2vec 2.0: tell the quantised features of a masked frame from those of other masked frames."""

# B recordings, S samples, T frames (20 ms), M masked frames of the recording that has most, K negatives,
# C channels of the CNN, D hidden size, P numbers of a projection, G groups, V codes of a group

import logging
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2ForPreTraining
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.gradient import scaled_output
from hf_ssl.modeling.blocks.gumbel_quantizer import (
    GumbelQuantizer,
    choice_perplexity,
    gumbel_noise,
    probability_perplexity,
)
from hf_ssl.modeling.blocks.negatives import contrastive_logits, draw_negatives, fingerprint
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.positions import NOWHERE, positions_of, take_frames
from hf_ssl.modeling.blocks.pretrained import Processor, SSLPreTrainedModel
from hf_ssl.modeling.blocks.waveform import (
    changed_features,
    draw_frame_masks,
    feature_projection,
    masked_frames,
)
from hf_ssl.modeling.speech.wav2vec2_config import Wav2Vec2PreTrainingConfig
from hf_ssl.modeling.speech.wav2vec2_published import as_published, has_heads, heads_of, load_with_heads

logger = logging.getLogger(__name__)


class Wav2Vec2PreTrainingModel(SSLPreTrainedModel):
    """wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477).

    `L = L_m + α L_d` (section 3.2). `L_m = mean_{t ∈ M} −log( exp(sim(c_t, q_t)/κ) / Σ_q̃ exp(sim(c_t, q̃)/κ) )` (Eq. 3)
    over the masked frames M: c_t the Transformer's output for the masked input, projected; q_t the quantised CNN
    features of that frame, projected; q̃ one of q_t and K of the other masked frames of the same recording; sim the
    cosine. `L_d = (GV − Σ_g exp(H(p̄_g))) / GV`, with p̄ the mean over a batch's masked frames of the softmax of the
    code scores (Eq. 4 up to a constant and its scale; as in the authors' code). That code adds the mean squared output
    of the CNN, before its layer norm, which keeps a group-norm CNN from growing.

    L_d is no mean over predictions. Its p̄ is that of one micro-batch, over all ranks, and L_d of the micro-batches is
    averaged by their numbers of masked frames: the only part of the gradient that depends on how the batch of an
    optimiser step was cut into micro-batches. (The authors' p̄ is of each GPU's frames alone.)

    Reference: fairseq, `models/wav2vec/wav2vec2.py`, `criterions/wav2vec_criterion.py`. Deviations:

    * The masks of a batch are not thinned to the same size (see [`span_mask`]).
    * The penalty is the mean over the global batch, not over each GPU's own.
    * τ is placed by the share of the training that is done, not by the number of updates.
    * A negative that is the same vector as the target before its projection is left out; the reference compares
      projections, which rounding may tell apart. A frame without any negative left is no prediction for the accuracy.
    * With quantised inputs the quantiser makes vectors of C numbers and the encoder's own projection reads them
      (reference: D numbers and a layer of its own); input dropout comes after it.
    * The encoder starts as transformers has it. The name is not `Wav2Vec2ForPreTraining`, which is transformers' class
      for the same weights.
    """

    config: Wav2Vec2PreTrainingConfig
    main_input_name = "input_values"
    _keep_in_fp32_modules_strict = ["gumbel_temperature"]
    gumbel_temperature: Tensor

    def __init__(self, config: Wav2Vec2PreTrainingConfig) -> None:
        super().__init__(config)
        channels = feature_projection(self.encoder).in_features
        groups, codes = config.num_codevector_groups, config.num_codevectors_per_group
        self.dropout_features = nn.Dropout(config.feat_quantizer_dropout)
        self.quantizer = (
            GumbelQuantizer(channels, groups, codes, config.codevector_dim) if config.quantize_targets else None
        )
        self.input_quantizer = GumbelQuantizer(channels, groups, codes, channels) if config.quantize_inputs else None
        self.project_hid = nn.Linear(self.encoder.config.hidden_size, config.proj_codevector_dim)
        target_size = config.codevector_dim if config.quantize_targets else channels
        self.project_q = nn.Linear(target_size, config.proj_codevector_dim)
        self.register_buffer("gumbel_temperature", torch.tensor(config.gumbel_temperature(0)))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GumbelQuantizer):
            module.reset_parameters()
        elif isinstance(module, Wav2Vec2PreTrainingModel):
            init.constant_(module.gumbel_temperature, module.config.gumbel_temperature(0))
            for layer in (module.project_hid, module.project_q):  # PyTorch's default, as in both references
                bound = layer.in_features**-0.5
                init.uniform_(layer.weight, -bound, bound)
                init.uniform_(layer.bias, -bound, bound)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        mask_time_indices: Tensor,
        masked_positions: Tensor,
        negatives: Tensor,
        num_frames: Tensor,
        gumbel_noise: Tensor | None = None,
        input_gumbel_noise: Tensor | None = None,
        attention_mask: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of recordings; [`draw_inputs`] makes everything but the waveforms.

        Args:
            input_values (`Tensor` of shape `(B, S)`): waveforms.
            mask_time_indices (boolean `Tensor` of shape `(B, T)`): `True` = masked.
            masked_positions (`Tensor` of shape `(B, M)`): the masked frames, see [`positions_of`].
            negatives (`Tensor` of shape `(B, M, K)`): of each masked frame, by their numbers among the recording's.
            num_frames (`Tensor` of shape `(B,)`): frames of each recording, without padding.
            gumbel_noise (`Tensor` of shape `(B, M, G * V)`, *optional*): of the quantised targets; used in training
                only, as the codes of the highest score are chosen in evaluation.
            input_gumbel_noise (`Tensor` of shape `(B, T, G * V)`, *optional*): of the quantised inputs; likewise.
            attention_mask (`Tensor` of shape `(B, S)`, *optional*): 1 = sample, 0 = padding; none where all rows are
                full.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisors of the terms ([`count_predictions`])
                summed over the whole optimiser step; by default those of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `contrastive` (nats), `features` and, with a quantiser, `diversity`; `logits`
            (B · M, 1 + K) and `targets` (0) of telling the target apart; `features` (B, D), the mean of the encoder's
            output; `diagnostics` `codebook_perplexity` and `probability_perplexity` ([`choice_perplexity`],
            [`probability_perplexity`]; means over the groups, where the authors' code logs sums), and τ.

        Raises:
            InputError: when a quantiser has no noise in training.
        """
        encoded, features, energy, input_scores = self._encode(
            input_values, mask_time_indices, input_gumbel_noise, attention_mask=attention_mask, **kwargs
        )
        hidden = encoded.last_hidden_state  # (B, T, D)
        logits, target_scores = self.contrast(hidden, features, masked_positions, negatives, gumbel_noise)

        is_frame = torch.arange(hidden.shape[1], device=hidden.device) < num_frames[:, None]  # (B, T)
        is_masked = masked_positions != NOWHERE  # (B, M)
        has_negatives = (logits[:, 1:] > torch.finfo(logits.dtype).min).any(dim=1)
        targets = torch.where(is_masked.flatten() & has_negatives, 0, IGNORED)
        sums = {
            "contrastive": F.cross_entropy(logits, targets, reduction="sum"),
            "features": (energy * is_frame).sum(),
        }
        diagnostics: dict[str, Tensor] = {}
        scores, is_scored = (input_scores, is_frame) if target_scores is None else (target_scores, is_masked)
        if scores is not None:
            diversity, diagnostics = self.diversity(scores, is_scored)
            sums["diversity"] = diversity * is_masked.sum()

        num_predictions = self.count_predictions({"mask_time_indices": mask_time_indices, "num_frames": num_frames})
        divisors = num_items_in_batch or num_predictions
        terms = {name: total / divisors[name].clamp(min=1) for name, total in sums.items()}
        weights = self.config.loss_weights
        return SSLOutput(
            loss=torch.stack([weights[name] * term for name, term in terms.items()]).sum(),
            loss_terms={name: term.detach() for name, term in terms.items()},
            num_predictions=num_predictions,
            logits=logits,
            targets=targets,
            diagnostics=diagnostics,
            features=hidden.detach().mean(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _encode(
        self, input_values: Tensor, mask_time_indices: Tensor, noise: Tensor | None, **kwargs: Any
    ) -> tuple[ModelOutput, Tensor, Tensor, Tensor | None]:
        """The encoder's output for the masked input, and of all frames, unmasked: the normalised features of the CNN,
        (B, T, C), the mean square of its output, (B, T), and the scores of the inputs' codes, (B, T, G, V).
        """
        features: list[Tensor] = []
        scores: list[Tensor] = []

        def quantise(normalised: Tensor) -> Tensor:
            features.append(normalised)
            if self.input_quantizer is None:
                return normalised
            quantised = self.input_quantizer(normalised, self._training_noise(noise), self.gumbel_temperature)
            scores.append(quantised.logits)
            return quantised.vectors.to(normalised.dtype)

        with (
            scaled_output(self.encoder.feature_extractor, self.config.feature_grad_mult) as cnn_outputs,
            changed_features(self.encoder, quantise),
            masked_frames(self.encoder, mask_time_indices),
        ):
            encoded = self.encoder(input_values, **kwargs)
        energy = cnn_outputs[0].float().square().mean(dim=1)  # (B, C, T) before its LayerNorm -> (B, T)
        return encoded, features[0], energy, scores[0] if scores else None

    def contrast(
        self,
        hidden: Tensor,
        features: Tensor,
        masked_positions: Tensor,
        negatives: Tensor,
        gumbel_noise: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What follows the encoder: quantiser, heads and cosines, all of the masked frames alone.

        Args:
            hidden (`Tensor` of shape `(B, T, D)`): the encoder's output for the masked input.
            features (`Tensor` of shape `(B, T, C)`): the normalised features of its CNN.
            masked_positions (`Tensor` of shape `(B, M)`): as [`forward`] takes it.
            negatives (`Tensor` of shape `(B, M, K)`): likewise.
            gumbel_noise (`Tensor` of shape `(B, M, G * V)`, *optional*): likewise.

        Returns:
            the logits of the target and its negatives, (B · M, 1 + K), and the scores of the targets' codes,
            (B, M, G, V), where targets are quantised.
        """
        predictions = self.project_hid(take_frames(hidden, masked_positions))  # (B, M, P)
        latents = self.dropout_features(take_frames(features, masked_positions))  # (B, M, C)
        scores = None
        if self.quantizer is not None:
            latents, scores = self.quantizer(latents, self._training_noise(gumbel_noise), self.gumbel_temperature)
        targets = self.project_q(latents.to(self.project_q.weight.dtype))  # (B, M, P)
        kappa = self.config.contrastive_logits_temperature
        logits = contrastive_logits(predictions, targets, fingerprint(latents), negatives, kappa)
        return logits.flatten(0, 1), scores

    def diversity(self, scores: Tensor, is_scored: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L_d, and what tells a collapse of the codebooks.

        Args:
            scores (`Tensor` of shape `(B, P, G, V)`): of the codes, without noise.
            is_scored (boolean `Tensor` of shape `(B, P)`): `False` = fills the rectangle.
        """
        perplexities = probability_perplexity(scores, is_scored)  # (G,)
        return 1 - perplexities.mean() / scores.shape[-1], {
            "codebook_perplexity": choice_perplexity(scores, is_scored).mean(),
            "probability_perplexity": perplexities.detach().mean(),
            "gumbel_temperature": self.gumbel_temperature.clone(),
        }

    def _training_noise(self, noise: Tensor | None) -> Tensor | None:
        if self.training and noise is None:
            raise InputError("A quantiser needs Gumbel noise in training; give what `draw_inputs` draws.")
        return noise if self.training else None

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masked frames, by which the diversity of micro-batches is weighed, too; and all frames (`features`)."""
        num_masked = batch["mask_time_indices"].sum()
        return {"contrastive": num_masked, "diversity": num_masked, "features": batch["num_frames"].sum()}

    def after_optimizer_step(self, progress: float) -> None:
        """Cools the Gumbel softmax."""
        self.gumbel_temperature.fill_(self.config.gumbel_temperature(progress))

    @staticmethod
    def draw_inputs(
        config: Wav2Vec2PreTrainingConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws masks, negatives and Gumbel noise.

        Args:
            config ([`Wav2Vec2PreTrainingConfig`]): the config.
            batch (`dict[str, Tensor]`): `input_values` (B, S), and `attention_mask` (B, S) where rows are padded.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with what [`forward`] takes beyond it.

        Raises:
            InputError: for a waveform without a single frame.
        """
        frames, mask = draw_frame_masks(config, batch, generators)
        rows = list(zip(mask.sum(dim=1).tolist(), generators, strict=True))
        negatives = [draw_negatives(num_masked, config.num_negatives, generator) for num_masked, generator in rows]
        drawn = {
            "mask_time_indices": mask,
            "masked_positions": positions_of(mask),
            "negatives": pad_sequence(negatives, batch_first=True),
            "num_frames": torch.tensor(frames),
        }
        num_codes = config.num_codevector_groups * config.num_codevectors_per_group
        if config.quantize_targets:
            noise = [gumbel_noise(num_masked, num_codes, generator) for num_masked, generator in rows]
            drawn["gumbel_noise"] = pad_sequence(noise, batch_first=True)
        if config.quantize_inputs:
            noise = [gumbel_noise(n, num_codes, generator) for n, generator in zip(frames, generators, strict=True)]
            drawn["input_gumbel_noise"] = torch.stack(
                [F.pad(row, (0, 0, 0, mask.shape[1] - len(row))) for row in noise]
            )
        return {**batch, **drawn}

    @classmethod
    def from_encoder(cls, name_or_path: str | Path, **config: Any) -> Self:
        """Start from a published encoder, and continue with its quantiser and heads where it has them.

        A checkpoint of transformers' `Wav2Vec2ForPreTraining` has them (`facebook/wav2vec2-base`,
        `facebook/wav2vec2-xls-r-300m` …); the sizes of the config are then those of the checkpoint. With continuous
        targets only its encoder is used.

        Args:
            name_or_path (`str` or `Path`): anything `AutoModel.from_pretrained` takes.
            config: fields of the objective's config, except `encoder_config`, which is the encoder's.

        Raises:
            InputError: when `name_or_path` is no encoder, or `config` asks for other sizes than its heads have.
        """
        if not has_heads(name_or_path) or not config.get("quantize_targets", True):
            return super().from_encoder(name_or_path, **config)
        published, fields = load_with_heads(name_or_path, config)
        model = cls._started_from(published.wav2vec2, name_or_path, fields)
        model.load_state_dict(heads_of(published), strict=False)
        return model

    def export_encoder(self, path: str | Path, processor: Processor | None = None) -> None:
        """As for every objective; an encoder that has read quantised inputs is exported without their quantiser."""
        if self.input_quantizer is not None:
            logger.warning(
                "%s has no quantiser for its inputs, as no encoder of transformers has one: it reads continuous "
                "features, unlike in this training.",
                path,
            )
        super().export_encoder(path, processor)

    def to_transformers(self) -> Wav2Vec2ForPreTraining:
        """The model in transformers' class of the same method, in evaluation mode; `save_pretrained` then writes a
        checkpoint like the published ones.

        Raises:
            InputError: for an encoder, inputs or targets that this class does not have.
        """
        return as_published(self.config, self.state_dict())
