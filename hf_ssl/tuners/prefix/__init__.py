"""Prefix tuning for every encoder: learned keys and values in each attention."""

from hf_ssl.tuners.peft_methods import register
from hf_ssl.tuners.prefix.config import PrefixConfig
from hf_ssl.tuners.prefix.model import PrefixModel, drop_reparametrisation

__all__ = ["PrefixConfig", "PrefixModel", "drop_reparametrisation"]

register("encoder_prefix", PrefixConfig, PrefixModel)
