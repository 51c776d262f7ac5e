"""HuBERT: predict the cluster of every masked frame from the frames around it."""

# B recordings, S samples, U units of a recording, T frames (20 ms), N predicted frames,
# D hidden size, C channels of the CNN, V clusters

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
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.codebook import cosine_logits, drop_special_labels
from hf_ssl.modeling.blocks.frames import IGNORED, downsampling, labels_at_frames
from hf_ssl.modeling.blocks.gradient import scaled_output
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.positions import positions_of, take_frames, take_labels
from hf_ssl.modeling.blocks.pretrained import SSLConfig, SSLPreTrainedModel
from hf_ssl.modeling.blocks.waveform import adapt_waveform_encoder, draw_frame_masks, masked_frames


@strict
class HubertPreTrainingConfig(SSLConfig):
    """Configuration of HuBERT; the defaults are the paper's for the second iteration of BASE.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): a waveform encoder of the wav2vec 2.0 family
            (`hubert`, `wav2vec2`, `wavlm`, `unispeech-sat`, `data2vec-audio`, `sew` ...); by default HuBERT BASE. Its
            own SpecAugment is switched off, and it has a mask embedding in any case.
        num_clusters (`int`): V, the number of k-means clusters: 100 in the first iteration, 500 in the second.
        label_rate (`float`): units a second, Hz: 100 for MFCC frames, 50 for the layers of an encoder.
        sampling_rate (`int`): of the waveforms, Hz.
        final_dim (`int`): dimensions of the space in which frames and codewords are compared.
        temperature (`float`): τ > 0, divides the cosines.
        mask_time_prob (`float`): masked share of the frames in (0, 1], before overlap: .80 masks about 55 %.
        mask_time_length (`int`): frames (of 20 ms) a masked span.
        mask_time_min_masks (`int`): the least number of spans in a recording, at least 1.
        alpha (`float`): α in [0, 1], weight of the masked frames; the unmasked ones have 1 − α.
        feature_penalty_weight (`float`): weight of the mean squared output of the CNN.
        feature_grad_mult (`float`): in (0, 1], multiplies the gradient that reaches the CNN.

    Raises:
        InputError: for values out of range, or an encoder that is not of that family.
    """

    model_type = "hubert-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="hubert")}

    num_clusters: int = 500
    label_rate: float | int = 50
    sampling_rate: int = 16_000
    final_dim: int = 256
    temperature: float | int = 0.1
    mask_time_prob: float | int = 0.80
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    alpha: float | int = 1.0
    feature_penalty_weight: float | int = 10.0
    feature_grad_mult: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("num_clusters", "final_dim", "mask_time_length", "mask_time_min_masks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("label_rate", "temperature", "mask_time_prob", "feature_grad_mult"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0.")
        check_shares(self, "mask_time_prob", "alpha", "feature_grad_mult")
        assert isinstance(self.encoder_config, PreTrainedConfig)
        adapt_waveform_encoder(self.encoder_config, "HuBERT")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term of the loss."""
        return {"masked": self.alpha, "unmasked": 1 - self.alpha, "features": self.feature_penalty_weight}

    @property
    def units_per_frame(self) -> float:
        """Units from one frame of the encoder to the next: 2 for MFCC units, 1 for units of an encoder's layer."""
        return self.label_rate * downsampling(self.encoder_config) / self.sampling_rate


class HubertForPreTraining(SSLPreTrainedModel):
    """Hidden units (Hsu et al. 2021, arXiv:2106.07447): masked prediction of clusters that an offline k-means found.

    `L = α · L_m + (1 − α) · L_u` (section II-B), with `L_m = mean_{t ∈ M} −log p(z_t | X̃, t)` over the masked frames
    M, L_u likewise over the others, and `p(c | X̃, t) = softmax_c( cos(A o_t, e_c) / τ )` (Eq. 3): o_t the encoder's
    output for the masked input X̃, A the projection head, e_c the codeword and z_t the cluster of frame t. The penalty
    on the CNN's output that the authors' code adds keeps a group-norm CNN from growing.

    Reference: fairseq, `models/hubert/hubert.py` and `criterions/hubert_criterion.py`. Deviations:

    * The masks of a batch are not thinned to the same size (see [`span_mask`]); α and 1 − α weigh two means, where
      the authors' criterion divides both sums by the joint count (the same for their α = 1).
    * The last frames, where the units have ended, are neither predicted nor penalised, but remain as context; fairseq
      cuts them off.
    * The penalty is the mean over the global batch, not over each GPU's own; a softmax over V codewords replaces the
      equal NCE form.
    * A starts from N(0, 0.02²) without bias (transformers' rule) instead of PyTorch's default, which for D = 768 has
      the same spread. The encoder starts as transformers has it; its positional convolution then has a standard
      deviation of .0074 for BASE, where fairseq has .0064.
    """

    config: HubertPreTrainingConfig
    main_input_name = "input_values"

    def __init__(self, config: HubertPreTrainingConfig) -> None:
        super().__init__(config)
        self.projection_head = nn.Linear(self.encoder.config.hidden_size, config.final_dim)
        self.codebook = nn.Parameter(torch.empty(config.num_clusters, config.final_dim))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HubertForPreTraining):
            init.uniform_(module.codebook)

    @torch.no_grad()
    def load_labels(self, label_embeddings: Tensor, projection: dict[str, Tensor]) -> None:
        """Goes on with a released checkpoint's codewords and projection; the units have to be of its own k-means.

        Args:
            label_embeddings (`Tensor` of shape `(4 + V, final_dim)`): its `label_embs_concat`, of which the special
                rows are dropped ([`drop_special_labels`]).
            projection (`dict[str, Tensor]`): its `final_proj`: `weight` (final_dim, D) and `bias` (final_dim,).

        Raises:
            InputError: for other numbers of clusters or dimensions than the model's.
        """
        codebook = drop_special_labels(label_embeddings, self.config.num_clusters)
        given, wanted = tuple(projection["weight"].shape), tuple(self.projection_head.weight.shape)
        if given != wanted or codebook.shape[1] != wanted[0]:
            what = f"A projection {given} and codewords of {codebook.shape[1]} dimensions"
            raise InputError(f"{what} do not fit {wanted}, final_dim and the encoder's hidden size; change these.")
        self.codebook.copy_(codebook)
        self.projection_head.load_state_dict(projection)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        mask_time_indices: Tensor,
        labels: Tensor,
        masked_positions: Tensor,
        unmasked_positions: Tensor,
        attention_mask: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of recordings; [`draw_inputs`] makes its masks and frame labels.

        Args:
            input_values (`Tensor` of shape `(B, S)`): waveforms at the config's `sampling_rate`.
            mask_time_indices (boolean `Tensor` of shape `(B, T)`): `True` = masked.
            labels (`Tensor` of shape `(B, T)`): the unit of each frame in 0 … V − 1, −100 = not predicted.
            masked_positions (`Tensor` of shape `(B, M)`): the masked frames that have a label, see [`positions_of`].
            unmasked_positions (`Tensor` of shape `(B, U)`): the others that have one.
            attention_mask (`Tensor` of shape `(B, S)`, *optional*): 1 = sample, 0 = padding; none where all rows are
                full.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisors of the terms ([`count_predictions`])
                summed over the whole optimiser step; by default those of this batch.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms` `masked` and, if α < 1, `unmasked` (nats), and `features`; `logits` (N, V) and
            `targets` (N,) of the masked frames; `features` (B, D), the mean of the encoder's output.

        Raises:
            InputError: when the labels are not one a frame.
        """
        with (
            scaled_output(self.encoder.feature_extractor, self.config.feature_grad_mult) as cnn_outputs,
            masked_frames(self.encoder, mask_time_indices),
        ):
            encoded = self.encoder(input_values, attention_mask=attention_mask, **kwargs)
        hidden = encoded.last_hidden_state  # (B, T, D)
        if labels.shape != hidden.shape[:2]:
            raise InputError(
                f"labels have shape {tuple(labels.shape)} but the encoder has {tuple(hidden.shape[:2])} frames; "
                "`draw_inputs` turns units of any rate into one label a frame."
            )
        energy = cnn_outputs[0].float().square().mean(dim=1)  # (B, C, T) before its LayerNorm -> (B, T)
        logits, targets = self._predictions(hidden, labels, masked_positions)  # (N, V), (N,)

        weights = self.config.loss_weights
        sums = {
            "masked": F.cross_entropy(logits, targets, reduction="sum"),
            "features": (energy * (labels != IGNORED)).sum(),
        }
        if weights["unmasked"] > 0:
            unmasked = self._predictions(hidden, labels, unmasked_positions)
            sums["unmasked"] = F.cross_entropy(*unmasked, reduction="sum")
        num_predictions = self.count_predictions({"labels": labels, "mask_time_indices": mask_time_indices})
        divisors = num_items_in_batch or num_predictions
        terms = {name: total / divisors[name].clamp(min=1) for name, total in sums.items()}
        return SSLOutput(
            loss=torch.stack([weights[name] * term for name, term in terms.items()]).sum(),
            loss_terms={name: term.detach() for name, term in terms.items()},
            num_predictions=num_predictions,
            logits=logits,
            targets=targets,
            features=hidden.detach().mean(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _predictions(self, hidden: Tensor, labels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the clusters, (N, V), and labels, (N,), of the frames at the positions."""
        frames = self.projection_head(take_frames(hidden, positions)).flatten(0, 1)
        logits = cosine_logits(frames, self.codebook, self.config.temperature)
        return logits, take_labels(labels, positions, IGNORED).flatten()

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many labelled frames are masked, are not, and are penalised (`features`: both)."""
        labelled, masked = batch["labels"] != IGNORED, batch["mask_time_indices"]
        return {
            "masked": (labelled & masked).sum(),
            "unmasked": (labelled & ~masked).sum(),
            "features": labelled.sum(),
        }

    @staticmethod
    def draw_inputs(
        config: HubertPreTrainingConfig, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> dict[str, Tensor]:
        """Draws the masks and turns `units` into frame labels.

        Args:
            config ([`HubertPreTrainingConfig`]): the config.
            batch (`dict[str, Tensor]`): `input_values` (B, S); `units` (B, U) at the config's `label_rate`, padded
                with −100; and `attention_mask` (B, S) where rows are padded.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with `mask_time_indices` and `labels`, (B, T), in place of `units`.

        Raises:
            InputError: without units, for a waveform without a single frame, or for units that are not of this
                waveform, rate or number of clusters.
        """
        if "units" not in batch:
            raise InputError(
                "HuBERT predicts cluster units, but the data has none; set data.units to a folder made by "
                "`hf-ssl cluster`."
            )
        batch = dict(batch)
        units = batch.pop("units")
        frames, mask = draw_frame_masks(config, batch, generators)
        labels = torch.full(mask.shape, IGNORED)
        for row, row_frames in enumerate(frames):
            row_units = units[row][units[row] != IGNORED]
            _check_units(config, row_units, row_frames)
            labels[row, :row_frames] = labels_at_frames(row_units, row_frames, config.units_per_frame)
        labelled = labels != IGNORED
        return {
            **batch,
            "labels": labels,
            "mask_time_indices": mask,
            "masked_positions": positions_of(mask & labelled),
            "unmasked_positions": positions_of(~mask & labelled),
        }


def _check_units(config: HubertPreTrainingConfig, units: Tensor, frames: int) -> None:
    """Refuses units (U,) that cannot be of a waveform of so many frames; ends may differ by a tenth of a second."""
    if len(units) == 0 or units.min() < 0:
        found = "no units" if len(units) == 0 else f"the unit {int(units.min())}"
        raise InputError(f"A waveform of {frames} frames has {found}; make its units again with `hf-ssl cluster`.")
    expected = frames * config.units_per_frame
    if abs(len(units) - expected) > max(4, 0.1 * config.label_rate):
        rate = config.label_rate * len(units) / expected
        raise InputError(
            f"A waveform of {frames} frames has {len(units)} units, about {rate:.0f} Hz, but label_rate is "
            f"{config.label_rate:g} Hz; set label_rate to that of the units, or make them again with `hf-ssl cluster`."
        )
    if units.max() >= config.num_clusters:
        raise InputError(
            f"A unit is {int(units.max())} but num_clusters is {config.num_clusters}; set num_clusters to match the "
            "units."
        )
