"""An evaluation of a run's encoder, put on record with the run."""

from pathlib import Path

from hf_ssl.evaluation.result import OFFLINE, EvaluationResult
from hf_ssl.evaluation.scores import SCORES
from hf_ssl.hub.card import write_card
from hf_ssl.hub.results import PRETRAINED, Result, add_results

TASKS = {"vision": "image-classification", "speech": "audio-classification", "text": "text-classification"}


def run_of(encoder: str | Path) -> Path | None:
    """The output folder of the pretraining run whose encoder this is; `None` for any other encoder."""
    folder = Path(encoder).resolve()
    return folder.parent if folder.name == "encoder" and (folder.parent / "run.yaml").is_file() else None


def record_evaluation(run_dir: Path, result: EvaluationResult, seed: int = 42) -> None:
    """Add an evaluation to a run's metrics.json and to its card.

    Args:
        run_dir (`Path`): output folder of a finished pretraining.
        result ([`EvaluationResult`]): of its encoder, with the command that measures it again.
        seed (`int`): of the pretraining.
    """
    assert result.command is not None
    rows = [
        Result(
            evaluation=f"{OFFLINE} {row.method} of {result.label}",
            features=PRETRAINED if row.features == "encoder" else row.features,
            task=TASKS[result.modality],
            metric=score,
            dataset=result.data,
            split="test",
            values=tuple(run.scores[score] for run in row.runs),
            seeds=(seed,) if row.features == "encoder" and not row.seeds else tuple(row.seeds),
            num_labelled=row.num_labelled,
            command=result.command,
            interval=row.runs[0].intervals[score] if len(row.runs) == 1 else None,
        )
        for row in result.rows
        for score in SCORES
    ]
    add_results(run_dir, rows)
    write_card(run_dir)
