"""What every objective must do: the battery, one class, run for each row of `tests.tiny.TINY`."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel

import hf_ssl  # noqa: F401 - registers the classes
from hf_ssl.modeling import OBJECTIVES
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.trainers.build import own_fields
from hf_ssl.tuners.lora_targets import lora_targets
from tests.tiny import OVER_A_BATCH, OWN_ENCODERS, TINY, Batch

# Of a batch, what the encoder takes.
ENCODER_INPUTS = (
    "input_ids",
    "token_type_ids",
    "attention_mask",
    "input_values",
    "input_features",
    "pixel_values",
)


def encoder_inputs(batch: Batch) -> Batch:
    """The part of an objective's batch that its encoder takes; of several views, the first."""
    inputs = {name: value for name, value in batch.items() if name in ENCODER_INPUTS}
    if inputs.get("pixel_values", torch.empty(0)).dim() == 5:
        inputs["pixel_values"] = inputs["pixel_values"][:, 0]
    return inputs


def rows(batch: Batch, start: int, stop: int) -> Batch:
    return {name: value[start:stop] for name, value in batch.items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close_gradients(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """The same gradient within 1e-5, relative to its norm over all parameters."""
    assert left.keys() == right.keys()
    first, second = (torch.cat([side[name].flatten() for name in left]) for side in (left, right))
    assert first.norm() > 0
    assert (first - second).norm() <= 1e-5 * first.norm()


class ObjectiveBattery:
    """One method a behaviour; `model` and `batch` are a row of the table."""

    @pytest.fixture(params=TINY)
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def model(self, name: str) -> PreTrainedModel:
        return TINY[name]()[0]

    @pytest.fixture
    def batch(self, name: str) -> Batch:
        return TINY[name]()[1]

    def test_loss_is_a_finite_scalar_made_of_its_terms(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        output = model(**batch)
        assert output.loss.shape == ()
        assert torch.isfinite(output.loss)
        assert output.loss_terms
        assert all(not term.requires_grad and torch.isfinite(term) for term in output.loss_terms.values())
        assert output.features.dim() == 2
        assert not output.features.requires_grad

    def test_save_and_load(self, model: SSLPreTrainedModel, batch: Batch, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert [file.name for file in tmp_path.glob("*") if file.suffix not in (".json", ".safetensors")] == []
        loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        for field in own_fields(type(model.config)):
            value = getattr(model.config, field)
            if not isinstance(value, PreTrainedConfig):
                assert getattr(loaded.config, field) == value, field
        for key, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[key]), key
        assert torch.equal(model.eval()(**batch).loss, loaded.eval()(**batch).loss)

    def test_auto_classes(self, model: SSLPreTrainedModel, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
        assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is type(model)
        assert type(AutoModel.from_pretrained(tmp_path)) is type(model)

    def test_export_is_a_plain_transformers_encoder(
        self, name: str, model: SSLPreTrainedModel, batch: Batch, tmp_path: Path
    ) -> None:
        model.export_encoder(tmp_path)
        plain, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        if name in OWN_ENCODERS:
            assert set(plain.config.auto_map) == {"AutoConfig", "AutoModel"}
            assert all((tmp_path / f"{code.split('.')[0]}.py").is_file() for code in plain.config.auto_map.values())
        else:
            assert type(plain).__module__.startswith("transformers.")
        assert not report["unexpected_keys"]
        assert all("pooler" in key for key in report["missing_keys"])
        inputs = encoder_inputs(batch)
        with torch.no_grad():
            ours = model.eval().exported_encoder(**inputs, output_hidden_states=True).hidden_states
            theirs = plain.eval()(**inputs, output_hidden_states=True).hidden_states
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def test_starts_from_an_encoder(self, model: SSLPreTrainedModel, batch: Batch, tmp_path: Path) -> None:
        model.export_encoder(tmp_path)
        own = {
            name: getattr(model.config, name) for name in own_fields(type(model.config)) if name != "encoder_config"
        }
        started = type(model).from_encoder(tmp_path, **own)
        for key, value in model.exported_encoder.state_dict().items():
            assert torch.equal(value, started.encoder.state_dict()[key]), key
        assert torch.isfinite(started(**batch).loss)

    def test_gradients_reach_everything_that_is_trainable(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        model.train()(**batch).loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name

    def test_every_trainable_parameter_moves(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        before = copy.deepcopy(dict(model.named_parameters()))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(3):
            optimizer.zero_grad()
            model.train()(**batch).loss.backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name

    def test_given_its_inputs_forward_is_deterministic(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        torch.manual_seed(1)
        first = model.eval()(**batch).loss
        torch.manual_seed(2)
        assert torch.equal(first, model(**batch).loss)

    def test_overfits_a_tiny_batch(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
        first = float(model(**batch).loss.detach())
        for _ in range(80):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.6 * first

    def test_bf16(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        exact = model.eval()(**batch).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.05)
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_loaded_in_half_precision_it_takes_a_step(
        self, model: SSLPreTrainedModel, batch: Batch, tmp_path: Path
    ) -> None:
        model.save_pretrained(tmp_path)
        half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).train()
        floats = {name: x.bfloat16() if x.is_floating_point() else x for name, x in batch.items()}
        for _ in range(2):  # what the first step leaves behind enters the second
            loss = half(**floats).loss
            assert torch.isfinite(loss)
            loss.backward()
            half.after_optimizer_step(0.5)

    def test_padding_changes_nothing(self, name: str, model: SSLPreTrainedModel, batch: Batch) -> None:
        if OBJECTIVES[name].modality == "vision":
            pytest.skip("images are not padded")
        padded = pad_rows(model, batch)
        assert model.eval()(**padded).loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)

    def test_micro_batches_have_the_gradient_of_the_batch(
        self, name: str, model: SSLPreTrainedModel, batch: Batch
    ) -> None:
        counts = model.count_predictions(batch)
        if not counts:
            pytest.skip("the loss is defined over a batch of samples")
        for field, value in OVER_A_BATCH.get(name, {}).items():
            setattr(model.config, field, value)
        model.eval()(**batch, num_items_in_batch=counts).loss.backward()
        whole = gradients(model)
        model.zero_grad()
        for row in range(len(next(iter(batch.values())))):
            model(**rows(batch, row, row + 1), num_items_in_batch=counts).loss.backward()
        assert_close_gradients(whole, gradients(model))

    def test_activation_checkpointing_changes_nothing(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        model.train()(**batch).loss.backward()
        plain = gradients(model)
        model.zero_grad()
        model.activation_checkpointing_enable()
        model(**batch).loss.backward()
        assert_close_gradients(plain, gradients(model))

    def test_lora_applies(self, model: SSLPreTrainedModel, batch: Batch) -> None:
        encoder = model.encoder.eval()
        inputs = encoder_inputs(batch)
        with torch.no_grad():  # which attention kernel runs may depend on what gradients are recorded
            before = encoder(**inputs).last_hidden_state
            tuned = get_peft_model(encoder, LoraConfig(r=2, target_modules=lora_targets(encoder)))
            assert torch.equal(before, tuned.eval()(**inputs).last_hidden_state)
        trainable = [name for name, p in tuned.named_parameters() if p.requires_grad]
        assert trainable
        assert all("lora_" in name for name in trainable)


def pad_rows(model: SSLPreTrainedModel, batch: Batch) -> Batch:
    """The same rows, padded at the end as a collator would pad them beside a longer row."""
    if "input_values" in batch:
        return pad_waveforms(model, batch)
    if "input_features" in batch:
        return pad_features(batch)
    fill = {"labels": -100}
    return {
        name: value if value.dim() == 1 else nn.functional.pad(value, (0, 6), value=fill.get(name, 0))
        for name, value in batch.items()
    }


def pad_features(batch: Batch) -> Batch:
    """Six more inputs of the encoder in every row, and as many mel frames as they hold."""
    features = batch["input_features"]
    num_rows, num_inputs, _ = features.shape
    of_inputs = {name: nn.functional.pad(batch[name], (0, 0, 0, 6)) for name in ("input_features", "noise")}
    mask = batch["mask_time_indices"]
    attention_mask = torch.cat([features.new_ones(num_rows, num_inputs), features.new_zeros(num_rows, 6)], dim=1)
    return {
        **batch,
        **of_inputs,
        "mask_time_indices": nn.functional.pad(mask, (0, 6 * mask.shape[1] // num_inputs)),
        "attention_mask": attention_mask.long(),
    }


def pad_waveforms(model: SSLPreTrainedModel, batch: Batch) -> Batch:
    waveforms = batch["input_values"]
    padded = nn.functional.pad(waveforms, (0, 3200))
    attention_mask = nn.functional.pad(torch.ones_like(waveforms, dtype=torch.long), (0, 3200))
    frames, more = (int(model.encoder._get_feat_extract_output_lengths(x.shape[1])) for x in (waveforms, padded))
    of_frames = {
        name: nn.functional.pad(value, (0, more - frames), value=-100 if name == "labels" else 0)
        for name, value in batch.items()
        if value.shape[1:] == (frames,)
    }
    return {**batch, **of_frames, "input_values": padded, "attention_mask": attention_mask}
