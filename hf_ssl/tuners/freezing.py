"""Tuning by freezing: a few of an encoder's own parameters are trained, and its head.

Nothing is added to the model and nothing wrapped around it: it is saved and loaded whole, like any other. The pooler
belongs to the head.
"""

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError


def train_head(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze the encoder (probing with a head that may be deeper than linear).

    Args:
        model (`PreTrainedModel`): with a head.

    Returns:
        the same model; batch normalisations in it still follow the data with their running statistics.
    """
    return _train(model, ())


def train_biases(model: PreTrainedModel) -> PreTrainedModel:
    """BitFit (Ben-Zaken et al. 2021, arXiv:2106.10199, section 3): only the biases and the head are trained.

    All biases of the encoder: of its attention (DeBERTa's `q_bias` too), its feed-forward layers and its
    normalisations (β); those of the embeddings and of a waveform encoder's convolutions too, as far as there are any.

    Args:
        model (`PreTrainedModel`): a bare encoder, or one with a head.

    Returns:
        the same model.

    Raises:
        InputError: for an encoder without biases, such as ModernBERT.
    """
    biases = [name for name, _ in model.base_model.named_parameters() if name.endswith((".bias", "_bias"))]
    if not biases:
        raise InputError(
            f"The {model.base_model.config.model_type} encoder has no biases to train; choose another tuner than "
            "bitfit, such as lora."
        )
    return _train(model, biases)


def train_layer_norms(model: PreTrainedModel) -> PreTrainedModel:
    """LN-tuning (Qi et al. 2022, arXiv:2211.08682): only gain and bias of the layer norms, and the head, are trained.

    Args:
        model (`PreTrainedModel`): a bare encoder, or one with a head.

    Returns:
        the same model.

    Raises:
        InputError: for an encoder without layer norms, such as ResNet.
    """
    norms = [
        f"{name}.{parameter}"
        for name, module in model.base_model.named_modules()
        if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))  # some encoders have a class of their own
        for parameter, _ in module.named_parameters(recurse=False)
    ]
    if not norms:
        raise InputError(
            f"The {model.base_model.config.model_type} encoder has no layer norms to train; choose another tuner than "
            "layer_norm, such as lora."
        )
    return _train(model, norms)


def head_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """What of a model is its head, by name: all that is not in the encoder, and the encoder's pooler."""
    inside = "" if model.base_model is model else f"{model.base_model_prefix}."
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(inside) or name.removeprefix(inside).startswith("pooler.")
    }


def _train(model: PreTrainedModel, names: Collection[str]) -> PreTrainedModel:
    """Train the named parameters of the encoder, and the head, and nothing else."""
    model.requires_grad_(False)
    for name in names:
        model.base_model.get_parameter(name).requires_grad_(True)
    for parameter in head_parameters(model).values():
        parameter.requires_grad_(True)
    return model
