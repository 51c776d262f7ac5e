"""Bottleneck adapters of Houlsby, Pfeiffer and He as a method of PEFT, and their AdapterFusion."""

from hf_ssl.tuners.bottleneck.bottleneck import Bottleneck
from hf_ssl.tuners.bottleneck.config import VARIANTS, BottleneckConfig
from hf_ssl.tuners.bottleneck.fusion import AdapterFusion
from hf_ssl.tuners.bottleneck.layer import BottleneckLayer
from hf_ssl.tuners.bottleneck.model import BottleneckModel
from hf_ssl.tuners.bottleneck.targets import bottleneck_targets
from hf_ssl.tuners.peft_methods import register

register("bottleneck", BottleneckConfig, BottleneckModel)

__all__ = [
    "VARIANTS",
    "AdapterFusion",
    "Bottleneck",
    "BottleneckConfig",
    "BottleneckLayer",
    "BottleneckModel",
    "bottleneck_targets",
]
