"""Which layers of an encoder (IA)^3 scales: those asked for, or by default keys, values and inner activations.

Liu et al. 2022, arXiv:2205.05638, section 3.3: learned vectors scale the keys and the values of the attention, and the
activations between the two layers of the feed-forward network, which are the input of the second of them.
"""

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck.targets import FEED_FORWARDS
from hf_ssl.tuners.lora_targets import lora_targets

PROJECTIONS = (
    ("k_proj", "v_proj"),
    ("key", "value"),
    ("key_proj", "value_proj"),
    ("linear_k", "linear_v"),
    ("k_lin", "v_lin"),
    ("k", "v"),
    ("projection_key", "projection_value"),
    # made in one layer with the queries, which are scaled, too
    ("qkv",),
    ("Wqkv",),
    ("in_proj",),
)
"""What transformers calls the key and value projections: the first of these that an encoder has are scaled."""

SECOND_LAYERS = (*FEED_FORWARDS, r"ffn1\.output_dense")
"""Regular expressions of the second layer of the feed-forward network; a Conformer has two of these networks."""


def ia3_targets(model: PreTrainedModel, layers: Sequence[str] | None = None) -> dict[str, str]:
    """The `target_modules` and `feedforward_modules` of a `peft.IA3Config`.

    Args:
        model (`PreTrainedModel`): an encoder, or a model with an encoder under its `base_model_prefix`. Nothing
            outside that encoder is matched.
        layers (`Sequence[str]`, *optional*): names of the layers to scale; by default keys, values and the second
            layers of the feed-forward networks.

    Returns:
        `dict[str, str]`: a regular expression for the full names of the layers that are scaled, and one for those of
        them whose input is, not their output.

    Raises:
        InputError: for an encoder without a default, or a name that no linear or convolutional layer of it has.
    """
    encoder = model.base_model
    prefix = "" if encoder is model else re.escape(f"{model.base_model_prefix}.")
    second = prefix + _layers(SECOND_LAYERS)
    if layers is not None:
        return {"target_modules": lora_targets(model, layers), "feedforward_modules": second}
    if encoder.config.model_type == "resnet":  # no attention, no feed-forward networks: the outputs of convolutions
        return {"target_modules": prefix + _layers(["convolution"]), "feedforward_modules": ""}
    return {"target_modules": prefix + _layers(_default_layers(encoder)), "feedforward_modules": second}


def _default_layers(encoder: PreTrainedModel) -> tuple[str, ...]:
    family = encoder.config.model_type
    linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    last_names = {name.rpartition(".")[2] for name in linear}
    # WavLM reads the weights of its projections and never calls the layers.
    candidates = () if family == "wavlm" else PROJECTIONS
    projections = next((names for names in candidates if last_names.issuperset(names)), ())
    if not projections and not any(re.fullmatch(_layers(SECOND_LAYERS), name) for name in linear):
        raise InputError(
            f"There are no default (IA)^3 targets for a {family} encoder; name layers to scale in "
            "model.tuner_config.target_modules."
        )
    return (*projections, *SECOND_LAYERS)


def _layers(names: Sequence[str]) -> str:
    """A regular expression of the full names of layers, in the encoder, that end in one of these."""
    return rf"(.*\.)?({'|'.join(names)})"
