"""Recognition: what is recognised of the transcripts, by which encoders, and how it is scored and saved."""

import json

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from transformers import AutoConfig, Wav2Vec2FeatureExtractor, pipeline, set_seed

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.errors import InputError
from hf_ssl.trainers import load_finetuned
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import make_task_model
from tests.tiny_encoders import save_mel_encoder, save_speech_encoder
from tests.trainers.fine_tuning_cases import Cases, training

COMMAND = "hf-ssl finetune my_run.yaml"
MASKS = {"mask_time_prob": 0.3, "mask_time_length": 2, "mask_channel_prob": 0.3, "mask_channel_length": 4}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def spoken(cases, tmp_path_factory) -> str:
    """The cases' recordings with phones, and with transcripts that have upper case and digits."""
    data = Dataset.from_parquet(str(cases.speech())).cast_column("audio", Audio(decode=False))
    data = data.add_column("phones", [" ".join(f"{c}:" for c in text) for text in data["text"]])
    data = data.add_column("written", [f"{text.capitalize()} 2!" for text in data["text"]])
    file = tmp_path_factory.mktemp("spoken") / "speech.parquet"
    data.to_parquet(file)
    return str(file)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    group = save_speech_encoder(folder / "group", feat_extract_norm="group", do_stable_layer_norm=False)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(group)
    return {
        "waveform": str(save_speech_encoder(folder / "layer")),
        "group norm": str(group),
        "mel": str(save_mel_encoder(folder / "mel", "wav2vec2-bert")),
        "parakeet": str(save_mel_encoder(folder / "parakeet", "parakeet_encoder")),
    }


def run_of(encoder: str, path: str, folder, model: dict | None = None, settings: dict | None = None, **data):
    return FineTuningRun(
        FineTuningModelArguments(encoder=encoder, task="ctc", **(model or {})),
        SpeechDataArguments(path=path, **{"validation_split": None, "test_split": None, **data}),
        training(folder, **(settings or {})),
    )


def trained(run: FineTuningRun) -> FineTuningTrainer:
    prepared = prepare_task(run.model, run.data)
    set_seed(0)
    trainer = FineTuningTrainer(
        make_task_model(run.model, prepared.config_updates), run.training, run.model.task, prepared
    )
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "data", "metric"),
    [
        ("mel", {}, "cer"),
        ("parakeet", {}, "cer"),
        ("group norm", {}, "cer"),
        ("waveform", {"text_column": "phones", "text_unit": "phones"}, "per"),
    ],
)
def test_encoders_of_every_kind_overfit_two_recordings(encoders, spoken, tmp_path, kind, data, metric):
    settings = {"learning_rate": 1e-2, "max_steps": 120}
    trainer = trained(run_of(encoders[kind], spoken, tmp_path, settings=settings, max_train_items=2, **data))
    assert trainer.evaluate(trainer.train_dataset)[f"eval_{metric}"] == 0


@pytest.mark.parametrize("tuner", ["none", "lora"])
@pytest.mark.parametrize("kind", ["waveform", "group norm", "mel", "parakeet"])
def test_what_is_saved_is_what_was_trained(encoders, spoken, tmp_path, kind, tuner):
    model = {"tuner": tuner, **(MASKS if kind != "parakeet" else {})}
    if kind == "parakeet" and tuner == "lora":
        model["tuner_config"] = {"target_modules": ["q_proj", "v_proj"]}
    run = run_of(encoders[kind], spoken, tmp_path, model=model)
    fine_tune(run, command=COMMAND, merge=tuner == "lora")
    model, processor = load_finetuned(tmp_path)
    if tuner == "lora":
        assert any(p.abs().sum() > 0 for name, p in model.named_parameters() if "lora_B" in name)
    waveform = np.sin(np.arange(16_000) / 40).astype(np.float32)
    recognise = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    plain = pipeline("automatic-speech-recognition", model=str(tmp_path / ("merged" if tuner == "lora" else "")))
    assert recognise(waveform) == plain(waveform)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.finetuning_task, config.text_unit, config.normalise_text) == ("ctc", "characters", True)
    assert "lower-case letters" in json.loads((tmp_path / "metrics.json").read_text())["transcripts"]


def test_a_model_of_phones_says_phones(encoders, spoken, tmp_path):
    data = {"text_column": "phones", "text_unit": "phones", "test_split": "train"}
    result = fine_tune(run_of(encoders["waveform"], spoken, tmp_path, **data), command=COMMAND)
    assert set(result.metrics["test"]) == {"per", "loss"}
    assert "phones" in json.loads((tmp_path / "metrics.json").read_text())["transcripts"]
    model, processor = load_finetuned(tmp_path)
    assert model.config.text_unit == "phones"
    assert processor.tokenizer.decode(processor.tokenizer("a: o:").input_ids) == "a: o:"
    assert all(len(unit) == 2 for unit in set(processor.tokenizer.get_vocab()) - {"<pad>", "<unk>"})
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path))
    said = recognise(np.sin(np.arange(16_000) / 40).astype(np.float32))["text"]
    assert set(said.split()) <= set(processor.tokenizer.get_vocab())


def test_transcripts_as_they_are(encoders, spoken, tmp_path):
    run = run_of(encoders["waveform"], spoken, tmp_path, text_column="written", normalise_text=False)
    prepared = prepare_task(run.model, run.data)
    assert all(text[0].isupper() and text.endswith(" 2!") for text in prepared.splits["train"]["text"])
    assert {"2", "!"} < set(prepared.processor.tokenizer.get_vocab())
    normal = prepare_task(run.model, run_of(encoders["waveform"], spoken, tmp_path, text_column="written").data)
    assert {text.lower().removesuffix(" 2!") for text in prepared.splits["train"]["text"]} == set(
        normal.splits["train"]["text"]
    )


@pytest.mark.parametrize("kind", ["waveform", "mel", "parakeet"])
def test_a_recording_is_refused_exactly_where_its_loss_would_be_infinite(encoders, tmp_path, kind):
    """The refused ones are reported with their names; the longest refused one has no finite loss, the others have."""
    phones = "x y y z"  # five frames are needed
    rng = np.random.default_rng(0)
    for number in range(3840, 640, -320):
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(size=number) / 10, 16_000)
    names = [f"{number}.wav\t{phones}\n" for number in range(3840, 640, -320)]
    (tmp_path / "transcripts.tsv").write_text("".join(names))
    data = {"text_unit": "phones", "min_seconds": 0.001, "on_error": "skip"}
    run = run_of(encoders[kind], str(tmp_path), tmp_path / "run", **data)
    with pytest.raises(InputError, match=r"\d+\.wav, 0\.\d\d s, cannot be learnt with CTC: it has \d frames"):
        prepare_task(run.model, run_of(encoders[kind], str(tmp_path), tmp_path, **{**data, "on_error": "raise"}).data)
    prepared = prepare_task(run.model, run.data)
    kept = {row["audio"]["path"].rpartition("/")[2] for row in prepared.splits["train"]}
    model = make_task_model(run.model, {**prepared.config_updates, "ctc_zero_infinity": False}).eval()
    for number in range(3840, 640, -320):
        row = {"audio": {"bytes": None, "path": str(tmp_path / f"{number}.wav")}, "text": phones}
        with torch.no_grad():
            loss = model(**prepared.collator([row])).loss
        assert bool(loss.isfinite()) == (f"{number}.wav" in kept), number
    with torch.no_grad():  # nor does padding give a recording frames, or take some
        assert model(**prepared.collator(list(prepared.splits["train"]))).loss.isfinite()


def test_masks_leave_the_loss_finite_even_where_all_is_masked(encoders, spoken, tmp_path):
    everything = {"mask_time_prob": 1.0, "mask_time_length": 400, "mask_channel_prob": 1.0, "mask_channel_length": 32}
    settings = {"max_steps": 3, "logging_strategy": "steps", "logging_steps": 1}
    trainer = trained(run_of(encoders["waveform"], spoken, tmp_path, model=everything, settings=settings))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(losses) == 3
    assert np.isfinite(losses + norms).all()


def test_a_masked_step_does_not_depend_on_how_its_batch_is_cut(encoders, spoken, tmp_path):
    weights = []
    for size in (4, 1):
        settings = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": 4 // size,
            "max_steps": 1,
            "optim": "sgd",
            "max_grad_norm": 0,
        }
        run = run_of(encoders["waveform"], spoken, tmp_path, MASKS, settings, max_train_items=4)
        weights.append({name: p.detach() for name, p in trained(run).model.named_parameters()})
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)


def test_masks_differ_from_epoch_to_epoch_and_seed_to_seed(encoders, spoken, tmp_path):
    drawn = []
    for seed in (1, 2):
        run = run_of(encoders["mel"], spoken, tmp_path, MASKS, {"data_seed": seed})
        prepared = prepare_task(run.model, run.data)
        trainer = FineTuningTrainer(make_task_model(run.model, prepared.config_updates), run.training, "ctc", prepared)
        loader = trainer.get_train_dataloader()
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            (batch,) = loader
            drawn.append(batch["mask_channel_indices"])
            assert batch["mask_time_indices"].shape == batch["input_features"].shape[:2]
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


def test_a_unit_that_does_not_exist(encoders, spoken, tmp_path):
    with pytest.raises(InputError, match="did you mean 'phones'"):
        run_of(encoders["waveform"], spoken, tmp_path, text_unit="phone")
