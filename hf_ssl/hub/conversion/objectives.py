"""The objectives of this package that fairseq's models become."""

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.architectures import Architecture
from hf_ssl.hub.conversion.data2vec_objective import DATA2VEC
from hf_ssl.hub.conversion.hubert_objective import HUBERT
from hf_ssl.hub.conversion.settings import Settings
from hf_ssl.hub.conversion.wav2vec2_objective import WAV2VEC2

OBJECTIVES = {row.family: row for row in (WAV2VEC2, HUBERT, DATA2VEC)}


def objective_architecture(settings: Settings) -> Architecture:
    """The objective that a checkpoint continues.

    Raises:
        InputError: for a fine-tuned checkpoint, which continues none.
    """
    if settings.fine_tuning is not None:
        raise InputError(
            "A model fine-tuned with CTC continues no pretraining objective, and hf_ssl fine-tunes transformers' own "
            "classes; convert it with --to transformers."
        )
    return OBJECTIVES[settings.family]
