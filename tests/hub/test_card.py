"""The card says what the run left behind, and nothing that was not measured."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_ssl.data import samples
from hf_ssl.errors import InputError
from hf_ssl.hub.card import read_objective_card, row_of, write_card
from hf_ssl.hub.results import PRETRAINED, Result, add_results, read_results
from hf_ssl.hub.sources import SAMPLES
from hf_ssl.modeling import DISTILLATION, OBJECTIVES
from tests import tiny_vision
from tests.hub_store import check_card


def probe(accuracy: float = 0.6) -> list[Result]:
    """A linear probe of the encoder beside three random ones."""
    shared = {
        "evaluation": "offline linear probe of category",
        "num_labelled": 2176,
        "task": "image-classification",
        "dataset": "sample:emoji",
        "split": "test",
        "command": "hf-ssl evaluate runs/simclr_tiny/encoder --data sample:emoji --label category",
    }
    once = {"features": PRETRAINED, "seeds": (42,), **shared}
    thrice = {"features": "random initialisation", "seeds": (0, 1, 2), **shared}
    return [
        Result(metric="accuracy", values=(accuracy,), interval=(accuracy - 0.05, accuracy + 0.05), **once),
        Result(metric="macro_f1", values=(0.5,), **once),
        Result(metric="accuracy", values=(0.3, 0.4, 0.5), **thrice),
    ]


def test_what_it_says(run_dir: Path) -> None:
    card = ModelCard.load(write_card(run_dir))
    sections = re.findall(r"^## (.+)$", card.text, re.MULTILINE)
    assert sections == ["Objective", "Encoder", "Data", "How it was made", "Results", "Limits", "Citation"]
    pieces = read_objective_card(OBJECTIVES["simclr"])
    assert [
        name for name in ("idea", "equation", "paper", "limits", "citation") if pieces[name] not in card.text
    ] == []
    for said in (
        "Chen et al. 2020, arXiv:2002.05709",
        'encoder = AutoModel.from_pretrained("encoder")',
        'processor = AutoImageProcessor.from_pretrained("encoder")',
        "from hf_ssl.modeling.vision.simclr import SimCLRForPreTraining",
        "| architecture | ViTModel |",
        "| hidden size | 32 |",
        "started from random weights",
        "Noto Emoji, Copyright Google, under Apache-2.0",
        "its first 64 items",
        "hf-ssl pretrain simclr_tiny training.max_steps=2",
        "| transformers | 5.",
        "| hardware | ",
        "Nothing has been measured of this encoder",
    ):
        assert said in card.text, said
    assert not re.search(r"{{|{%|None|Undefined", card.text)
    assert "\n\n\n" not in card.text
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-feature-extraction"
    assert metadata["license"] == "apache-2.0"
    assert "simclr" in metadata["tags"]
    assert not {"model-index", "datasets", "base_model"} & set(metadata)
    assert check_card(card.content) == []


def test_the_number_of_parameters_is_the_encoders(run_dir: Path) -> None:
    model, _ = tiny_vision.simclr()
    number = sum(weight.numel() for weight in model.encoder.state_dict().values())
    assert f"| parameters and buffers | {number:,} |" in write_card(run_dir).read_text("utf-8")


def test_what_was_measured_stands_in_it_with_spread_and_baselines(run_dir: Path) -> None:
    add_results(run_dir, probe(0.5))
    add_results(run_dir, probe(0.6))  # the same command again
    card = ModelCard.load(write_card(run_dir))
    assert "Nothing has been measured" not in card.text
    table = """\
| data | evaluation | labelled items | features | accuracy | macro F1 | seeds |
|---|---|---:|---|---:|---:|---|
| sample:emoji, test | offline linear probe of category | 2,176 | pretrained | 0.600 [0.550, 0.650] | 0.500 | 42 |
| sample:emoji, test | offline linear probe of category | 2,176 | random initialisation | 0.400 ± 0.100 |  | 0, 1, 2 |

"""
    assert table in card.text
    assert card.text.count(probe()[0].command) == 1
    accuracy, macro_f1 = card.data.eval_results
    assert (accuracy.task_type, accuracy.dataset_split) == ("image-classification", "test")
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", 0.6)
    assert (macro_f1.metric_type, macro_f1.metric_value) == ("macro_f1", 0.5)
    assert read_results(run_dir) == probe(0.6)
    assert json.loads((run_dir / "metrics.json").read_text("utf-8"))["train_loss"] == 2.5


def test_data_and_encoder_of_the_hub_are_linked(run_dir: Path) -> None:
    run = yaml.safe_load((run_dir / "run.yaml").read_text("utf-8"))
    run["data"] |= {"path": "beans/leaves", "name": "small"}
    run["model"]["from_encoder"] = "google/vit-base"
    (run_dir / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    card = ModelCard.load(write_card(run_dir))
    assert card.data.datasets == ["beans/leaves"]
    assert card.data.base_model == "google/vit-base"
    assert card.data.license is None
    assert "started from the weights of `google/vit-base`" in card.text
    assert "(https://huggingface.co/datasets/beans/leaves) (configuration `small`, split `train`" in card.text


def test_local_data_and_encoder_are_no_names_of_the_hub(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir)
    run = yaml.safe_load((run_dir / "run.yaml").read_text("utf-8"))
    run["data"]["path"] = "/home/somebody/photos"
    run["model"]["from_encoder"] = "encoder"
    (run_dir / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    card = ModelCard.load(write_card(run_dir))
    assert card.data.datasets is None
    assert card.data.base_model is None
    assert "Local data in `photos`" in card.text
    assert "/home/somebody" not in card.text
    assert "did not record its licence" in card.text


def test_a_run_without_record_of_its_making(run_dir: Path) -> None:
    (run_dir / "environment.json").unlink()
    assert "The command and the versions were not recorded." in write_card(run_dir).read_text("utf-8")
    text = write_card(run_dir, command="hf-ssl pretrain mine.yaml").read_text("utf-8")
    assert "hf-ssl pretrain mine.yaml" in text


@pytest.mark.parametrize("missing", ["run.yaml", "encoder"])
def test_a_folder_that_is_no_run(run_dir: Path, missing: str) -> None:
    path = run_dir / missing
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(InputError, match=f"{missing}.* is missing, so no card can be written"):
        write_card(run_dir)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_what_a_card_needs(name: str) -> None:
    pieces = read_objective_card(OBJECTIVES[name])
    assert {"idea", "equation", "paper", "limits"} <= {title for title, text in pieces.items() if text}
    assert re.fullmatch(r"```bibtex\n@.*}\n```", pieces["citation"], re.DOTALL)
    assert "```" not in pieces["paper"]


def test_every_sample_has_a_licence() -> None:
    folder = Path(samples.__file__).parent
    assert set(SAMPLES) == {path.parent.name for path in folder.glob("*/train.parquet")}


def test_an_online_probe_stands_apart_from_what_was_measured_offline(run_dir: Path) -> None:
    facts = {
        "online_probe": {"knn_accuracy": 0.61, "probe_accuracy": 0.5, "num_labelled": 1024, "num_validation": 512}
    }
    (run_dir / "metrics.json").write_text(json.dumps(facts), encoding="utf-8")
    add_results(run_dir, probe())
    text = " ".join(write_card(run_dir).read_text("utf-8").split())
    assert (
        "Online probe, measured while the encoder learned and not to be compared with what is measured offline: "
        "fitted on 1024 labelled items, it predicted 512 validation items with kNN at accuracy 0.610 and with a "
        "linear probe at accuracy 0.500. ## Limits"
    ) in text
    table = text.partition("## Results")[2].partition("±")[0]
    assert "offline linear probe of category" in table
    assert "0.610" not in table


def test_a_distillation_of_an_earlier_version_lacks_settings_of_today() -> None:
    data = {"path": "sample:emoji", "image_column": "image"}
    assert row_of({"objective": DISTILLATION.title, "data": data}).modality == "vision"
