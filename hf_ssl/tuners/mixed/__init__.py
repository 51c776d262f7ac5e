"""Many adapters on one base, mixed row by row in one batch."""

from hf_ssl.tuners.mixed.model import MixedAdapters, MixedOutput

__all__ = ["MixedAdapters", "MixedOutput"]
