"""The student with its teacher: what is trained, saved, counted and refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, BertConfig, ResNetConfig, ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling.distillation.config import DistillationConfig
from hf_ssl.modeling.distillation.losses import LOSSES
from hf_ssl.modeling.distillation.student import DistillationModel
from hf_ssl.modeling.distillation.teacher import load_teacher
from hf_ssl.modeling.text.bert import BertPreTrainingConfig, BertPreTrainingModel
from tests.families import BERT, TEXT, classifier
from tests.modeling.distillation.tiny import BATCHES, FAMILIES, MASK, ROWS, TEACHERS, Batch, family_encoder, texts
from tests.testing_common import assert_close_gradients, gradients, rows

OF_TEXTS = {"logits": 5.0, "mlm": 2.0}
OF_ALL = {name: 1.0 for name in LOSSES if name not in OF_TEXTS}
MASKING = {"mlm_probability": 0.3, "mask_token_id": MASK}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in TEACHERS.items()}


@pytest.fixture(params=TEACHERS)
def modality(request) -> str:
    return request.param


def all_losses(modality: str) -> dict:
    return {"losses": OF_ALL | OF_TEXTS, **MASKING} if modality == "text" else {"losses": OF_ALL}


def student(teachers, modality: str, **more) -> DistillationModel:
    torch.manual_seed(0)
    return DistillationModel.from_teacher(
        teachers[modality], {"num_hidden_layers": 2}, **{**all_losses(modality), **more}
    )


def teacher_of(model: DistillationModel) -> torch.nn.Module:
    (teacher,) = model._teachers
    return teacher


def test_the_gradient_reaches_the_student_and_never_the_teacher(teachers, modality: str) -> None:
    model = student(teachers, modality).train()
    before = {name: value.clone() for name, value in teacher_of(model).state_dict().items()}
    output = model(**BATCHES[modality]())
    assert set(output.loss_terms) == set(model.config.losses)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not any(parameter.requires_grad for parameter in teacher_of(model).parameters())
    assert not any(module.training for module in teacher_of(model).modules())
    for name, value in teacher_of(model).state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_batch_is_learned(teachers, modality: str) -> None:
    model, batch = student(teachers, modality), BATCHES[modality]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    first = model(**batch).loss.item()
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * first


def test_the_gradient_does_not_depend_on_the_cut(teachers, modality: str) -> None:
    model, batch = student(teachers, modality).eval(), BATCHES[modality]()
    counts = model.count_predictions(batch)
    assert set(counts) == set(model.config.losses)
    model(**batch, num_items_in_batch=counts).loss.backward()
    whole = gradients(model)
    model.zero_grad()
    for row in range(ROWS):
        model(**rows(batch, row, row + 1), num_items_in_batch=counts).loss.backward()
    assert_close_gradients(whole, gradients(model))


def padded(batch: Batch) -> Batch:
    by = {"input_ids": 4, "input_values": 640, "attention_mask": 640 if "input_values" in batch else 4, "labels": 4}
    fill = {"labels": -100}
    return {name: pad(value, (0, by[name]), value=fill.get(name, 0)) for name, value in batch.items()}


@pytest.mark.parametrize("modality", ["text", "speech"], indirect=True)
def test_padding_changes_nothing(teachers, modality: str) -> None:
    model, batch = student(teachers, modality).eval(), BATCHES[modality]()
    left, right = model(**batch).loss_terms, model(**padded(batch)).loss_terms
    for name in left:
        assert left[name].item() == pytest.approx(right[name].item(), rel=1e-4), name


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(teachers, modality: str) -> None:
    zero = {"cosine", "attention", "value_relation", "relations", "attention_scores"}
    losses = {name: 1.0 for name in zero | ({"logits"} if modality == "text" else set())}
    model = DistillationModel.from_teacher(teachers[modality], {}, losses=losses).eval()
    terms = model(**BATCHES[modality]()).loss_terms
    assert all(abs(value.item()) < 1e-5 for value in terms.values()), terms


def test_under_autocast(teachers, modality: str) -> None:
    model, batch = student(teachers, modality).eval(), BATCHES[modality]()
    exact = model(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_the_teacher_is_not_saved_but_known(teachers, modality: str, tmp_path: Path) -> None:
    model, batch = student(teachers, modality), BATCHES[modality]()
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert {name.split(".")[0] for name in weights.keys()} <= {"encoder", "terms", "head"}  # noqa: SIM118
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["teacher"] == str(teachers[modality])
    assert config["teacher_fingerprint"] == teacher_of(model).fingerprint
    loaded, report = DistillationModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with pytest.raises(InputError, match="This student has no teacher; give it its own"):
        loaded(**batch)
    loaded.attach(load_teacher(loaded.config.teacher, with_head=loaded.config.reads_logits))
    assert torch.allclose(loaded.eval()(**batch).loss, model.eval()(**batch).loss, rtol=1e-5)


def test_another_teacher_is_refused(teachers) -> None:
    model, other = student(teachers, "vision"), load_teacher(teachers["vision"], with_head=False)
    assert other.fingerprint == load_teacher(teachers["vision"], with_head=False).fingerprint
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1.0)
    with pytest.raises(InputError, match="are not those that this student has learned from"):
        model.attach(other)


def test_the_encoder_is_a_plain_one(teachers, modality: str, tmp_path: Path) -> None:
    model, batch = student(teachers, modality).eval(), BATCHES[modality]()
    model.export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    assert type(plain).__module__.startswith("transformers.")
    assert plain.config.num_hidden_layers == 2
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if modality == "vision":
        inputs["pixel_values"] = inputs["pixel_values"][:, 0]
    with torch.no_grad():
        ours, theirs = (encoder(**inputs).last_hidden_state for encoder in (model.encoder, plain))
    assert torch.equal(ours, theirs)


def layer_weights(model, layer: int) -> Tensor:
    return model.state_dict()[f"encoder.layer.{layer}.attention.self.query.weight"]


@pytest.mark.parametrize(
    ("choice", "layers"), [("every_other", (0, 2)), ("first", (0, 1)), ([1, 3], (1, 3)), ([0, 3], (0, 3))]
)
def test_it_starts_from_the_chosen_layers(teachers, choice, layers: tuple[int, int]) -> None:
    model = student(teachers, "text", initial_layers=choice)
    theirs = teacher_of(model)
    for ours, layer in enumerate(layers):
        assert torch.equal(layer_weights(model.encoder, ours), layer_weights(theirs.encoder, layer))
    assert torch.equal(model.encoder.get_input_embeddings().weight, theirs.encoder.get_input_embeddings().weight)
    head, their_head = model.head.state_dict(), theirs.head.state_dict()
    assert head.keys() == their_head.keys()
    assert all(torch.equal(head[name], their_head[name]) for name in head)
    # The last layer of the head is the token embeddings, as the teacher's is.
    assert model.head.masked_lm.get_output_embeddings().weight is model.encoder.get_input_embeddings().weight


def test_of_a_narrower_student_what_fits_is_taken_over(teachers) -> None:
    fields = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    losses = {"relations": 1.0, "hidden_states": 1.0, "layer_prediction": 1.0, "logits": 1.0}
    model = DistillationModel.from_teacher(teachers["text"], fields, losses=losses)
    assert torch.isfinite(model(**texts()).loss)
    assert model.encoder.config.hidden_size == 8
    assert model.start_from(teacher_of(model), [0, 2])  # and this is what does not fit
    with pytest.raises(InputError, match="cosine compares states of 8 dimensions with the teacher's of 16"):
        DistillationModel.from_teacher(teachers["text"], fields, losses={"cosine": 1.0})


@pytest.mark.parametrize("family", TEXT)
def test_every_masked_language_model_has_a_head_to_learn_from(family: str, tmp_path: Path) -> None:
    """Apart from its encoder the head gives the scores that the whole model gives."""
    torch.manual_seed(0)
    whole = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **TEXT[family])).eval()
    whole.save_pretrained(tmp_path)
    model = DistillationModel.from_teacher(tmp_path, {}, losses={"logits": 1.0, "cosine": 1.0}).eval()
    assert model.state_dict().keys() >= {f"head.{name}" for name in teacher_of(model).head.state_dict()}
    batch = {"input_ids": torch.randint(5, 40, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    with torch.no_grad():
        expected = whole(**batch).logits.flatten(0, 1)
        states = teacher_of(model).encoder(**batch).last_hidden_state.flatten(0, 1)
        assert torch.allclose(teacher_of(model).head(states), expected, atol=1e-6)
        assert model(**batch).loss.item() == pytest.approx(0, abs=1e-5)


def test_an_objective_of_ours_is_a_teacher_with_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = BertPreTrainingModel(BertPreTrainingConfig(encoder_config=BertConfig(**BERT), mask_token_id=MASK))
    whole.save_pretrained(tmp_path)
    model = DistillationModel.from_teacher(tmp_path, {"num_hidden_layers": 1}, losses=OF_TEXTS, **MASKING).eval()
    batch = texts()
    output = model(**batch)
    whole.eval()
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        states = whole.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        expected = whole.cls.predictions(states[real])
        theirs = teacher_of(model).encoder(batch["input_ids"], attention_mask=batch["attention_mask"])
        assert torch.equal(teacher_of(model).head(theirs.last_hidden_state[real]), expected)
    output.loss.backward()
    model.save_pretrained(tmp_path / "student")
    loaded, report = DistillationModel.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not report["missing_keys"]
    assert loaded.head.decoder.weight is loaded.encoder.get_input_embeddings().weight


def test_texts_are_masked_only_where_asked(teachers) -> None:
    mask = torch.ones(2, 6, dtype=torch.long)
    batch = {"input_ids": torch.full((2, 6), 9), "attention_mask": mask, "token_type_ids": mask * 0}
    batch |= {"special_tokens_mask": mask * 0, "word_starts": mask, "next_sentence_label": mask[:, 0]}
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    plain = student(teachers, "text", losses={"cosine": 1.0}, mlm_probability=0.0)
    drawn = plain.draw_inputs(plain.config, batch, generators)
    assert set(drawn) == {"input_ids", "attention_mask"}
    assert torch.equal(drawn["input_ids"], batch["input_ids"])
    masked = student(teachers, "text")
    drawn = masked.draw_inputs(masked.config, batch, generators)
    assert ((drawn["labels"] == 9).sum(dim=1) == 2).all()
    assert (drawn["input_ids"] != 9).any()


def test_an_encoder_of_stages_can_be_compared_by_its_last_state(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(tmp_path)
    model = DistillationModel.from_teacher(tmp_path, {"embedding_size": 4, "hidden_sizes": [4, 16]})
    assert torch.isfinite(model(pixel_values=torch.randn(2, 3, 32, 32)).loss)
    for losses in ({"layer_prediction": 1.0}, {"hidden_states": 1.0}, {"attention": 1.0}):
        with pytest.raises(InputError, match="has stages that differ in size"):
            DistillationModel.from_teacher(tmp_path, {}, losses=losses)


BERT_12 = BertConfig(**{**BERT, "num_hidden_layers": 12})


def pair(student_fields=None, **fields) -> DistillationConfig:
    return DistillationConfig(
        encoder_config=BertConfig(**{**BERT, **(student_fields or {})}), teacher_config=BERT_12, **fields
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"losses": {"cosin": 1.0}}, "There is no loss (model.losses) 'cosin'; did you mean 'cosine'?"),
        ({"losses": {}}, "model.losses is {}; give at least one of"),
        ({"losses": {"cosine": 0}}, "model.losses.cosine is 0; give a weight above 0"),
        ({"student_fields": {"num_hidden_layers": 13}}, "has 13 layers, but the larger one only 12"),
        ({"losses": {"layer_prediction": 1.0}, "predicted_layers": [4, 13]}, "model.predicted_layers names layer 13"),
        ({"losses": {"hidden_states": 1.0}, "layer_map": [0, 12]}, "model.layer_map names layer 0"),
        (
            {"losses": {"hidden_states": 1.0}, "layer_map": [4, 8, 12]},
            "names 3 layers of the teacher, but the student",
        ),
        ({"losses": {"attention": 1.0}, "attention_layer": 13}, "model.attention_layer names layer 13"),
        (
            {"losses": {"attention": 1.0}, "student_fields": {"num_attention_heads": 4}},
            "the student has 4 attention heads and the teacher 2",
        ),
        ({"losses": {"attention": 1.0}, "attention_layer": 0}, "model.attention_layer names layer 0"),
        ({"losses": {"relations": 1.0}, "num_relation_heads": 3}, "model.num_relation_heads is 3"),
        ({"losses": {"relations": 1.0}, "num_relation_heads": 0}, "model.num_relation_heads is 0"),
        ({"losses": {"mlm": 1.0}}, "model.mlm_probability is 0; give .15"),
        ({"losses": {"logits": 1.0}, "student_fields": {"vocab_size": 20}}, "the student has 20 of them"),
        ({"temperature": 0.0}, "model.temperature is 0.0"),
        ({"mlm_probability": 1.0}, "model.mlm_probability is 1.0"),
        ({"mlm_probability": 0.1}, "the mask token is not known"),
        ({"initial_layers": [0, 12]}, "The layers to keep are [0, 12]; give some of 0 … 11"),
        ({"initial_layers": [0, 1, 2]}, "3 layers are listed ([0, 1, 2]) for an encoder of 2"),
        ({"initial_layers": "evry_other"}, "There is no choice of layers 'evry_other'; did you mean 'every_other'?"),
    ],
)
def test_what_cannot_be_compared_is_refused(fields: dict, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        pair(**fields)
    assert sentence in str(error.value)


def test_a_teacher_of_another_family_is_refused() -> None:
    with pytest.raises(InputError, match="The student is a 'vit' encoder, but the teacher a 'bert'"):
        DistillationConfig(encoder_config=ViTConfig(), teacher_config=BERT_12)


def test_the_losses_of_texts_need_a_head(teachers, tmp_path: Path) -> None:
    AutoModel.from_config(BertConfig(**BERT)).save_pretrained(tmp_path)
    for address in (tmp_path, teachers["vision"]):
        with pytest.raises(InputError, match="has no head of masked language modelling"):
            DistillationModel.from_teacher(address, {}, losses={"logits": 1.0})


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        load_teacher(tmp_path / "nowhere", with_head=False)


@pytest.mark.parametrize("modality", ["text", "vision"], indirect=True)
def test_recomputed_activations_have_the_same_gradient(teachers, modality: str) -> None:
    model, batch = student(teachers, modality).train(), BATCHES[modality]()
    model(**batch).loss.backward()
    plain = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    assert_close_gradients(plain, gradients(model))


UNREACHED = {
    "sew": "has fewer frames inside than at its end",
    "audio-spectrogram-transformer": "is not known to read log-mel frames of any length",
}
"""Families whose layers cannot be compared frame by frame, and why."""
ATTENTION_BY_ITSELF = ("data2vec-vision", "deberta", "deberta-v2", "mpnet", "wavlm")


@pytest.mark.parametrize("family", [name for name, fields in FAMILIES.items() if "depths" not in fields])
def test_every_family_with_a_stack_of_layers(family: str, tmp_path: Path) -> None:
    family_encoder(family).save_pretrained(tmp_path)
    losses = {"cosine": 1.0, "layer_prediction": 1.0, "hidden_states": 1.0, "embeddings": 1.0}
    if family not in ATTENTION_BY_ITSELF:
        losses |= {"relations": 1.0, "attention_scores": 1.0}
    _, inputs = classifier(family, padded=True)
    if family in UNREACHED:
        with pytest.raises(InputError, match=UNREACHED[family]):
            DistillationModel.from_teacher(tmp_path, {"num_hidden_layers": 2}, losses=losses)(**inputs)
        return
    model = DistillationModel.from_teacher(tmp_path, {"num_hidden_layers": 2}, losses=losses)
    output = model(**inputs)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all((p.grad is not None) == p.requires_grad for p in model.terms.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


@pytest.mark.parametrize("family", ATTENTION_BY_ITSELF)
def test_of_families_that_compute_attention_by_themselves_it_cannot_be_compared(family: str, tmp_path: Path) -> None:
    family_encoder(family).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="leave out the losses of attention and relations"):
        DistillationModel.from_teacher(tmp_path, {"num_hidden_layers": 2}, losses={"relations": 1.0})


def test_the_student_draws_nothing_inside(tmp_path: Path) -> None:
    """No SpecAugment of its own, and no LayerDrop, which would leave out layers that are compared."""
    config = family_encoder("wav2vec2").config
    config.layerdrop, config.mask_time_prob, config.apply_spec_augment = 1.0, 0.5, True
    AutoModel.from_config(config).save_pretrained(tmp_path)
    losses = {"hidden_states": 1.0, "attention_scores": 1.0}
    model = DistillationModel.from_teacher(tmp_path, {"num_hidden_layers": 2}, losses=losses).train()
    assert model.encoder.config.layerdrop == 0
    assert not model.encoder.config.apply_spec_augment
    assert torch.isfinite(model(input_values=torch.randn(2, 1600)).loss)
