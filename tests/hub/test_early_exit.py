"""A model with exits on the Hub: what is pushed is what loads, with its threshold, its table and its plot."""

import json
from pathlib import Path

import torch

from hf_ssl.cli.figures import exit_curve
from hf_ssl.evaluation.early_exit.curve import CurvePoint, ExitCurve
from hf_ssl.hub.exit_section import FIGURE
from hf_ssl.hub.push import push_run
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.finetuned import load_finetuned
from tests.evaluation.tiny_data import image_data
from tests.hub_server import HubServer
from tests.tiny_encoders import save_image_encoder
from tests.trainers.fine_tuning_cases import training

REPO = "tester/exits"


def test_a_model_with_exits_is_pushed_and_loaded(client: HubServer, tmp_path: Path) -> None:
    encoder, folder = save_image_encoder(tmp_path / "encoder"), tmp_path / "run"
    model = FineTuningModelArguments(encoder=str(encoder), task="image-classification", exits={"layers": "all"})
    run = FineTuningRun(model, image_data(tmp_path / "photos"), training(folder))
    fine_tune(run, command="hf-ssl finetune my_run.yaml")
    exits, _ = load_finetuned(folder)
    exits.config.exit_policy, exits.config.exit_threshold = "entropy", 0.25
    exits.config.save_pretrained(folder)
    points = [
        CurvePoint(threshold, depth, {"accuracy": 0.5}, [0, 1], {"1": depth})
        for threshold, depth in ((1, 1), (0, 0.5))
    ]
    settings = {"data": "photos", "split": "test", "command": "hf-ssl exits curve run", "hardware": "CPU"}
    settings |= {"rounds": 1, "timed_items": 8, "chosen_threshold": 0}
    curve = ExitCurve("entropy", [1, 2], points, 8, settings).to_dict()
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"exit_curve": curve}))
    (folder / FIGURE).write_text(exit_curve(curve))

    push_run(folder, REPO)
    files = client.model(REPO).head.files
    assert files[FIGURE].data == (folder / FIGURE).read_bytes()
    card = files["README.md"].data.decode()
    assert f"![Score against speed]({FIGURE})" in card
    assert "| 0 | 50% | 0.5 | 0.50 |" in card
    assert (
        "Areas under the curve over its width, which is the mean score over budgets: over depth accuracy 0.5" in card
    )
    pushed, _ = load_finetuned(REPO)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected, found = exits(images), pushed(images)
    assert torch.equal(expected.logits, found.logits)
    assert torch.equal(expected.exit_layer, found.exit_layer)
