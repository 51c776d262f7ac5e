"""The configuration of wav2vec 2.0."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.pretrained import SSLConfig
from hf_ssl.modeling.blocks.waveform import adapt_waveform_encoder


@strict
class Wav2Vec2PreTrainingConfig(SSLConfig):
    """Configuration of wav2vec 2.0; the defaults are those of the released BASE. Names are transformers' where it has
    one.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): a waveform encoder of the wav2vec 2.0 family; by
            default wav2vec 2.0 BASE. Its own SpecAugment is switched off, and what it says of quantiser and loss does
            not count.
        num_codevector_groups (`int`): G, codebooks of the product quantiser.
        num_codevectors_per_group (`int`): V, codes of each.
        codevector_dim (`int`): numbers of a quantised target, a multiple of G.
        proj_codevector_dim (`int`): P, of the space in which predictions and targets are compared.
        num_negatives (`int`): K, negatives of a masked frame.
        contrastive_logits_temperature (`float`): κ > 0, divides the cosines.
        diversity_loss_weight (`float`): α ≥ 0, weight of the diversity of the codes.
        feature_penalty_weight (`float`): ≥ 0, weight of the mean squared output of the CNN; 0 in LARGE.
        feat_quantizer_dropout (`float`): of the features that become targets, in [0, 1).
        feature_grad_mult (`float`): in (0, 1], multiplies the gradient that reaches the CNN.
        quantize_inputs (`bool`): whether the Transformer reads quantised features (the paper's ablation): a second
            quantiser, of C numbers, stands before the encoder's projection.
        quantize_targets (`bool`): whether targets are quantised, or else projected features (the ablation).
        gumbel_temperature_start (`float`): τ of the Gumbel softmax at the beginning of the training.
        gumbel_temperature_end (`float`): τ never falls below it; 0.1 in LARGE.
        gumbel_temperature_decay (`float`): in (0, 1], what τ would be multiplied by over the whole training, without
            its floor: (factor of an update)^(number of updates); the released BASE has .999995^400,000 = .135.
        mask_time_prob (`float`): masked share of the frames in (0, 1], before overlap: .65 masks about 49 %.
        mask_time_length (`int`): frames a masked span.
        mask_time_min_masks (`int`): the least number of spans in a recording, at least 1.

    Raises:
        InputError: for values out of range, or an encoder that is not of that family.
    """

    model_type = "wav2vec2-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2")}

    num_codevector_groups: int = 2
    num_codevectors_per_group: int = 320
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    num_negatives: int = 100
    contrastive_logits_temperature: float | int = 0.1
    diversity_loss_weight: float | int = 0.1
    feature_penalty_weight: float | int = 10.0
    feat_quantizer_dropout: float | int = 0.1
    feature_grad_mult: float | int = 0.1
    quantize_inputs: bool = False
    quantize_targets: bool = True
    gumbel_temperature_start: float | int = 2.0
    gumbel_temperature_end: float | int = 0.5
    gumbel_temperature_decay: float | int = 0.135
    mask_time_prob: float | int = 0.65
    mask_time_length: int = 10
    mask_time_min_masks: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        counts = ["num_codevector_groups", "num_codevectors_per_group", "codevector_dim", "proj_codevector_dim"]
        for name in (*counts, "num_negatives", "mask_time_length", "mask_time_min_masks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        positive = ["contrastive_logits_temperature", "gumbel_temperature_start", "gumbel_temperature_end"]
        shares = ["feature_grad_mult", "gumbel_temperature_decay", "mask_time_prob"]
        for name in (*positive, *shares):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0.")
        check_shares(self, *shares, "feat_quantizer_dropout")
        for name in ("diversity_loss_weight", "feature_penalty_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; a weight is 0 or more.")
        assert isinstance(self.encoder_config, PreTrainedConfig)
        adapt_waveform_encoder(self.encoder_config, "wav2vec 2.0")
        sizes = {"codevector_dim": self.codevector_dim} if self.quantize_targets else {}
        if self.quantize_inputs:
            sizes["the last number in the encoder's conv_dim"] = self.encoder_config.conv_dim[-1]
        for name, size in sizes.items():
            if size % self.num_codevector_groups:
                raise InputError(
                    f"{name} is {size}, which {self.num_codevector_groups} groups do not divide; choose another "
                    "num_codevector_groups."
                )

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term of the loss."""
        return {
            "contrastive": 1.0,
            "diversity": self.diversity_loss_weight,
            "features": self.feature_penalty_weight,
        }

    def gumbel_temperature(self, progress: float) -> float:
        """τ at some point of the training, whose share `progress`, in [0, 1], is done."""
        decayed = self.gumbel_temperature_start * self.gumbel_temperature_decay**progress
        return max(decayed, self.gumbel_temperature_end)
