"""Soft prompts for every encoder: learned vectors among the tokens, which its layers attend to."""

from hf_ssl.tuners.peft_methods import register
from hf_ssl.tuners.soft_prompt.config import SoftPromptConfig
from hf_ssl.tuners.soft_prompt.initialisation import start_from
from hf_ssl.tuners.soft_prompt.model import SoftPromptModel, prompted_layers

__all__ = ["SoftPromptConfig", "SoftPromptModel", "prompted_layers", "start_from"]

register("soft_prompt", SoftPromptConfig, SoftPromptModel)
