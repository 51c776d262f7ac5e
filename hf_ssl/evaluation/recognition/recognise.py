"""Recordings to transcripts and error rates, decoded in a chosen way and greedily beside it."""

import json
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_ssl.errors import writing
from hf_ssl.evaluation.evaluate import versions
from hf_ssl.evaluation.intervals import Difference, Interval
from hf_ssl.evaluation.recognition.error_rates import ErrorCounts
from hf_ssl.evaluation.recognition.greedy import GreedyDecoder
from hf_ssl.evaluation.recognition.hypothesis import Decoder, Hypothesis, ranked
from hf_ssl.evaluation.recognition.recogniser import HeardRecordings, Recogniser, decode_all
from hf_ssl.evaluation.recognition.rescoring import CausalLM, rescored
from hf_ssl.evaluation.recognition.settings import DecodingSettings


@dataclass
class DecodedSplit:
    """What one way of decoding makes of a split.

    Args:
        settings ([`DecodingSettings`]): how it was decoded.
        transcripts (`list[Hypothesis]`): the best of each recording.
        counts (`dict[str, ErrorCounts]`): errors of the recordings whose transcript is known, by metric; empty if none
            is.
        seconds (`float`): that decoding took, rescoring included and the model's own work not.
    """

    settings: DecodingSettings
    transcripts: list[Hypothesis]
    counts: dict[str, ErrorCounts]
    seconds: float


def transcribe(
    recogniser: Recogniser,
    heard: HeardRecordings,
    settings: DecodingSettings,
    decoder: Decoder,
    lm: CausalLM | None = None,
) -> DecodedSplit:
    """Decode recordings, order the n-best lists anew if there is a causal language model, and count errors.

    Args:
        recogniser ([`Recogniser`]): that heard them.
        heard ([`HeardRecordings`]): the recordings.
        settings ([`DecodingSettings`]): the decoder's.
        decoder ([`Decoder`]): made of them.
        lm ([`CausalLM`], *optional*): whose ln P the settings' weights for rescoring count.
    """
    start = time.perf_counter()
    lists = decode_all(decoder, heard.log_probs)
    if lm is not None:
        lists = [ranked(hypotheses, settings.rescoring) for hypotheses in rescored(lists, lm)]
    seconds = time.perf_counter() - start
    best = [hypotheses[0] for hypotheses in lists]
    texts = [hypothesis.text for hypothesis in best]
    metrics = recogniser.metrics if heard.scored else ()
    counts = {metric: heard.count_errors(texts, metric) for metric in metrics}
    return DecodedSplit(settings, best, counts, seconds)


def transcribe_greedily(recogniser: Recogniser, heard: HeardRecordings) -> DecodedSplit:
    """What the model says without a language model."""
    return transcribe(recogniser, heard, DecodingSettings(), GreedyDecoder(recogniser.vocabulary))


@dataclass
class RecognitionResult:
    """Everything needed to read the error rates and to measure them again.

    Args:
        model (`str`): name or folder.
        data (`str`): name or path of the data.
        split (`str`): of the data.
        heard ([`HeardRecordings`]): its recordings.
        greedy ([`DecodedSplit`]): their transcripts without a language model.
        decoded ([`DecodedSplit`], *optional*): those of another decoder.
        facts (`dict[str, Any]`): what else is to be known: command, hardware, words left out of the lexicon ...
    """

    model: str
    data: str
    split: str
    heard: HeardRecordings
    greedy: DecodedSplit
    decoded: DecodedSplit | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def systems(self) -> list[DecodedSplit]:
        """Greedy decoding, and the other if there is one."""
        return [self.greedy, *([self.decoded] if self.decoded else [])]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the transcripts."""
        minutes = sum(self.heard.seconds) / 60
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "num_recordings": len(self.heard.names),
            "num_scored": len(self.heard.scored),
            "minutes": minutes,
            "systems": [self._system(system, minutes) for system in self.systems],
            "versions": {**versions(), **decoder_versions(self.systems)},
            **self.facts,
        }

    def _system(self, system: DecodedSplit, minutes: float) -> dict[str, Any]:
        values = {
            "settings": asdict(system.settings),
            "rates": {metric: asdict(counts.rate()) for metric, counts in system.counts.items()},
            "errors": {metric: sum(counts.errors) for metric, counts in system.counts.items()},
            "units": {metric: sum(counts.units) for metric, counts in system.counts.items()},
            "real_time_factor": system.seconds / (60 * minutes),
        }
        if system is not self.greedy:
            less = {metric: counts.less(self.greedy.counts[metric]) for metric, counts in system.counts.items()}
            values["less_than_greedy"] = {metric: asdict(value) for metric, value in less.items()}
        return values

    def save(self, path: Path) -> Path:
        """Write what was measured as JSON and, beside it, the transcripts, a recording a line; returns their file.

        Raises:
            InputError: when they cannot be written.
        """
        transcripts = path.with_suffix(".transcripts.jsonl")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            with transcripts.open("w", encoding="utf-8") as lines:
                for row, name in enumerate(self.heard.names):
                    values = {"recording": name, "seconds": round(self.heard.seconds[row], 3)}
                    values["reference"] = self.heard.references[row]
                    values |= {system.settings.decoder: system.transcripts[row].text for system in self.systems}
                    lines.write(json.dumps(values, ensure_ascii=False) + "\n")
        return transcripts

    def to_markdown(self) -> str:
        """A table of the error rates, and what they are of; without any, the transcripts."""
        metrics = list(self.greedy.counts)
        if not metrics:
            texts = [hypothesis.text for hypothesis in self.systems[-1].transcripts]
            return "\n".join(f"{name}: {text}" for name, text in zip(self.heard.names, texts, strict=True))
        first = metrics[0]
        header = ["decoding", *map(str.upper, metrics)]
        header += [f"{first.upper()} less greedy's"] if self.decoded else []
        lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
        for system in self.systems:
            cells = [describe(system.settings), *(percent(counts.rate()) for counts in system.counts.values())]
            if self.decoded:
                less = system.counts[first].less(self.greedy.counts[first])
                cells.append("" if system is self.greedy else percent(less))
            lines.append(f"| {' | '.join(cells)} |")
        units = sum(self.greedy.counts[first].units)
        scored, unscored = len(self.heard.scored), len(self.heard.names) - len(self.heard.scored)
        without = f" {unscored} more have no transcript to compare with." if unscored else ""
        lines += [
            "",
            f"{self.model} on {self.data}, {self.split}: {scored} recordings, {units} "
            f"{'phones' if first == 'per' else 'words'}. Per cent; brackets: 95 % bootstrap interval over "
            f"recordings.{without}",
        ]
        return "\n".join(lines)


def describe(settings: DecodingSettings) -> str:
    """A way of decoding in a few words."""
    if settings.decoder == "greedy":
        return "greedy"
    weights = settings.rescoring if settings.rescore else settings.weights
    read = [f"n-gram {Path(settings.lm).name} × {weights.ngram:g}"] if settings.lm else []
    read += [f"{Path(settings.rescore).name} × {weights.neural:g}"] if settings.rescore else []
    read += [f"word score {weights.word:g}", f"beam {settings.beam.size}"]
    return f"{settings.decoder}: {', '.join(read)}"


def percent(value: Interval | Difference) -> str:
    """A rate or difference with its interval, in per cent; differences with their sign."""
    sign = "+" if isinstance(value, Difference) else ""
    return f"{100 * value.value:{sign}.1f} [{100 * value.low:{sign}.1f}, {100 * value.high:{sign}.1f}]"


def decoder_versions(systems: list[DecodedSplit]) -> dict[str, str]:
    """Of what only beam search depends on."""
    return {"flashlight-text": version("flashlight-text")} if len(systems) > 1 else {}
