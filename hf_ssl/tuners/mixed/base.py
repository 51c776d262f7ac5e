"""The one model that several adapters share."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.load_report import no_load_report
from hf_ssl.tuners.fingerprint import computed_fields
from hf_ssl.tuners.mixed.stored_adapter import StoredAdapter

CLASSIFIERS = (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForImageClassification,
    AutoModelForAudioClassification,
)
NOT_USED = ("masked_spec_embed", "mask_token")
"""Parameters for training, which a checkpoint may lack."""


def load_base(adapter: StoredAdapter, encoder: str | Path | None = None) -> tuple[PreTrainedModel, frozenset[str]]:
    """The model that an adapter was trained in, with a head for one class, as it was before.

    Args:
        adapter ([`StoredAdapter`]): what to load the model of.
        encoder (`str` or `Path`, *optional*): where its encoder is now, if it was moved.

    Returns:
        the model in fp32, in evaluation mode, without gradients; and the names of the parameters that the encoder's
        checkpoint lacks, which an adapter must bring: the head, and the pooler if it has none.

    Raises:
        InputError: for a model that is no classifier, or an encoder that is not there or of another architecture.
    """
    config = copy.deepcopy(adapter.config)
    config.id2label, config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    address = str(encoder or adapter.encoder)
    try:
        with no_load_report():
            model, report = _classifier(adapter).from_pretrained(
                address, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (OSError, ValueError) as error:
        raise InputError(
            f"The adapter {adapter.name!r} belongs to the encoder {address}, which cannot be loaded "
            f"({str(error).splitlines()[0]}); say where it is now with encoder=..."
        ) from error
    changed = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    missing = frozenset(key for key in changed if not any(part in key for part in NOT_USED))
    lost = sorted(key for key in missing if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key)
    if lost:
        raise InputError(f"{address} does not hold {lost[0]}; give the encoder of the adapter {adapter.name!r}.")
    return model.eval().requires_grad_(False), missing


def check_same_base(adapters: Sequence[StoredAdapter]) -> None:
    """Refuse adapters that cannot share one model.

    Raises:
        InputError: for the first that differs from those before it, in encoder, class of model, or config.
    """
    first = adapters[0]
    for other in adapters[1:]:
        both = f"the adapters {first.name!r} and {other.name!r}"
        if other.model_class != first.model_class:
            raise InputError(
                f"In one batch, {both} cannot be mixed: one is of a {first.model_class}, the other of a "
                f"{other.model_class}; load them into two models."
            )
        known = None not in (first.fingerprint, other.fingerprint)
        if first.fingerprint != other.fingerprint if known else first.encoder != other.encoder:
            raise InputError(
                f"In one batch, {both} cannot be mixed: their encoders, {first.encoder} and {other.encoder}, are not "
                "the same; load them into two models."
            )
        differing = _difference(first.config, other.config)
        if differing is not None:
            raise InputError(
                f"In one batch, {both} cannot be mixed: they differ in {differing}; load them into two models."
            )


def _difference(one: PreTrainedConfig, other: PreTrainedConfig) -> str | None:
    fields = [computed_fields(config) for config in (one, other)]
    names: Iterable[str] = sorted({*fields[0], *fields[1]})
    return next((name for name in names if fields[0].get(name) != fields[1].get(name)), None)


def _classifier(adapter: StoredAdapter) -> type[PreTrainedModel]:
    """The class that the adapter's config names; of DeiT, there are two of one config."""
    for auto_model in CLASSIFIERS:
        known = auto_model._model_mapping.get(type(adapter.config), ())
        for model_class in known if isinstance(known, tuple) else (known,):
            # Ours leave their layers early, with fewer rows than they began with.
            from_transformers = model_class.__module__.startswith("transformers.")
            if model_class.__name__ == adapter.model_class and from_transformers:
                return model_class
    raise InputError(
        f"The adapter {adapter.name!r} is of a {adapter.model_class}, which is no classifier of transformers; only "
        "classifiers can be mixed."
    )
