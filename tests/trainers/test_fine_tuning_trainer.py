"""What fine-tuning adds to a training: masks, an encoder that is frozen for a while, batches of like length."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, set_seed

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.errors import InputError
from hf_ssl.trainers.fine_tuning import FineTuningRun, fine_tune
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments, FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import encoder_of, make_task_model
from tests.trainers import fine_tune_ranks
from tests.trainers.fine_tuning_cases import Cases, training
from tests.two_processes import run_two_processes

MASKS = {"mask_time_prob": 0.5, "mask_time_length": 3, "mask_channel_prob": 0.5, "mask_channel_length": 8}
SPEECH_TASKS = ("ctc", "audio-classification")


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def make_trainer(cases: Cases, folder: Path, task: str = "ctc", model: dict | None = None, **changes):
    arguments = FineTuningModelArguments(**{"encoder": cases.encoder(task), "task": task, **(model or {})})
    prepared = prepare_task(arguments, cases.data(task))
    set_seed(0)
    return FineTuningTrainer(
        make_task_model(arguments, prepared.config_updates), training(folder, **changes), task, prepared
    )


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("tuner", ["none", "lora"])
@pytest.mark.parametrize("task", SPEECH_TASKS)
def test_the_transformer_reads_the_masks_of_a_training_batch(cases, tmp_path, task, tuner):
    trainer = make_trainer(cases, tmp_path, task, {**MASKS, "tuner": tuner})
    encoder = encoder_of(trainer.model)
    batch = next(iter(trainer.get_train_dataloader()))
    times, channels = batch["mask_time_indices"], batch["mask_channel_indices"]
    read = []
    handle = encoder.encoder.pos_conv_embed.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch)
    assert not {"mask_time_indices", "mask_channel_indices"} & set(batch)
    for row in range(len(times)):
        assert times[row].any()
        assert channels[row].any()
        expected = encoder.masked_spec_embed.masked_fill(channels[row], 0)
        assert torch.equal(read[0][row][times[row]], expected.expand(int(times[row].sum()), -1))
        assert (read[0][row][:, channels[row]] == 0).all()
    handle.remove()
    trainer.compute_loss(trainer.model, batch)  # of the same batch without its masks
    assert len(read) == 1


def test_nothing_is_masked_in_evaluation_nor_without_being_asked(cases, tmp_path):
    masked, plain = (make_trainer(cases, tmp_path, model=model) for model in (MASKS, {}))
    assert masked.evaluate(masked.train_dataset)["eval_loss"] == plain.evaluate(plain.train_dataset)["eval_loss"]
    assert not any("mask_" in name for name in next(iter(plain.get_train_dataloader())))
    plain.model.train()
    batch = next(iter(plain.get_train_dataloader()))
    assert torch.equal(plain.compute_loss(plain.model, batch), plain.compute_loss(plain.model, batch))


def test_the_mask_embedding_learns(cases, tmp_path):
    trainer = make_trainer(cases, tmp_path, model=MASKS, max_steps=1)
    before = weights(trainer.model)
    trainer.train()
    assert "hubert.masked_spec_embed" in changed(before, trainer.model)


@pytest.mark.parametrize("tuner", ["none", "lora"])
def test_a_frozen_encoder_has_no_gradient_and_no_optimiser_state(cases, tmp_path, tuner):
    """The convolutions are frozen in any case; `lora_A` has no gradient in the first step after its freedom."""
    seen, recorded = [], []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            seen.append({name for name, p in kwargs["model"].named_parameters() if p.grad is not None})

        def on_step_end(self, args, state, control, **kwargs):
            recorded.append(len(kwargs["optimizer"].state_dict()["state"]))

    trainer = make_trainer(cases, tmp_path, model={"tuner": tuner}, max_steps=3, freeze_encoder_steps=2)
    trainer.add_callback(Look())
    before, outputs = weights(trainer.model), []
    encoder_of(trainer.model).register_forward_hook(
        lambda module, args, output: outputs.append(output.last_hidden_state.requires_grad)
    )
    trainer.train()
    assert outputs == [False, False, True]  # while frozen, activations are not even kept
    assert [all("lm_head" in name for name in names) for names in seen] == [True, True, False]
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad and "masked_spec" not in name]
    assert seen[2] == set(trained)
    assert recorded == [2, 2, len(trained)]  # Adam counts an encoder's steps from when it is free
    assert any("q_proj" in name for name in changed(before, trainer.model))


def test_only_the_head_moves_while_the_encoder_is_frozen(cases, tmp_path):
    trainer = make_trainer(cases, tmp_path, max_steps=2, freeze_encoder_steps=2, weight_decay=0.1)
    before = weights(trainer.model)
    trainer.train()
    assert changed(before, trainer.model) == {"lm_head.weight", "lm_head.bias"}


@pytest.mark.parametrize("tuner", ["none", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_run_resumed_at_any_step_equals_an_uninterrupted_one(cases, tmp_path, tuner):
    """Killed while the encoder was frozen, at the step that frees it, and after it; with masks and length batches."""

    def run(folder: str, max_steps: int = 4) -> FineTuningRun:
        model = {"encoder": cases.encoder("ctc"), "task": "ctc", "tuner": tuner, **MASKS}
        model["tuner_config"] = {"lora_dropout": 0.2} if tuner == "lora" else None
        settings = training(
            tmp_path / folder,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=None,
            max_steps=max_steps,
            per_device_train_batch_size=3,
            freeze_encoder_steps=2,
            schedule="tri_stage",
            hold_share=0.5,
        )
        return FineTuningRun(FineTuningModelArguments(**model), cases.data("ctc"), settings)

    fine_tune(run("whole"), command="hf-ssl finetune")
    file = "adapter_model.safetensors" if tuner == "lora" else "model.safetensors"
    whole = load_file(tmp_path / "whole" / file)
    for step in (1, 2, 3):
        (tmp_path / f"from{step}").mkdir()
        (tmp_path / "whole" / f"checkpoint-{step}").rename(tmp_path / f"from{step}" / f"checkpoint-{step}")
        fine_tune(run(f"from{step}"), command="hf-ssl finetune", resume=True)
        again = load_file(tmp_path / f"from{step}" / file)
        assert all(torch.equal(whole[name], again[name]) for name in whole), step


def test_the_schedule_is_the_one_asked_for(cases, tmp_path):
    trainer = make_trainer(
        cases,
        tmp_path,
        max_steps=10,
        schedule="tri_stage",
        warmup_steps=0.2,
        learning_rate=1.0,
        logging_strategy="steps",
        logging_steps=1,
        freeze_encoder_steps=10,
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    expected = [0.01, 0.505, 1, 1, 1, 1, *(0.05 ** (step / 4) for step in range(4))]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{"batch_size": 8}, {"batch_size": 1, "max_batch_length": 30.0}])
def test_padding_is_at_most_a_twentieth(settings):
    """Of the embedded speech, whose lengths spread over a factor of 14; batches by chance would be 57 % padding."""
    split = load_splits(SpeechDataArguments(path="sample:speech", validation_split=None), "speech")["train"]
    lengths = np.array([length for length in split["duration"] if length <= 6.0])
    sampler = EpochBatchSampler(len(lengths), seed=0, lengths=lengths, **settings)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = [lengths[[key.index for key in batch]] for batch in sampler]
        padded = sum(len(batch) * batch.max() for batch in batches)
        assert 1 - sum(batch.sum() for batch in batches) / padded <= 0.05


def test_batches_hold_recordings_of_like_length_within_the_budget(cases, tmp_path):
    trainer = make_trainer(cases, tmp_path, max_batch_length=2.0)
    assert len(trainer.data.lengths) == len(trainer.train_dataset) == 8
    batches = list(trainer.get_train_dataloader())
    assert len(batches) > 1
    assert all(batch["input_values"].numel() <= 2.0 * 16_000 for batch in batches)
    assert sum(len(batch["labels"]) for batch in batches) == 8


def test_workers_make_the_same_batches(cases, tmp_path):
    batches = []
    for workers in (0, 2):
        trainer = make_trainer(cases, tmp_path, model=MASKS, max_batch_length=2.0, dataloader_num_workers=workers)
        batches.append(list(trainer.get_train_dataloader()))
    for one, other in zip(*batches, strict=True):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_takes_what_there_is(cases, tmp_path):
    trainer = make_trainer(cases, tmp_path, per_device_train_batch_size=100)
    assert [len(batch["labels"]) for batch in trainer.get_train_dataloader()] == [8]


def test_other_data_have_no_lengths(cases, tmp_path):
    trainer = make_trainer(cases, tmp_path, "text-classification", max_batch_length=100.0)
    with pytest.raises(InputError, match=r"max_batch_length is for recordings"):
        trainer.train()


def test_an_encoder_without_a_mask_embedding_is_given_one_or_refused(cases, tmp_path):
    from transformers import AutoModel, Wav2Vec2FeatureExtractor

    encoder = AutoModel.from_pretrained(cases.encoder("ctc"))
    encoder.config.mask_time_prob = 0.0
    del encoder.masked_spec_embed
    encoder.save_pretrained(tmp_path / "without")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "without")
    for tuner in ("none", "lora"):
        model = {"encoder": str(tmp_path / "without"), "tuner": tuner}
        trainer = make_trainer(cases, tmp_path, model={**model, **MASKS}, max_steps=1)
        assert encoder_of(trainer.model).masked_spec_embed.shape == (32,)
        trainer.train()
        assert "masked_spec_embed" not in weights(encoder_of(make_trainer(cases, tmp_path, model=model).model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_time_prob": 1.5}, "mask_time_prob is 1.5"),
        ({"mask_channel_prob": -0.1}, "mask_channel_prob is -0.1"),
        ({"mask_time_length": 0}, "mask_time_length is 0"),
        ({"task": "text-classification", "mask_time_prob": 0.5}, "are for speech; leave them out for text-class"),
    ],
)
def test_masks_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        FineTuningModelArguments(**{"encoder": "e", "task": "ctc", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_encoder_steps": -1}, "freeze_encoder_steps is -1"),
        ({"freeze_encoder_steps": 1, "ddp_find_unused_parameters": False}, "ddp_find_unused_parameters=false"),
        ({"schedule": "tri-stage"}, "did you mean 'tri_stage'"),
        ({"lr_scheduler_type": "cosine"}, r"use training\.schedule"),
        ({"train_sampling_strategy": "group_by_length"}, r"use training\.max_batch_length"),
    ],
)
def test_settings_that_cannot_be(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        FineTuningArguments(output_dir=str(tmp_path), **changes)


def test_fields_of_the_encoders_config(cases, tmp_path):
    def make(values: dict) -> nn.Module:
        arguments = FineTuningModelArguments(encoder=cases.encoder("ctc"), task="ctc", encoder_config=values)
        return make_task_model(arguments, {"vocab_size": 5, "pad_token_id": 0})

    model = make({"layerdrop": 0.1, "activation_dropout": 0.2})
    assert model.config.layerdrop == 0.1
    assert model.hubert.encoder.layers[0].feed_forward.intermediate_dropout.p == 0.2
    with pytest.raises(InputError, match="did you mean 'layerdrop'"):
        make({"layer_drop": 0.1})
    with pytest.raises(InputError, match=r"encoder_config\.layerdrop is 'much'"):
        make({"layerdrop": "much"})
    with pytest.raises(InputError, match=r"use model\.mask_time_prob"):
        make({"mask_time_prob": 0.1})


@pytest.mark.slow
def test_two_ranks_train_as_one(cases, tmp_path):
    """Three steps with masks, the first with a frozen encoder."""
    fine_tune_ranks.main(cases, tmp_path / "one", "ctc", "masked")
    run_two_processes(Path(fine_tune_ranks.__file__), cases.folder, tmp_path / "two", "ctc", "masked")
    one, two = (torch.load(tmp_path / ranks / "weights.pt") for ranks in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)
    scores = [json.loads((tmp_path / ranks / "scores.json").read_text()) for ranks in ("one", "two")]
    assert scores[0]["eval_cer"] == pytest.approx(scores[1]["eval_cer"])
