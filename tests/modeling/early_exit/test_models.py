import peft
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    HubertForCTC,
)

from hf_ssl.errors import InputError
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.models import (
    EarlyExitForAudioClassification,
    EarlyExitForCTC,
    EarlyExitForImageClassification,
    EarlyExitForSequenceClassification,
    EarlyExitForTokenClassification,
)
from hf_ssl.tuners.lora_targets import lora_targets
from tests.families import IMAGES, SPEECH
from tests.modeling.early_exit.exit_models import FAMILIES, ROWS, exit_model, inputs_for

TASKS = {
    EarlyExitForSequenceClassification: ("bert", AutoModelForSequenceClassification),
    EarlyExitForTokenClassification: ("roberta", AutoModelForTokenClassification),
    EarlyExitForImageClassification: ("vit", AutoModelForImageClassification),
    EarlyExitForAudioClassification: ("hubert", AutoModelForAudioClassification),
    EarlyExitForCTC: ("wav2vec2", AutoModelForCTC),
}
AUTO_MODELS = pytest.mark.parametrize(("model_class", "family", "auto_model"), [(c, *row) for c, row in TASKS.items()])


def labels_for(model, inputs):
    torch.manual_seed(2)
    if isinstance(model, EarlyExitForCTC):
        return torch.randint(1, model.config.vocab_size, (ROWS, 2))
    if isinstance(model, EarlyExitForTokenClassification):
        return torch.randint(3, (ROWS, 7)).masked_fill(inputs["attention_mask"] == 0, -100)
    return torch.randint(3, (ROWS,))


@pytest.mark.parametrize("family", FAMILIES)
def test_exits_read_what_their_layer_hands_on(family):
    model, inputs = exit_model(family), inputs_for(family)
    with torch.no_grad():
        output = model(**inputs)
        encoded = model.base_model(**inputs, output_hidden_states=True)
    assert output.exit_layer.tolist() == [model.exit_layers[-1]] * ROWS
    assert torch.equal(output.logits, output.exit_logits[-1])
    hidden_states = [*encoded.hidden_states[1:-1], encoded.last_hidden_state]
    assert len(hidden_states) == len(model.exits) > 2
    for head, hidden, logits in zip(model.exits, hidden_states, output.exit_logits, strict=True):
        torch.testing.assert_close(head(hidden, model.mask_of(hidden, inputs))[1], logits)


@AUTO_MODELS
def test_saved_and_loaded_with_the_same_exits(tmp_path, model_class, family, auto_model):
    model = exit_model(family, model_class, exit_policy="entropy", exit_threshold=0.4, learn_to_exit=False)
    inputs = inputs_for(family)
    model.save_pretrained(tmp_path)
    again = auto_model.from_pretrained(tmp_path).eval()
    assert type(again) is model_class
    with torch.no_grad():
        expected, found = model(**inputs), again(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.exit_layer, expected.exit_layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_the_bare_encoder_loads_into_it(tmp_path, family):
    auto_model = (
        AutoModelForImageClassification
        if family in IMAGES
        else AutoModelForAudioClassification
        if family in SPEECH
        else AutoModelForSequenceClassification
    )
    encoder = AutoModel.from_config(exit_model(family).config.encoder_config)
    encoder.save_pretrained(tmp_path)
    model, report = auto_model.from_pretrained(
        tmp_path, config=EarlyExitConfig(encoder_config=encoder.config), output_loading_info=True
    )
    assert {name.partition(".")[0] for name in report["missing_keys"]} == {"exits"}
    assert all(name.startswith("pooler.") for name in report["unexpected_keys"])
    weights = encoder.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.base_model.state_dict().items())


@AUTO_MODELS
@pytest.mark.parametrize("weights", ["uniform", "depth", "last"])
def test_the_loss_is_the_weighted_mean_of_the_exits(model_class, family, auto_model, weights):
    model, inputs = exit_model(family, model_class, exit_layers=[1, 3], exit_weights=weights), inputs_for(family)
    labels = labels_for(model, inputs)
    output = model(**inputs, labels=labels)
    losses = [model.exit_loss(logits, labels, inputs) for logits in output.exit_logits]
    if not isinstance(model, EarlyExitForCTC):
        expected = [cross_entropy(logits.flatten(0, -2), labels.flatten()) for logits in output.exit_logits]
        torch.testing.assert_close(losses, expected)
    factors = {"uniform": [1, 1, 1], "depth": [1, 3, 4], "last": [0, 0, 1]}[weights]
    naive = sum(factor * loss for factor, loss in zip(factors, losses, strict=True)) / sum(factors)
    torch.testing.assert_close(output.loss, naive)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        is_reached = parameter.grad is not None and bool(parameter.grad.any())
        of_early_exit = name.startswith(("exits.0.", "exits.1."))
        if name.startswith("exits.") or ".layers.3." in name or ".layer.3." in name:
            assert is_reached != (of_early_exit and weights == "last") or name.endswith("k_proj.bias"), name


def test_the_loss_of_transcripts_is_that_of_transformers():
    model, inputs = exit_model("hubert", EarlyExitForCTC, vocab_size=7, exit_weights="last"), inputs_for("hubert")
    fields = model.config.encoder_config.to_dict() | {"vocab_size": 7, "pad_token_id": 0, "ctc_zero_infinity": True}
    theirs = HubertForCTC(type(model.config.encoder_config).from_dict(fields)).eval()
    theirs.hubert.load_state_dict(model.base_model.state_dict())
    theirs.lm_head.load_state_dict(model.exits[-1].classifier.state_dict())
    labels = labels_for(model, inputs)
    for given in (inputs, {"input_values": inputs["input_values"]}):
        expected, found = theirs(**given, labels=labels), model(**given, labels=labels)
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize("model_class", [EarlyExitForSequenceClassification, EarlyExitForTokenClassification])
def test_learning_to_exit(model_class):
    """BERxiT, section 3.3: the squared error of a shared sigmoid of a linear layer, of 1 where an exit is wrong."""
    model = exit_model("bert", model_class, learn_to_exit=True)
    inputs = inputs_for("bert")
    labels = labels_for(model, inputs)
    output = model(**inputs, labels=labels)
    with_it = output.loss
    hidden = [*model.base_model(**inputs, output_hidden_states=True).hidden_states[1:]]
    errors, tasks = [], []
    for head, states, logits in zip(model.exits, hidden, output.exit_logits, strict=True):
        features, _ = head(states, inputs["attention_mask"])
        predicted = torch.sigmoid(features @ model.wrongness.linear.weight[0] + model.wrongness.linear.bias)
        counted = labels != -100
        errors.append(mse_loss(predicted[counted], (logits.argmax(-1) != labels)[counted].float()))
        tasks.append(cross_entropy(logits.flatten(0, -2), labels.flatten()))
    torch.testing.assert_close(with_it, torch.stack(tasks).mean() + torch.stack(errors).mean())
    assert [error.shape for error in output.exit_errors] == [(ROWS,)] * 4
    assert all(((error >= 0) & (error <= 1)).all() for error in output.exit_errors)


def test_a_number_may_be_predicted_by_exits_that_nobody_leaves_at():
    model, inputs = exit_model("bert", num_labels=1), inputs_for("bert")
    labels = torch.randn(ROWS)
    output = model(**inputs, labels=labels)
    expected = sum(mse_loss(logits[:, 0], labels) for logits in output.exit_logits) / 4
    torch.testing.assert_close(output.loss, expected)


def test_deeberts_head():
    model, inputs = exit_model("bert", exit_head="pooler"), inputs_for("bert")
    hidden = torch.randn(2, 7, 16)
    head = model.exits[0]
    dense = head.pooler[0]
    expected = head.classifier(torch.tanh(dense(head.norm(hidden[:, 0]))))
    torch.testing.assert_close(head(hidden)[1], expected)
    assert model(**inputs).logits.shape == (ROWS, 3)


@pytest.mark.parametrize(
    ("family", "given", "found"),
    [
        ("bert", None, "cls"),
        ("bert", "mean", "mean"),
        ("vit", None, "cls"),
        ("swin", None, "mean"),
        ("hubert", None, "mean"),
    ],
)
def test_pooling(family, given, found):
    assert {head.pooling for head in exit_model(family, pooling=given).exits} == {found}


@pytest.mark.parametrize("family", ["bert", "vit", "hubert", "albert"])
def test_lora_underneath(tmp_path, family):
    model, inputs = exit_model(family, exit_policy="entropy", exit_threshold=0.5), inputs_for(family)
    heads = [f"exits.{index}" for index in range(len(model.exits))]
    config = peft.LoraConfig(r=2, target_modules=lora_targets(model), modules_to_save=heads, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    adapted(**inputs, labels=labels_for(model, inputs)).loss.backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".backbone." in name and "lora_B" in name for name in trained)
    assert any(".exits." in name for name in trained)
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(exit_model(family, exit_policy="entropy", exit_threshold=0.5), tmp_path)
    with torch.no_grad():
        expected, found = adapted.eval()(**inputs), again.eval()(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.exit_layer, expected.exit_layer)


def test_layer_drop_leaves_every_exit_something_to_read():
    model = exit_model("hubert", encoder={"layerdrop": 0.9, "apply_spec_augment": False}).train()
    inputs = inputs_for("hubert")
    for seed in range(4):
        torch.manual_seed(seed)
        output = model(**inputs, labels=labels_for(model, inputs))
        assert len(output.exit_logits) == 4
        assert output.loss.isfinite()


def test_training_and_labels_take_all_rows_through_all_layers():
    model, inputs = exit_model("vit", exit_policy="max_probability", exit_threshold=0.0), inputs_for("vit")
    assert model(**inputs).exit_layer.tolist() == [1] * ROWS
    assert model(**inputs, labels=labels_for(model, inputs)).exit_layer.tolist() == [4] * ROWS
    assert len(model.train()(**inputs).exit_logits) == 4


def test_no_weight_stays_untrained():
    model, inputs = exit_model("bert"), inputs_for("bert")
    model(**inputs, labels=labels_for(model, inputs)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_its_cnn_can_be_frozen():
    model = exit_model("hubert")
    model.freeze_feature_encoder()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".feature_extractor." in name}
    assert frozen


@pytest.mark.parametrize(
    ("family", "model_class", "fields", "message"),
    [
        ("sew", EarlyExitForCTC, {}, "The layers of a sew encoder have fewer frames than its output"),
        ("wav2vec2", None, {"encoder": {"add_adapter": True}}, "set add_adapter to False"),
        ("swin", None, {"learn_to_exit": True}, r"One module cannot learn to exit at layers of widths \[16, 32, 32\]"),
        ("hubert", EarlyExitForCTC, {"learn_to_exit": True}, "Without an alignment"),
        ("swin", None, {"pooling": "cls"}, "has no class token"),
    ],
)
def test_what_cannot_be_is_refused(family, model_class, fields, message):
    with pytest.raises(InputError, match=message):
        exit_model(family, model_class, **fields)
