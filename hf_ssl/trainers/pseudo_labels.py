"""What a recogniser makes of recordings without transcripts, as far as it may be trusted, as training data."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, concatenate_datasets

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.usable import usable
from hf_ssl.errors import InputError, writing
from hf_ssl.evaluation.recognition.filtering import FilteringScore
from hf_ssl.evaluation.recognition.hypothesis import Hypothesis
from hf_ssl.evaluation.recognition.recogniser import HeardRecordings, Recogniser, decode_all
from hf_ssl.evaluation.recognition.settings import FILE, DecodingSettings
from hf_ssl.evaluation.recognition.tuning import choose

REPORT_FILE = "pseudo_labels.json"
TRANSCRIPTS_FILE = "pseudo_labels.jsonl"
COLUMNS = ["audio", "text"]


@dataclass(frozen=True, kw_only=True)
class PseudoLabelling:
    """How pseudo-labels are made and which are kept.

    Args:
        settings ([`DecodingSettings`]): the decoder; its weights and beam are chosen anew on the validation split for
            every recogniser, unless it is greedy.
        min_score (`float`, *optional*): least [`FilteringScore`] of a transcript that is kept; `None` keeps all that
            are not empty.
        num_trials (`int`): settings of the decoder tried.
        seed (`int`): of the settings tried.
    """

    settings: DecodingSettings
    min_score: float | None
    num_trials: int
    seed: int

    def made_by(self, unlabelled: SpeechDataArguments) -> dict[str, Any]:
        """What the pseudo-labels of a teacher depend on, as plain values."""
        return {**asdict(self), "unlabelled": asdict(unlabelled)}


def write_pseudo_labelled(
    recogniser: Recogniser,
    labelled: SpeechDataArguments,
    unlabelled: SpeechDataArguments,
    labelling: PseudoLabelling,
    output: Path,
) -> dict[str, Any]:
    """Transcribe the unlabelled recordings, and write training data of the labelled ones and those that are kept.

    Leaves in `output`: `data/` (what `data.path` takes: the labelled splits, with the kept recordings in `train`; of
    recordings that are files, their paths), `pseudo_labels.jsonl` (every transcript with its score, kept or not),
    `decoding.json` where there was something to choose, and last of all `pseudo_labels.json`, the report.

    Args:
        recogniser ([`Recogniser`]): the teacher.
        labelled ([`SpeechDataArguments`]): recordings with transcripts; the filter and the decoder are fitted on its
            validation split.
        unlabelled ([`SpeechDataArguments`]): whose training split is transcribed. Transcripts that it happens to have
            are only compared with, in the report.
        labelling ([`PseudoLabelling`]): how.
        output (`Path`): folder to write.

    Returns:
        `dict[str, Any]`: the report.

    Raises:
        InputError: for data that cannot be used, or if no transcript is kept.
    """
    validation = recogniser.hear(labelled, "validation")
    settings = _chosen(recogniser, validation, labelling, output)
    decoder, _ = settings.make_decoder(recogniser.vocabulary)
    usual = [hypotheses[0] for hypotheses in decode_all(decoder, validation.log_probs)]
    score = FilteringScore.fit([h.score for h in usual], [h.num_tokens for h in usual])

    heard = recogniser.hear(unlabelled, "train")
    best = [hypotheses[0] for hypotheses in decode_all(decoder, heard.log_probs)]
    scores = [score(h.score, h.num_tokens) for h in best]
    least = float("-inf") if labelling.min_score is None else labelling.min_score
    kept = [
        row
        for row, (hypothesis, value) in enumerate(zip(best, scores, strict=True))
        if hypothesis.text and value >= least and heard.seconds[row] <= labelled.max_seconds
    ]
    if not kept:
        raise InputError(
            f"None of the {len(best)} transcripts of {unlabelled.path} is kept (best score {max(scores):.2f}); lower "
            f"self_training.min_score ({labelling.min_score})."
        )
    report = {
        "num_recordings": len(best),
        "num_kept": len(kept),
        "hours": sum(heard.seconds) / 3600,
        "hours_kept": sum(heard.seconds[row] for row in kept) / 3600,
        "filter": asdict(score),
        **_error_rates(recogniser, heard, best, kept),
        "made_by": labelling.made_by(unlabelled),
    }
    with writing(output):
        _write_transcripts(output / TRANSCRIPTS_FILE, heard, best, scores, set(kept))
        _write_data(output / "data", recogniser, labelled, unlabelled, [best[row].text for row in kept], kept)
        (output / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _chosen(
    recogniser: Recogniser, validation: HeardRecordings, labelling: PseudoLabelling, output: Path
) -> DecodingSettings:
    """The settings with what suits this recogniser best on the validation split."""
    if labelling.settings.decoder == "greedy":
        return labelling.settings
    settings, trials = choose(
        labelling.settings, recogniser, validation, num_trials=labelling.num_trials, seed=labelling.seed
    )
    settings.save(output / FILE, trials=[trial.to_dict() for trial in trials])
    return settings


def _error_rates(
    recogniser: Recogniser, heard: HeardRecordings, best: list[Hypothesis], kept: list[int]
) -> dict[str, float]:
    """Of all transcripts and of those that are kept, where all recordings have transcripts to compare with."""
    if len(heard.scored) < len(best):
        return {}
    chosen = HeardRecordings(*([values[row] for row in kept] for values in vars(heard).values()))
    rates = {}
    for metric in recogniser.metrics:
        rates[metric] = heard.count_errors([h.text for h in best], metric).value
        rates[f"{metric}_of_kept"] = chosen.count_errors([best[row].text for row in kept], metric).value
    return rates


def _write_transcripts(
    path: Path, heard: HeardRecordings, best: list[Hypothesis], scores: list[float], kept: set[int]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as lines:
        for row, (hypothesis, value) in enumerate(zip(best, scores, strict=True)):
            values = {
                "recording": heard.names[row],
                "text": hypothesis.text,
                "score": None if value == float("-inf") else round(value, 4),  # JSON has no infinity
                "kept": row in kept,
            }
            lines.write(json.dumps(values, ensure_ascii=False) + "\n")


def _write_data(
    folder: Path,
    recogniser: Recogniser,
    labelled: SpeechDataArguments,
    unlabelled: SpeechDataArguments,
    texts: list[str],
    kept: list[int],
) -> None:
    splits = {name: _recordings(split) for name, split in load_splits(labelled, "speech").items()}
    # Loaded and checked as the recogniser did, so that rows are the same.
    rate = recogniser.processor.feature_extractor.sampling_rate
    heard_from = replace(unlabelled, sampling_rate=rate, label_column=None, streaming=False)
    recordings = usable({"train": load_splits(heard_from, "speech")["train"]}, "speech", heard_from)["train"]
    pseudo = recordings.select(kept).select_columns(["audio"]).add_column("text", texts)
    splits["train"] = concatenate_datasets([splits["train"], _recordings(pseudo)])
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}.parquet")


def _recordings(split: Dataset) -> Dataset:
    """Its recordings and transcripts; paths that hold from any folder."""

    def absolute(audio: dict[str, Any]) -> dict[str, Any]:
        if audio["bytes"] is None:
            audio = {**audio, "path": str(Path(audio["path"]).resolve())}
        return {"audio": audio}

    features = datasets.Features({"audio": datasets.Audio(decode=False), "text": datasets.Value("string")})
    return split.select_columns(COLUMNS).map(absolute, input_columns="audio", desc="Recordings").cast(features)
