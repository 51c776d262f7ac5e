"""Self-supervised learning for the Hugging Face ecosystem.

Importing the package makes its objectives known to `AutoConfig`, `AutoModel` and `AutoModelForPreTraining`, the
encoders that transformers does not have to the first two, its CTC model to `AutoConfig` and `AutoModelForCTC`, and the
models with exits to the classes of their five tasks; and our methods of tuning to PEFT.
"""

from importlib.metadata import version

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import hf_ssl.tuners  # noqa: F401 - makes them known to PEFT
from hf_ssl.modeling import DISTILLATION, OBJECTIVES
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.models import (
    EarlyExitForAudioClassification,
    EarlyExitForCTC,
    EarlyExitForImageClassification,
    EarlyExitForSequenceClassification,
    EarlyExitForTokenClassification,
)
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig, Data2Vec2AudioModel
from hf_ssl.modeling.speech.encoder_ctc import EncoderForCTC, EncoderForCTCConfig
from hf_ssl.modeling.vision.patch_codebook import PatchCodebook, PatchCodebookConfig

__version__ = version("hf-ssl")

AutoConfig.register(Data2Vec2AudioConfig.model_type, Data2Vec2AudioConfig, exist_ok=True)
AutoModel.register(Data2Vec2AudioConfig, Data2Vec2AudioModel, exist_ok=True)
AutoConfig.register(PatchCodebookConfig.model_type, PatchCodebookConfig, exist_ok=True)
AutoModel.register(PatchCodebookConfig, PatchCodebook, exist_ok=True)
AutoConfig.register(EncoderForCTCConfig.model_type, EncoderForCTCConfig, exist_ok=True)
AutoModelForCTC.register(EncoderForCTCConfig, EncoderForCTC, exist_ok=True)

AutoConfig.register(EarlyExitConfig.model_type, EarlyExitConfig, exist_ok=True)
AutoModelForSequenceClassification.register(EarlyExitConfig, EarlyExitForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(EarlyExitConfig, EarlyExitForTokenClassification, exist_ok=True)
AutoModelForImageClassification.register(EarlyExitConfig, EarlyExitForImageClassification, exist_ok=True)
AutoModelForAudioClassification.register(EarlyExitConfig, EarlyExitForAudioClassification, exist_ok=True)
AutoModelForCTC.register(EarlyExitConfig, EarlyExitForCTC, exist_ok=True)

for _row in (*OBJECTIVES.values(), DISTILLATION):
    AutoConfig.register(_row.config_class.model_type, _row.config_class, exist_ok=True)
    AutoModel.register(_row.config_class, _row.model_class, exist_ok=True)
    AutoModelForPreTraining.register(_row.config_class, _row.model_class, exist_ok=True)
