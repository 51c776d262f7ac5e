"""Which layers of an encoder (IA)^3 scales, for each family of images, speech and text.

Liu et al. 2022, arXiv:2205.05638, section 3.3: learned vectors scale the keys and the values of the attention, and the
activations between the two layers of the feed-forward network, which are the input of the second of them.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.tuners.lora_targets import lora_targets

SECOND_OF_BERT = r"\d+\.output\.dense"
"""The dense layer of a layer's own output, not of its attention's."""

# model_type of the encoder -> names of the key and value projections, second layer of the feed-forward network
SCALED_LAYERS: dict[str, tuple[tuple[str, ...], str]] = {
    # images
    "beit": (("k_proj", "v_proj"), "fc2"),
    "data2vec-vision": (("key", "value"), SECOND_OF_BERT),
    "deit": (("k_proj", "v_proj"), "fc2"),
    "dinov2": (("k_proj", "v_proj"), "fc2"),
    "dinov2_with_registers": (("k_proj", "v_proj"), "fc2"),
    "ijepa": (("k_proj", "v_proj"), "fc2"),
    "swin": (("k_proj", "v_proj"), "fc2"),
    "swinv2": (("key", "value"), SECOND_OF_BERT),
    "vit": (("k_proj", "v_proj"), "fc2"),
    "vit_msn": (("k_proj", "v_proj"), "fc2"),
    # without attention; ResNet without feed-forward networks too: the outputs of its convolutions
    "convnext": ((), "pwconv2"),
    "convnextv2": ((), "pwconv2"),
    "resnet": (("convolution",), ""),
    # speech
    "audio-spectrogram-transformer": (("k_proj", "v_proj"), "fc2"),
    "data2vec-audio": (("k_proj", "v_proj"), "output_dense"),
    "data2vec2-audio": (("k_proj", "v_proj"), "output_dense"),
    "hubert": (("k_proj", "v_proj"), "output_dense"),
    "sew": (("k_proj", "v_proj"), "output_dense"),
    "unispeech": (("k_proj", "v_proj"), "output_dense"),
    "unispeech-sat": (("k_proj", "v_proj"), "output_dense"),
    "wav2vec2": (("k_proj", "v_proj"), "output_dense"),
    "wav2vec2-bert": (("linear_k", "linear_v"), "output_dense"),
    "wav2vec2-conformer": (("linear_k", "linear_v"), "output_dense"),
    # WavLM reads the weights of its projections and never calls the layers.
    "wavlm": ((), "output_dense"),
    # text
    "albert": (("key", "value"), "ffn_output"),
    "bert": (("key", "value"), SECOND_OF_BERT),
    "camembert": (("key", "value"), SECOND_OF_BERT),
    "data2vec-text": (("key", "value"), SECOND_OF_BERT),
    # DeBERTa and ModernBERT make queries, keys and values in one layer: the queries are scaled, too.
    "deberta": (("in_proj",), SECOND_OF_BERT),
    "deberta-v2": (("key_proj", "value_proj"), SECOND_OF_BERT),
    "distilbert": (("k_lin", "v_lin"), "lin2"),
    "electra": (("key", "value"), SECOND_OF_BERT),
    "ernie": (("key", "value"), SECOND_OF_BERT),
    "modernbert": (("Wqkv",), r"mlp\.Wo"),
    "mpnet": (("k", "v"), SECOND_OF_BERT),
    "roberta": (("key", "value"), SECOND_OF_BERT),
    "xlm-roberta": (("key", "value"), SECOND_OF_BERT),
}


def ia3_targets(model: PreTrainedModel, layers: Sequence[str] | None = None) -> dict[str, str]:
    """The `target_modules` and `feedforward_modules` of a `peft.IA3Config`.

    Args:
        model (`PreTrainedModel`): an encoder, or a model with an encoder under its `base_model_prefix`. Nothing
            outside that encoder is matched.
        layers (`Sequence[str]`, *optional*): names of the layers to scale; by default those of `SCALED_LAYERS`.

    Returns:
        `dict[str, str]`: a regular expression for the full names of the layers that are scaled, and one for those of
        them whose input is, not their output.

    Raises:
        InputError: for an encoder without a default, or a name that no linear or convolutional layer of it has.
    """
    encoder = model.base_model
    family = encoder.config.model_type
    if family not in SCALED_LAYERS and layers is None:
        raise InputError(
            f"There are no default (IA)^3 targets for a {family} encoder; name layers to scale in "
            "model.tuner_config.target_modules."
        )
    projections, second = SCALED_LAYERS.get(family, ((), ""))
    prefix = "" if encoder is model else re.escape(f"{model.base_model_prefix}.")
    names = "|".join([*projections, *([second] if second else [])])
    return {
        "target_modules": rf"{prefix}(.*\.)?({names})" if layers is None else lora_targets(model, layers),
        "feedforward_modules": rf"{prefix}(.*\.)?{second}" if second else "",
    }
