"""`hf-ssl quickstart`: that it goes to its end, and that what it shows is true."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hf_ssl.cli import quickstart
from hf_ssl.cli.finetune import read_fine_tuning
from hf_ssl.cli.main import main
from hf_ssl.cli.pretrain import read_pretraining


@pytest.mark.parametrize("modality", quickstart.EXAMPLES)
def test_to_the_end_with_a_few_steps(modality: str, tmp_path: Path, monkeypatch, capsys) -> None:
    example = quickstart.EXAMPLES[modality]
    monkeypatch.setitem(quickstart.EXAMPLES, modality, replace(example, steps=2, num_labelled=200, layers="last"))
    read = partial(shortened, read_pretraining, ["training.save_steps=2", "training.eval_strategy=no"])
    monkeypatch.setattr(quickstart, "read_pretraining", read)
    read = partial(shortened, read_fine_tuning, ["training.max_steps=2", "data.max_train_items=64"])
    monkeypatch.setattr(quickstart, "read_fine_tuning", read)
    command = ["quickstart", "--modality", modality, "--output", str(tmp_path)]
    assert main(command) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert example.title in page
    assert page.count("<svg") == 3
    assert "random initialisation" in capsys.readouterr().out
    written = (tmp_path / modality / "pretrained" / "metrics.json").stat().st_mtime_ns
    monkeypatch.setattr(quickstart, "pretrain", None)  # started again, it does not pretrain again
    assert main(command) == 0
    assert (tmp_path / modality / "pretrained" / "metrics.json").stat().st_mtime_ns >= written


def shortened(read, more, recipe, overrides):
    return read(recipe, [*overrides, *more])


@pytest.mark.slow
@pytest.mark.parametrize("modality", quickstart.EXAMPLES)
def test_pretrained_beats_random_by_more_than_the_spread_of_three_seeds(modality: str, tmp_path: Path) -> None:
    part = quickstart.walk(quickstart.EXAMPLES[modality], tmp_path)
    pretrained = part.result.row("encoder", "linear probe").mean(part.score)
    untrained = part.result.row("random initialisation", "linear probe")
    assert len(untrained.runs) == 3
    assert pretrained > untrained.mean(part.score) + untrained.spread(part.score)
