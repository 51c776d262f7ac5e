"""Checks of config values that objectives have in common."""

from transformers import PreTrainedConfig

from hf_ssl.errors import InputError


def check_shares(config: PreTrainedConfig, *names: str) -> None:
    """Raise `InputError` for a value that is not between 0 and 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{name} is {getattr(config, name)}; it is a share between 0 and 1.")


def check_temperatures(config: PreTrainedConfig, *names: str) -> None:
    """Raise `InputError` for a value that is not above 0."""
    for name in names:
        if getattr(config, name) <= 0:
            raise InputError(f"{name} is {getattr(config, name)}; scores are divided by it, so it must be above 0.")
