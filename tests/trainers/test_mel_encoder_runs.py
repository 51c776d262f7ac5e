"""From recordings to a pre-trained encoder of log-mel frames, and from there to probes and further training."""

import json

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, ParakeetFeatureExtractor, SeamlessM4TFeatureExtractor

from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.errors import InputError
from hf_ssl.evaluation.evaluate import evaluate_encoder
from hf_ssl.trainers.run import pretrain
from tests.tiny_encoders import MEL_ENCODERS
from tests.trainers.recordings import write_recordings


def run_file(folder, model, **training):
    settings = {"max_steps": 3, "save_steps": 3, "max_batch_length": 6.0, "logging_steps": 1, "report_to": "none"}
    run = {
        "objective": "best_rq",
        "model": {"codebook_size": 20, "mask_probability": 0.05, "mask_length": 10, **model},
        "data": {"path": str(folder / "data" / "tables"), "max_seconds": 2.0},
        "training": {"output_dir": str(folder / "run"), "use_cpu": True, **settings, **training},
    }
    (folder / "run.yaml").write_text(json.dumps(run), encoding="utf-8")
    return read_pretraining(str(folder / "run.yaml"), [])


@pytest.mark.parametrize(
    ("model_type", "processor_class"),
    [("wav2vec2-bert", SeamlessM4TFeatureExtractor), ("parakeet_encoder", ParakeetFeatureExtractor)],
)
def test_an_encoder_is_trained_exported_evaluated_and_trained_on(model_type, processor_class, tmp_path):
    write_recordings(tmp_path / "data", {"train": 12, "validation": 6, "test": 6})
    encoder_config = {"model_type": model_type, **MEL_ENCODERS[model_type]}
    output = pretrain(run_file(tmp_path, {"encoder_config": encoder_config}), command="test")
    metrics = json.loads((output / "metrics.json").read_text())
    assert 1 <= metrics["codebook_perplexity"] <= 20
    encoder = AutoModel.from_pretrained(output / "encoder")
    assert type(encoder).__module__.startswith("transformers.")
    assert type(AutoFeatureExtractor.from_pretrained(output / "encoder")) is processor_class

    data = SpeechDataArguments(path=str(tmp_path / "data" / "tables"), label_column="speaker", text_column=None)
    result = evaluate_encoder(output / "encoder", data, seeds=(0, 1))
    assert result.num_items["test"] == 6

    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "data").symlink_to(tmp_path / "data")
    again = pretrain(run_file(tmp_path / "again", {"from_encoder": str(output / "encoder")}), command="test")
    continued = AutoModel.from_pretrained(again / "encoder").state_dict()
    before = encoder.state_dict()
    assert continued.keys() == before.keys()
    assert not all(torch.equal(continued[key], before[key]) for key in before)


def test_an_encoder_of_waveforms_is_refused(tmp_path):
    write_recordings(tmp_path / "data", {"train": 6, "validation": 2})
    run = run_file(tmp_path, {"encoder_config": {"model_type": "hubert"}})
    with pytest.raises(InputError, match="'hubert' is not known to read log-mel frames"):
        pretrain(run, command="test")
