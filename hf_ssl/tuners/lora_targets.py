"""Which layers of an encoder LoRA adapts: those asked for, or by default its query and value projections.

Hu et al. 2021, arXiv:2106.09685, section 7.1 and table 5: for a given number of parameters, adapting the query and
value projections of the attention does best. The names are those of transformers 5 (`q_proj` in ViT, not
`attention.query`).
"""

import re
from collections.abc import Collection, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

from hf_ssl.errors import InputError, unknown_name

PROJECTIONS = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("linear_q", "linear_v"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("projection_query", "projection_value"),
    ("qkv",),
    ("Wqkv",),
    ("c_attn",),
)
"""What transformers calls the query and value projections: the first of these that an encoder has are adapted."""

OWN_LAYERS: dict[str, tuple[str, ...]] = {
    # without attention: the pointwise layers, which hold nearly all of ConvNeXt's weights; every convolution of ResNet
    "convnext": ("pwconv1", "pwconv2"),
    "convnextv2": ("pwconv1", "pwconv2"),
    "resnet": ("convolution",),
    "deberta": ("in_proj",),
    # WavLM hands its projections' weights to `F.multi_head_attention_forward` and never calls the layers, so LoRA on
    # them would change nothing and learn nothing; its feed-forward layers are called.
    "wavlm": ("intermediate_dense", "output_dense"),
}
"""What is adapted in families that have no such projections, or none that can be adapted."""


def lora_targets(model: PreTrainedModel, layers: Sequence[str] | None = None) -> str:
    """The `target_modules` of a `peft.LoraConfig`.

    Args:
        model (`PreTrainedModel`): an encoder, or a model with an encoder under its `base_model_prefix`. Layers outside
            that encoder (a head, a teacher's copy of the encoder) are never matched, whatever their names, nor is its
            pooler, which is part of the head.
        layers (`Sequence[str]`, *optional*): names of the layers to adapt, e.g. `["q_proj", "k_proj", "v_proj",
            "o_proj"]`; by default the query and value projections, or those of `OWN_LAYERS`.

    Returns:
        `str`: a regular expression that the full names of the adapted layers match.

    Raises:
        InputError: for an encoder without a default, or a name that no linear or convolutional layer of it has.
    """
    encoder = model.base_model
    adaptable = {
        name.rpartition(".")[2]
        for name, module in encoder.named_modules()
        if isinstance(module, (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d))
    }
    names = tuple(layers or _default_layers(encoder.config.model_type, adaptable))
    for name in names:
        if name not in adaptable:
            raise unknown_name(
                f"linear or convolutional layer in the {encoder.config.model_type} encoder", name, adaptable
            )
    prefix = "" if encoder is model else re.escape(f"{model.base_model_prefix}.")
    return rf"{prefix}(?!pooler\.)(.*\.)?({'|'.join(map(re.escape, names))})"


def _default_layers(family: str, adaptable: Collection[str]) -> tuple[str, ...]:
    if family in OWN_LAYERS:
        return OWN_LAYERS[family]
    for names in PROJECTIONS:
        if all(name in adaptable for name in names):
            return names
    raise InputError(
        f"There are no default LoRA targets for a {family} encoder; name layers to adapt in "
        "model.tuner_config.target_modules."
    )
