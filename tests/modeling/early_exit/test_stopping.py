import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import layer_stack
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.models import (
    EarlyExitForCTC,
    EarlyExitForSequenceClassification,
    EarlyExitForTokenClassification,
)
from hf_ssl.modeling.early_exit.policies import exits_taken
from hf_ssl.modeling.early_exit.stopping import argument_sizes
from tests.families import BERT, TEXT
from tests.modeling.early_exit.exit_models import FAMILIES, ROWS, between, exit_model, inputs_for, row, scores_of
from tests.modeling.no_waiting import NoWaiting

CTC_FAMILIES = ["data2vec-audio", "hubert", "wav2vec2-bert", "wavlm"]


def stop(model, inputs, policy="entropy", thresholds=None):
    model.config.exit_policy = policy
    if thresholds is not None:
        model.config.exit_threshold = thresholds
    with torch.no_grad():
        return model(**inputs)


def rows_given_to_layers(model, inputs):
    """What the model returns, and for how many rows each of its layers ran."""
    rows = []
    handles = [
        layer.register_forward_hook(lambda layer, args, output: rows.append(len(args[0])))
        for layer in layer_stack(model.base_model)
    ]
    output = model(**inputs)
    for handle in handles:
        handle.remove()
    return output, rows


def check_rows_alone(model, inputs, policy, thresholds, scores, atol=1e-5):
    """A batch leaves as its rows do one by one, and as the logits of all exits say."""
    full = stop(model, inputs, "never")
    together = stop(model, inputs, policy, thresholds)
    exits = exits_taken(scores, model.config.thresholds)
    layers = torch.tensor(model.exit_layers)[exits]
    torch.testing.assert_close(together.exit_layer, layers)
    expected = torch.stack([full.exit_logits[exit][index] for index, exit in enumerate(exits)])
    torch.testing.assert_close(together.logits, expected, rtol=1e-5, atol=atol)
    for index in range(len(layers)):
        alone = stop(model, row(inputs, index), policy)
        assert alone.exit_layer.tolist() == [layers[index]]
        torch.testing.assert_close(alone.logits[0], together.logits[index], rtol=1e-5, atol=atol)
    return layers


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_leave_together_as_they_do_alone(family):
    model, inputs = exit_model(family), inputs_for(family)
    scores = scores_of(model, inputs, "entropy")
    left = [
        check_rows_alone(model, inputs, "entropy", between(scores, share), scores).tolist()
        for share in (0.2, 0.5, 0.9)
    ]
    assert len({tuple(layers) for layers in left}) == 3
    assert all(len(set(layers)) > 1 for layers in left[1:])  # so the batch did shrink


@pytest.mark.parametrize("policy", ["max_probability", "margin", "patience", "learned"])
@pytest.mark.parametrize("family", ["bert", "vit", "hubert"])
def test_under_every_policy(family, policy):
    model, inputs = exit_model(family, learn_to_exit=True), inputs_for(family)
    scores = scores_of(model, inputs, policy)
    check_rows_alone(model, inputs, policy, between(scores, 0.5) if policy != "patience" else None, scores)


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_patience_asks_for_so_many_repetitions(patience):
    model, inputs = exit_model("bert", exit_patience=patience), inputs_for("bert")
    scores = scores_of(model, inputs, "patience")
    layers = check_rows_alone(model, inputs, "patience", None, scores)
    assert layers.min() > min(patience, 3)


@pytest.mark.parametrize("policy", ["entropy", "patience", "learned"])
def test_a_text_leaves_when_its_least_certain_token_is_certain(policy):
    model = exit_model("bert", EarlyExitForTokenClassification, learn_to_exit=True)
    inputs = inputs_for("bert")
    scores = scores_of(model, inputs, policy)
    thresholds = None if policy == "patience" else between(scores, 0.5)
    check_rows_alone(model, inputs, policy, thresholds, scores)


@pytest.mark.parametrize("family", CTC_FAMILIES)
def test_a_recording_leaves_by_the_mean_of_its_frames(family):
    model = exit_model(family, EarlyExitForCTC, vocab_size=5)
    inputs = inputs_for(family)
    scores = scores_of(model, inputs, "entropy")
    layers = check_rows_alone(model, inputs, "entropy", between(scores, 0.5), scores)
    assert len(set(layers.tolist())) > 1


@pytest.mark.parametrize("family", sorted(TEXT))
def test_padding_changes_nothing_where_the_masks_are_exact(family):
    """DeBERTa's too, and every other text encoder's: a row without its padding leaves where it does with it."""
    model, inputs = exit_model(family), inputs_for(family)
    scores = scores_of(model, inputs, "entropy")
    together = stop(model, inputs, "entropy", between(scores, 0.5))
    for index, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        alone = stop(model, {"input_ids": inputs["input_ids"][index : index + 1, :length]})
        assert alone.exit_layer.item() == together.exit_layer[index].item()
        torch.testing.assert_close(alone.logits[0], together.logits[index], rtol=1e-5, atol=1e-5)


def test_padding_of_recordings_changes_nothing_where_the_masks_are_exact():
    model = exit_model("hubert", encoder={"feat_extract_norm": "layer"})
    inputs = inputs_for("hubert")
    scores = scores_of(model, inputs, "entropy")
    together = stop(model, inputs, "entropy", between(scores, 0.5))
    for index, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        alone = stop(model, {"input_values": inputs["input_values"][index : index + 1, :length]})
        assert alone.exit_layer.item() == together.exit_layer[index].item()
        torch.testing.assert_close(alone.logits[0], together.logits[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "albert", "vit", "wavlm", "swin"])
def test_layers_run_for_the_rows_that_are_left_and_no_others(family):
    model, inputs = exit_model(family), inputs_for(family)
    scores = scores_of(model, inputs, "entropy")
    stop(model, inputs, "entropy", between(scores, 0.5))  # learns which arguments go with the rows
    with torch.no_grad():
        output, given = rows_given_to_layers(model, inputs)
    last = max(output.exit_layer)
    assert given == [int((output.exit_layer >= layer).sum()) for layer in range(1, last + 1)]
    assert given[0] == ROWS
    assert given[-1] < ROWS


def test_no_layer_runs_after_the_last_row_has_left():
    model, inputs = exit_model("bert", exit_layers=[2]), inputs_for("bert")
    model.config.exit_policy, model.config.exit_threshold = "max_probability", 0.0
    with torch.no_grad():
        output, given = rows_given_to_layers(model, inputs)
    assert given == [ROWS, ROWS]
    assert output.exit_layer.tolist() == [2] * ROWS
    assert not any(layer._forward_pre_hooks for layer in layer_stack(model.base_model))


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for an accelerator, which [`NoWaiting`] refuses."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        self.number += name in NoWaiting.WAITING
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("thresholds", [[0.5, 1.0, 0.5], [1.0, 1.0, 0.99], [0.99, 0.99, 0.99]])
def test_the_host_waits_once_at_each_exit_that_is_not_idle(thresholds):
    model, inputs = exit_model("vit"), inputs_for("vit")
    scores = scores_of(model, inputs, "entropy")
    stop(model, inputs, "entropy", between(scores, 0.5))
    with Waits() as waits:
        layers = stop(model, inputs, "entropy", thresholds).exit_layer
    come_to = sum(limit < 1 and bool((layers >= layer).any()) for layer, limit in enumerate(thresholds, start=1))
    assert waits.number == come_to


@pytest.mark.parametrize(("policy", "patience"), [("margin", 1), ("patience", 3)])
def test_exits_at_which_nobody_can_leave_cost_nothing(policy, patience):
    model, inputs = exit_model("vit", exit_patience=patience), inputs_for("vit")
    for head in model.exits[:-1]:
        head.register_forward_pre_hook(lambda head, args: pytest.fail("an idle exit has run"))
    with NoWaiting():
        output = stop(model, inputs, policy, 1.0)
    assert output.exit_layer.tolist() == [4] * ROWS


@pytest.mark.parametrize("rows", [2, 4])
def test_what_is_as_long_as_the_batch_by_chance_is_left_whole(rows):
    """The pair of cosines and sines of a Conformer is 2 long whatever the batch; two rows are a batch of 2."""
    model = exit_model("wav2vec2-conformer", encoder={"position_embeddings_type": "rotary"})
    inputs = inputs_for("wav2vec2-conformer", rows)
    sizes = argument_sizes(model.base_model, inputs)
    assert sizes[1, "[1]['relative_position_embeddings']"] == (0, 2)
    assert sizes[1, "[0][0]"] == (1, 0)
    scores = scores_of(model, inputs, "entropy")
    check_rows_alone(model, inputs, "entropy", between(scores, 0.5), scores)


def test_heads_that_are_folded_into_the_batch_leave_with_their_row():
    """WavLM's position bias has a row for each head of each recording; half of the rows have as many as all rows."""
    model, inputs = exit_model("wavlm"), inputs_for("wavlm")
    sizes = argument_sizes(model.base_model, inputs)
    assert sizes[1, "[1]['position_bias']"] == (2, 0)
    assert sizes[1, "[1]['attention_mask']"] == (1, 0)


def test_a_mask_that_comes_after_batches_without_one_shrinks_too():
    model, inputs = exit_model("bert"), inputs_for("bert")
    scores = scores_of(model, inputs, "entropy")
    stop(model, {"input_ids": inputs["input_ids"]}, "entropy", between(scores, 0.5))
    check_rows_alone(model, inputs, "entropy", between(scores, 0.5), scores)


def test_the_convolution_of_deberta_v2_is_in_what_its_first_exit_reads():
    model = exit_model("deberta-v2", encoder={"conv_kernel_size": 3, "conv_act": "gelu"})
    inputs = inputs_for("deberta-v2")
    scores = scores_of(model, inputs, "entropy")
    check_rows_alone(model, inputs, "entropy", between(scores, 0.5), scores)
    with torch.no_grad():
        hidden = model.base_model(**inputs, output_hidden_states=True).hidden_states[1]
        head = model.exits[0]
        _, expected = head(hidden, inputs["attention_mask"])
        model.config.exit_policy = "never"
        torch.testing.assert_close(model(**inputs).exit_logits[0], expected)


def test_an_encoder_that_gives_its_layers_no_batch_is_refused():
    model, inputs = exit_model("bert"), inputs_for("bert")
    first = layer_stack(model.base_model)[0]
    first.register_forward_hook(lambda layer, args, output: output.flatten(0, 1))
    with pytest.raises(InputError, match="given 42 rows for 6 examples"):
        stop(model, inputs, "entropy", 0.5)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_states_of_all_layers_are_not_to_be_had_of_rows_that_leave(name):
    model, inputs = exit_model("bert", exit_policy="entropy"), inputs_for("bert")
    with pytest.raises(InputError, match=name):
        model(**inputs, **{name: True})


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model", "layers"])
def test_compiled(what):
    torch.compiler.reset()
    model, inputs = exit_model("bert", encoder={"num_hidden_layers": 3}), inputs_for("bert")
    scores = scores_of(model, inputs, "entropy")
    full, expected = stop(model, inputs, "never"), stop(model, inputs, "entropy", between(scores, 0.5))
    assert len(set(expected.exit_layer.tolist())) > 1
    run = model
    if what == "model":
        run = torch.compile(model, backend="aot_eager", dynamic=True)
    else:
        for layer in layer_stack(model.base_model):
            layer.compile(backend="aot_eager", dynamic=True)
    with torch.no_grad():
        output = run(**inputs)
        model.config.exit_policy = "never"
        at_full_depth = run(**inputs)
    torch.testing.assert_close(output.exit_layer, expected.exit_layer)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(at_full_depth.exit_logits, full.exit_logits)


@pytest.mark.parametrize("policy", ["never", "entropy"])
def test_an_encoder_that_calls_its_layers_past_their_hooks_is_refused(policy):
    encoder = AutoConfig.for_model("squeezebert", **BERT | {"embedding_size": 16})
    config = EarlyExitConfig(encoder_config=encoder, exit_policy=policy, exit_threshold=0.5)
    model = EarlyExitForSequenceClassification(config).eval()
    with torch.no_grad(), pytest.raises(InputError, match="layers of a squeezebert encoder are not called as modules"):
        model(**inputs_for("bert"))
