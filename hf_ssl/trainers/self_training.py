"""Self-training of a recogniser: it transcribes what nobody has, and the next one learns from that, too."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.recognition.recogniser import Recogniser
from hf_ssl.evaluation.recognition.settings import DecodingSettings
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments, FineTuningModelArguments
from hf_ssl.trainers.finetuned import load_finetuned
from hf_ssl.trainers.pseudo_labels import REPORT_FILE, PseudoLabelling, write_pseudo_labelled
from hf_ssl.trainers.recording import save_run_file
from hf_ssl.trainers.shards import require_same

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"


@dataclass(kw_only=True)
class SelfTrainingArguments:
    """How a recogniser teaches its successor.

    Args:
        rounds (`int`): how often what is not labelled is transcribed and learnt from.
        min_score (`float`, *optional*): least length-normalised score ([`FilteringScore`]) of a transcript that is
            kept: 0 is a usual one for its length, and about half of them are kept; `null` keeps all.
        decoder (`str`): `"greedy"`, `"letters"` or `"words"`; the latter two with a language model.
        lm (`str`, *optional*): its ARPA or KenLM file, see `hf-ssl lm`.
        num_trials (`int`): settings of the decoder tried on the validation split, in each round.
    """

    rounds: int = 1
    min_score: float | None = 0.0
    decoder: str = "greedy"
    lm: str | None = None
    num_trials: int = 60

    def __post_init__(self) -> None:
        for name in ("rounds", "num_trials"):
            if getattr(self, name) < 1:
                raise InputError(f"self_training.{name} is {getattr(self, name)}; give at least 1.")
        self.settings  # noqa: B018 - says what cannot be used
        if self.lm is not None and not Path(self.lm).is_file():
            raise InputError(f"There is no language model {self.lm} (self_training.lm); make it with `hf-ssl lm`.")

    @property
    def settings(self) -> DecodingSettings:
        """The decoder's, with weights that are yet to be chosen."""
        return DecodingSettings(decoder=self.decoder, lm=None if self.lm is None else str(Path(self.lm).resolve()))


@dataclass
class SelfTrainingRun:
    """A self-training run file, read.

    Args:
        model ([`FineTuningModelArguments`]): what is fine-tuned in every round, from the same encoder.
        data ([`SpeechDataArguments`]): the labelled recordings.
        training ([`FineTuningArguments`]): of every round.
        unlabelled ([`SpeechDataArguments`]): recordings to transcribe.
        self_training ([`SelfTrainingArguments`]): how.
    """

    model: FineTuningModelArguments
    data: SpeechDataArguments
    training: FineTuningArguments
    unlabelled: SpeechDataArguments
    self_training: SelfTrainingArguments

    def __post_init__(self) -> None:
        if self.model.task != "ctc":
            raise InputError(f"Self-training is for model.task=ctc, not for {self.model.task}.")


def self_train(run: SelfTrainingRun, *, command: str, resume: bool = False) -> list[dict[str, Any]]:
    """Fine-tune on the labelled recordings, then, round after round, on those and on pseudo-labelled ones.

    Self-training and pre-training are complementary (Xu et al. 2020, arXiv:2010.11430): every recogniser starts from
    the pre-trained encoder, not from its teacher. Filtered as in noisy student training (Park et al. 2020,
    arXiv:2005.09629).

    Leaves in `run.training.output_dir` a folder `round-N` for each round, 0 the one without
    pseudo-labels, with what fine-tuning leaves and what [`write_pseudo_labelled`] does; and `report.json`.

    Args:
        run ([`SelfTrainingRun`]): what to do.
        command (`str`): the command line, for the cards.
        resume (`bool`): continue where it was stopped; what is finished is kept.

    Returns:
        `list[dict[str, Any]]`: for each round its number, the report of its pseudo-labels and its metrics.

    Raises:
        InputError: for data, names or values that cannot be used.
    """
    output = Path(run.training.output_dir)
    if (output / "round-0").is_dir() and not resume:
        raise InputError(f"{output} already holds round-0; add --resume to continue, or choose another folder.")
    _check_splits(run)
    rounds: list[dict[str, Any]] = []
    for number in range(run.self_training.rounds + 1):
        folder, data = output / f"round-{number}", run.data
        pseudo_labels: dict[str, Any] = {}
        if number:
            with run.training.main_process_first(local=False, desc="pseudo-labels"):
                pseudo_labels = _pseudo_labels(run, output / f"round-{number - 1}", folder)
            data = replace(data, path=str(folder / "data"), name=None)
        metrics = _recogniser(run, data, folder, command, resume)
        rounds.append({"round": number, "pseudo_labels": pseudo_labels, **metrics})
    if run.training.process_index == 0:
        with writing(output):
            (output / "report.json").write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")
            save_run_file(output, run)
    return rounds


def _check_splits(run: SelfTrainingRun) -> None:
    """Refuses, before anything is trained, data that the rounds after the first could not use."""
    if "validation" not in load_splits(run.data, "speech"):
        raise InputError(
            f"{run.data.path} has no validation recordings, on which pseudo-labels are judged; name them in "
            "data.validation_split."
        )
    load_splits(run.unlabelled, "speech")


def _pseudo_labels(run: SelfTrainingRun, teacher: Path, folder: Path) -> dict[str, Any]:
    """The report of a round's training data, which are made unless they are there."""
    labelling = PseudoLabelling(
        settings=run.self_training.settings,
        min_score=run.self_training.min_score,
        num_trials=run.self_training.num_trials,
        seed=run.training.seed,
    )
    if not (folder / REPORT_FILE).is_file():
        logger.info("Transcribing %s with %s.", run.unlabelled.path, teacher)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, processor = load_finetuned(str(teacher))
        write_pseudo_labelled(Recogniser(model.to(device), processor), run.data, run.unlabelled, labelling, folder)
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    require_same(report["made_by"], labelling.made_by(run.unlabelled), folder)
    return report


def _recogniser(
    run: SelfTrainingRun, data: SpeechDataArguments, folder: Path, command: str, resume: bool
) -> dict[str, Any]:
    """The metrics of a round's recogniser, which is trained unless it is there."""
    if not (folder / METRICS_FILE).is_file():
        training = replace(run.training, output_dir=str(folder), run_name=None)
        fine_tune(FineTuningRun(run.model, data, training), command=command, resume=resume)
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return {split: metrics[split] for split in ("validation", "test") if split in metrics}
