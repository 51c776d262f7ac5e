"""Iteration after iteration, each on units that are clusters of what the one before has learned (HuBERT).

Hsu et al. 2021, https://arxiv.org/abs/2106.07447, section II-D: the first iteration predicts clusters of MFCCs, each
later one those of a layer of its predecessor.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import AutoConfig

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import load_encoder_config
from hf_ssl.modeling import objective
from hf_ssl.modeling.blocks.pretrained import load_published
from hf_ssl.trainers.build import fresh_encoder_config
from hf_ssl.trainers.checkpointing import checkpoint_to_resume
from hf_ssl.trainers.run import PreTrainingRun, check_predicts_units, pretrain

logger = logging.getLogger(__name__)


def encoder_folder(run: PreTrainingRun) -> str:
    """Where a run leaves its encoder."""
    return str(Path(run.training.output_dir) / "encoder")


def pretrain_iterations(runs: Sequence[PreTrainingRun], *, command: str, resume: bool = False) -> Path:
    """Pretrain one run after the other.

    Each leaves in its output folder what [`pretrain`] says; a later one clusters the encoder of the one before where
    its `clustering.features` names it. Whatever is finished (features of a part of the data, a codebook, units, a
    training) is kept: stopped at any moment and started again with `resume`, the runs end as if they had not been
    stopped.

    Args:
        runs (`Sequence[PreTrainingRun]`): in order, each with an output folder of its own.
        command (`str`): the command line, for the cards.
        resume (`bool`): continue where it was stopped.

    Returns:
        `Path`: the output folder of the last run.

    Raises:
        InputError: for data, names or values that cannot be used. What an iteration asks of the one before is checked
            before anything is trained.
    """
    for run in runs:
        check_predicts_units(run)
    for number, (previous, run) in enumerate(pairwise(runs), start=2):
        check_clustered_layer(previous, run, number)
    for run in runs:
        checkpoint_to_resume(Path(run.training.output_dir), resume)
    for number, run in enumerate(runs, start=1):
        if len(runs) > 1:
            logger.info("Iteration %d of %d, in %s.", number, len(runs), run.training.output_dir)
        output = pretrain(run, command=command, resume=resume)
    return output


def check_clustered_layer(previous: PreTrainingRun, run: PreTrainingRun, number: int) -> None:
    """Whether an iteration can cluster the encoder that the one before will leave.

    Args:
        previous ([`PreTrainingRun`]): the iteration before.
        run ([`PreTrainingRun`]): the iteration.
        number (`int`): its number, from 1, for the message.

    Raises:
        InputError: without a layer or for one that the encoder will not have, or for recordings at a sampling rate
            other than the encoder's.
    """
    clustering, data = run.clustering, run.data
    assert isinstance(data, SpeechDataArguments)
    assert isinstance(previous.data, SpeechDataArguments)
    if clustering is None or data.units is not None or clustering.features != encoder_folder(previous):
        return
    num_layers = _num_layers(previous)
    if clustering.layer is None or not 0 <= clustering.layer <= num_layers:
        raise InputError(
            f"Iteration {number} clusters layer {clustering.layer} of the encoder before it, which has layers 0 to "
            f"{num_layers}; set iterations[{number - 1}].clustering.layer to one of them."
        )
    if data.sampling_rate != previous.data.sampling_rate:
        raise InputError(
            f"Iteration {number} reads recordings at {data.sampling_rate} Hz, but clusters what an encoder of "
            f"{previous.data.sampling_rate} Hz makes of them; give both the same data.sampling_rate."
        )


def _num_layers(run: PreTrainingRun) -> int:
    if run.model.get("from_pretraining"):
        return load_published(AutoConfig, run.model["from_pretraining"]).encoder_config.num_hidden_layers
    if run.model.get("from_encoder"):
        return load_encoder_config(run.model["from_encoder"]).num_hidden_layers
    return fresh_encoder_config(objective(run.objective), run.model, {}).num_hidden_layers
