"""Self-supervised learning for the Hugging Face ecosystem.

Importing the package makes its objectives known to `AutoConfig`, `AutoModel` and `AutoModelForPreTraining`, the
encoders that transformers does not have to the first two, and its CTC model to `AutoConfig` and `AutoModelForCTC`.
"""

from importlib.metadata import version

from transformers import AutoConfig, AutoModel, AutoModelForCTC, AutoModelForPreTraining

from hf_ssl.modeling import OBJECTIVES
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig, Data2Vec2AudioModel
from hf_ssl.modeling.speech.encoder_ctc import EncoderForCTC, EncoderForCTCConfig

__version__ = version("hf-ssl")

AutoConfig.register(Data2Vec2AudioConfig.model_type, Data2Vec2AudioConfig, exist_ok=True)
AutoModel.register(Data2Vec2AudioConfig, Data2Vec2AudioModel, exist_ok=True)
AutoConfig.register(EncoderForCTCConfig.model_type, EncoderForCTCConfig, exist_ok=True)
AutoModelForCTC.register(EncoderForCTCConfig, EncoderForCTC, exist_ok=True)

for _row in OBJECTIVES.values():
    AutoConfig.register(_row.config_class.model_type, _row.config_class, exist_ok=True)
    AutoModel.register(_row.config_class, _row.model_class, exist_ok=True)
    AutoModelForPreTraining.register(_row.config_class, _row.model_class, exist_ok=True)
