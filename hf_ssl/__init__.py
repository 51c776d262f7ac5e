"""Self-supervised learning for the Hugging Face ecosystem.

Importing the package makes its objectives known to `AutoConfig`, `AutoModel` and `AutoModelForPreTraining`.
"""

from importlib.metadata import version

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from hf_ssl.modeling import OBJECTIVES

__version__ = version("hf-ssl")

for _row in OBJECTIVES.values():
    AutoConfig.register(_row.config_class.model_type, _row.config_class, exist_ok=True)
    AutoModel.register(_row.config_class, _row.model_class, exist_ok=True)
    AutoModelForPreTraining.register(_row.config_class, _row.model_class, exist_ok=True)
