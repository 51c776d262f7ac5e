"""Tells two encoders apart by what they compute: their architecture and their weights, not their name."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.modeling.blocks.pretrained import OPTIONAL

NOT_COMPUTED = re.compile(
    r"architectures|(torch_)?dtype|transformers_version|_name_or_path|auto_map|finetuning_task|problem_type|"
    r"id2label|label2id|num_labels|_num_labels|use_cache|output_\w+|return_dict|initializer\w*|\w*drop\w*|"
    r"mask_(time|feature)_\w+|apply_spec_augment|\w*_attn_implementation\w*|encoder_fingerprint"
)
"""Fields of a config that name or train a model, and do not change what it computes in evaluation."""

RECORDED = "encoder_fingerprint"
"""The field of an adapter's config.json that tells which encoder it was trained on."""


def fingerprint(encoder: PreTrainedModel) -> str:
    """The same for two encoders that compute the same, wherever they lie and whatever their parameters are called.

    Names are left out since transformers renames parameters between versions. Parts that a checkpoint may lack, which
    are then drawn anew (pooler, mask embeddings), do not count.

    Args:
        encoder (`PreTrainedModel`): a bare encoder; of a model with a head, its `base_model`.

    Returns:
        `str`: 64 hexadecimal digits (SHA-256).
    """
    digests = [_digest(tensor) for name, tensor in encoder.state_dict().items() if not _is_optional(name)]
    facts = {
        "model_type": encoder.config.model_type,
        "config": computed_fields(encoder.config),
        "weights": sorted(digests),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def recorded_fingerprint(config: PreTrainedConfig) -> str | None:
    """That of the encoder that an adapter was trained on; `None` where its config.json does not say."""
    return config.to_dict().get(RECORDED)


def computed_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a config that change what its model computes in evaluation, those of nested configs flattened.

    Those that have their defaults are left out, since a later version of transformers may have more fields.
    """
    defaults = dict(_flat(type(config)().to_dict(), ""))
    fields = dict(_flat(config.to_dict(), ""))
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


def _flat(fields: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if NOT_COMPUTED.fullmatch(name):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_optional(name: str) -> bool:
    return any(part in name for part in OPTIONAL)


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().float().cpu().contiguous()
    return hashlib.sha256(str(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()
