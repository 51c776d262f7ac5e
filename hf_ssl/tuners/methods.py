"""The tuners: what each name stands for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peft import (
    AdaLoraConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    VeraConfig,
)
from transformers import PreTrainedModel

from hf_ssl.errors import unknown_name
from hf_ssl.tuners.bottleneck import BottleneckConfig
from hf_ssl.tuners.freezing import train_biases, train_head, train_layer_norms
from hf_ssl.tuners.ia3_targets import ia3_targets
from hf_ssl.tuners.lora_targets import lora_targets
from hf_ssl.tuners.prefix import PrefixConfig
from hf_ssl.tuners.soft_prompt import SoftPromptConfig


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """A way of tuning an encoder for a task. Neither a config nor a freezer: all weights are trained.

    Args:
        summary (`str`): what it does, in a line.
        config_class (`type`, *optional*): of a method of PEFT's or of ours, which puts an adapter into the encoder.
        fixed (`Mapping[str, Any]`): fields of the config that make the method what it is.
        defaults (`Mapping[str, Any]`): fields of the config whose defaults are others than PEFT's.
        targets (`Callable`, *optional*): of a model and of names of layers (`None`: those for its family), the fields
            that say which layers are adapted; by default the method finds them itself.
        convolutions (`bool`): whether it adapts convolutions too, and not linear layers alone.
        refused (`Mapping[str, str]`): families of encoders in which PEFT's method fails, and why.
        why_unmergeable (`str`, *optional*): why the adapter cannot be merged into the weights, if it cannot.
        freezer (`Callable`, *optional*): leaves a few of the model's own parameters to be trained.
    """

    summary: str
    config_class: type[PeftConfig] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    targets: Callable[[PreTrainedModel, Sequence[str] | None], dict[str, str]] | None = None
    convolutions: bool = True
    refused: Mapping[str, str] = field(default_factory=dict)
    why_unmergeable: str | None = None
    freezer: Callable[[PreTrainedModel], PreTrainedModel] | None = None


def _lora_targets(model: PreTrainedModel, layers: Sequence[str] | None) -> dict[str, str]:
    return {"target_modules": lora_targets(model, layers)}


LORA = {"r": 8, "lora_alpha": 16}
CHANNELS_LAST = "PEFT takes the input of its linear layers, which has a height and a width, for a convolution's"
NOT_LINEAR = "there is an activation function in it, which no weights of the encoder can take over"
NO_TOKENS = "no weights of the encoder make tokens that the input does not have"
UNKNOWN_STEPS = 2**31
"""AdaLoRA's config wants the number of steps, which the trainer tells it when it begins."""

TUNERS: dict[str, Tuner] = {
    "none": Tuner(summary="trains all weights"),
    "head": Tuner(summary="only the head; the encoder is frozen", freezer=train_head),
    "bitfit": Tuner(summary="the biases (BitFit, arXiv:2106.10199)", freezer=train_biases),
    "layer_norm": Tuner(summary="gain and bias of the layer norms (arXiv:2211.08682)", freezer=train_layer_norms),
    "lora": Tuner(
        summary="low-rank updates of some layers (arXiv:2106.09685)",
        config_class=LoraConfig,
        defaults=LORA,
        targets=_lora_targets,
    ),
    "dora": Tuner(
        summary="LoRA of the direction of the weights, and their magnitude (arXiv:2402.09353)",
        config_class=LoraConfig,
        fixed={"use_dora": True},
        defaults=LORA,
        targets=_lora_targets,
    ),
    "rslora": Tuner(
        summary="LoRA scaled by alpha / sqrt(r) (arXiv:2312.03732)",
        config_class=LoraConfig,
        fixed={"use_rslora": True},
        defaults=LORA,
        targets=_lora_targets,
    ),
    "adalora": Tuner(
        summary="LoRA whose ranks go to the layers that need them (arXiv:2303.10512)",
        config_class=AdaLoraConfig,
        fixed={"total_step": UNKNOWN_STEPS, "rank_pattern": None},
        defaults={"lora_alpha": 16},
        targets=_lora_targets,
    ),
    "vera": Tuner(
        summary="vectors that scale random low-rank updates, the same in all layers (arXiv:2310.11454)",
        config_class=VeraConfig,
        targets=_lora_targets,
        convolutions=False,
    ),
    "loha": Tuner(
        summary="Hadamard products of low-rank updates (arXiv:2108.06098)",
        config_class=LoHaConfig,
        targets=_lora_targets,
    ),
    "lokr": Tuner(
        summary="Kronecker products of low-rank updates (arXiv:2309.14859)",
        config_class=LoKrConfig,
        targets=_lora_targets,
    ),
    "oft": Tuner(
        summary="rotations of the weights, block by block (arXiv:2306.07280)",
        config_class=OFTConfig,
        targets=_lora_targets,
        convolutions=False,
        refused=dict.fromkeys(("convnext", "convnextv2"), CHANNELS_LAST),
    ),
    "hra": Tuner(
        summary="chains of Householder reflections of the weights (arXiv:2405.17484)",
        config_class=HRAConfig,
        targets=_lora_targets,
        convolutions=False,
    ),
    "fourierft": Tuner(
        summary="updates with a few Fourier coefficients (arXiv:2405.03003)",
        config_class=FourierFTConfig,
        defaults={"init_weights": True},  # from zero, so that the encoder starts as it is
        targets=_lora_targets,
        convolutions=False,
    ),
    "ia3": Tuner(
        summary="vectors that scale keys, values and inner activations ((IA)^3, arXiv:2205.05638)",
        config_class=IA3Config,
        fixed={"feedforward_modules": None},  # follow from the targets
        targets=ia3_targets,
    ),
    "houlsby": Tuner(
        summary="bottlenecks after the attention and the feed-forward network (arXiv:1902.00751)",
        config_class=BottleneckConfig,
        fixed={"variant": "houlsby", "fused_adapters": None},
        why_unmergeable=NOT_LINEAR,
    ),
    "pfeiffer": Tuner(
        summary="bottlenecks after the feed-forward network (arXiv:2005.00052)",
        config_class=BottleneckConfig,
        fixed={"variant": "pfeiffer", "fused_adapters": None},
        why_unmergeable=NOT_LINEAR,
    ),
    "parallel": Tuner(
        summary="bottlenecks beside the feed-forward network (arXiv:2110.04366)",
        config_class=BottleneckConfig,
        fixed={"variant": "parallel", "fused_adapters": None},
        why_unmergeable=NOT_LINEAR,
    ),
    "prefix": Tuner(
        summary="learned keys and values before those of the tokens, in each attention (arXiv:2101.00190)",
        config_class=PrefixConfig,
        why_unmergeable="no weights of the encoder make keys and values that no token has",
    ),
    "prompt": Tuner(
        summary="learned vectors before the tokens, patches or frames (arXiv:2104.08691, VPT-shallow)",
        config_class=SoftPromptConfig,
        fixed={"deep": False, "initialised": False},
        why_unmergeable=NO_TOKENS,
    ),
    "deep_prompt": Tuner(
        summary="learned vectors before the tokens, patches or frames of every layer (VPT-deep, arXiv:2203.12119)",
        config_class=SoftPromptConfig,
        fixed={"deep": True, "initialised": False},
        why_unmergeable=NO_TOKENS,
    ),
}


def tuner_named(name: str) -> Tuner:
    """The tuner.

    Raises:
        InputError: for a name that none has, with the nearest one.
    """
    if name not in TUNERS:
        raise unknown_name("tuner (model.tuner)", name, TUNERS)
    return TUNERS[name]
