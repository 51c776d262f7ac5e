"""Parameter-efficient tuning: what PEFT lacks for the encoders of every modality.

Importing the package makes our own methods known to PEFT: bottleneck adapters, prefixes and soft prompts.
"""

from hf_ssl.tuners.bottleneck import BottleneckConfig
from hf_ssl.tuners.prefix import PrefixConfig
from hf_ssl.tuners.soft_prompt import SoftPromptConfig

__all__ = ["BottleneckConfig", "PrefixConfig", "SoftPromptConfig"]
