"""Every loss against loops written from its paper, on states with padding."""

from math import exp, log, sqrt

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, set_seed

from hf_ssl.modeling.distillation.config import DistillationConfig
from hf_ssl.modeling.distillation.losses import LOSSES
from hf_ssl.modeling.distillation.positions import Positions
from hf_ssl.modeling.distillation.recorded_attention import Attention
from hf_ssl.modeling.distillation.states import States

LENGTHS = (5, 3)
B, T, V, HEADS = 2, 5, 11, 2
OURS, THEIRS = {"hidden_size": 8, "num_hidden_layers": 2}, {"hidden_size": 12, "num_hidden_layers": 4}
LOWEST = torch.finfo(torch.float32).min


def config(loss: str, **fields) -> DistillationConfig:
    common = {"num_attention_heads": HEADS, "intermediate_size": 16, "vocab_size": V}
    student, teacher = BertConfig(**common, **OURS), BertConfig(**common, **THEIRS)
    if loss == "cosine":
        student = BertConfig(**common, **OURS | {"hidden_size": 12})
    fields = {"mlm_probability": 0.3, "mask_token_id": 3, **fields}
    return DistillationConfig(encoder_config=student, teacher_config=teacher, losses={loss: 1.0}, **fields)


def states(seed: int, hidden_size: int, num_layers: int) -> States:
    set_seed(seed)
    keep = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    bias = torch.zeros(B, 1, 1, T).masked_fill(~keep[:, None, None], LOWEST)
    hidden = tuple(torch.randn(B, T, hidden_size) for _ in range(num_layers + 1))
    size = hidden_size // HEADS
    attention = [
        Attention(*(torch.randn(B, HEADS, T, size) for _ in range(3)), scaling=1 / sqrt(size), bias=bias)
        for _ in range(num_layers)
    ]
    return States(hidden[-1], hidden, attention, torch.randn(sum(LENGTHS), V))


def batch() -> tuple[Positions, Tensor]:
    mask = (torch.arange(T) < torch.tensor(LENGTHS)[:, None]).long()
    labels = torch.full((B, T), -100)
    labels[0, 1], labels[0, 4], labels[1, 2] = 7, 2, 9
    return Positions({"input_ids": torch.zeros(B, T, dtype=torch.long), "attention_mask": mask}, BertConfig()), labels


def measured(loss: str, **fields) -> tuple[Tensor, States, States, torch.nn.Module]:
    """The loss divided by its count, what it was computed of, and its module."""
    settings = config(loss, **fields)
    ours = states(1, settings.encoder_config.hidden_size, 2)
    theirs = states(2, 12, 4)
    positions, labels = batch()
    set_seed(3)
    term = LOSSES[loss](settings)
    return term(ours, theirs, positions, labels) / term.count(positions, labels), ours, theirs, term


def softmax(scores: list[float]) -> list[float]:
    total = sum(exp(score) for score in scores)
    return [exp(score) / total for score in scores]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True))


def dot(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def cos(a: Tensor, b: Tensor) -> float:
    return dot(a, b) / sqrt(dot(a, a) * dot(b, b))


def real_positions():
    return [(row, i) for row, length in enumerate(LENGTHS) for i in range(length)]


def test_soft_targets() -> None:
    loss, ours, theirs, _ = measured("logits", temperature=3.0)
    expected = 0.0
    for n in range(sum(LENGTHS)):
        p = softmax([float(z) / 3 for z in theirs.logits[n]])
        q = softmax([float(z) / 3 for z in ours.logits[n]])
        expected += 9 * kl(p, q)
    assert loss.item() == pytest.approx(expected / sum(LENGTHS), rel=1e-5)


def test_masked_tokens() -> None:
    loss, ours, _, _ = measured("mlm")
    expected = 0.0
    for n, token in ((1, 7), (4, 2), (5 + 2, 9)):  # rows of the logits are the real positions, one after the other
        expected -= log(softmax([float(z) for z in ours.logits[n]])[token])
    assert loss.item() == pytest.approx(expected / 3, rel=1e-5)


def test_cosine() -> None:
    loss, ours, theirs, _ = measured("cosine")
    expected = [1 - cos(ours.last[row, i], theirs.last[row, i]) for row, i in real_positions()]
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_layer_prediction() -> None:
    loss, ours, theirs, term = measured("layer_prediction", predicted_layers=[1, 4], cosine_weight=0.5)
    expected = 0.0
    for layer, head in zip((1, 4), term.heads, strict=True):
        predicted = head(ours.last).detach()
        for row, i in real_positions():
            target, guess = theirs.hidden[layer][row, i], predicted[row, i]
            distance = sum(abs(float(a) - float(b)) for a, b in zip(target, guess, strict=True)) / 12
            expected += distance - 0.5 * log(1 / (1 + exp(-cos(target, guess))))
    assert loss.item() == pytest.approx(expected / 2 / len(real_positions()), rel=1e-5)


def distributions(queries: Tensor, keys: Tensor, row: int, head: int) -> list[list[float]]:
    """Rows of softmax(QKᵀ/√d) of one head over a row's real positions."""
    length, size = LENGTHS[row], queries.shape[-1]
    return [
        softmax([dot(queries[row, head, i], keys[row, head, j]) / sqrt(size) for j in range(length)])
        for i in range(length)
    ]


def mean_divergence(pairs: list[tuple[Tensor, Tensor, Tensor, Tensor]], num_heads: int) -> float:
    """KL of the teacher's from the student's distributions, each given as its queries and keys."""
    total = 0.0
    for our_queries, our_keys, their_queries, their_keys in pairs:
        for row in range(B):
            for head in range(num_heads):
                q = distributions(our_queries, our_keys, row, head)
                p = distributions(their_queries, their_keys, row, head)
                total += sum(kl(a, b) for a, b in zip(p, q, strict=True)) / num_heads
    return total / sum(LENGTHS) / len(pairs)


def test_attention_distribution() -> None:
    loss, ours, theirs, _ = measured("attention", attention_layer=3)
    left, right = ours.attention[-1], theirs.attention[2]
    assert loss.item() == pytest.approx(mean_divergence([(left.query, left.key, right.query, right.key)], 2), rel=1e-4)


def test_value_relation() -> None:
    loss, ours, theirs, _ = measured("value_relation")
    left, right = ours.attention[-1].value, theirs.attention[-1].value
    assert loss.item() == pytest.approx(mean_divergence([(left, left, right, right)], 2), rel=1e-4)


def test_relations_of_heads_split_anew() -> None:
    loss, ours, theirs, _ = measured("relations", num_relation_heads=4)

    def split(vectors: Tensor) -> Tensor:
        size = vectors.shape[1] * vectors.shape[3] // 4
        anew = torch.empty(B, 4, T, size)
        for row in range(B):
            for i in range(T):
                side_by_side = torch.cat([vectors[row, head, i] for head in range(vectors.shape[1])])
                for relation_head in range(4):
                    anew[row, relation_head, i] = side_by_side[relation_head * size : (relation_head + 1) * size]
        return anew

    pairs = []
    for name in ("query", "key", "value"):
        left, right = split(getattr(ours.attention[-1], name)), split(getattr(theirs.attention[-1], name))
        pairs.append((left, left, right, right))
    assert loss.item() == pytest.approx(mean_divergence(pairs, 4), rel=1e-4)


@pytest.mark.parametrize(("given", "used"), [(None, (2, 4)), ([1, 3], (1, 3))])
def test_hidden_states_of_mapped_layers(given, used) -> None:
    loss, ours, theirs, term = measured("hidden_states", layer_map=given)
    expected = 0.0
    for m, g in enumerate(used, start=1):
        for row, i in real_positions():
            for d in range(12):
                projected = dot(term.projection.weight[d].detach(), ours.hidden[m][row, i])
                expected += (projected - float(theirs.hidden[g][row, i, d])) ** 2 / 12
    assert loss.item() == pytest.approx(expected / len(real_positions()), rel=1e-5)


def test_embeddings() -> None:
    loss, ours, theirs, term = measured("embeddings")
    expected = 0.0
    for row, i in real_positions():
        for d in range(12):
            projected = dot(term.projection.weight[d].detach(), ours.hidden[0][row, i])
            expected += (projected - float(theirs.hidden[0][row, i, d])) ** 2 / 12
    assert loss.item() == pytest.approx(expected / len(real_positions()), rel=1e-5)


def test_attention_scores_of_mapped_layers() -> None:
    loss, ours, theirs, _ = measured("attention_scores")
    expected, pairs = 0.0, sum(length**2 for length in LENGTHS)
    for m, g in ((1, 2), (2, 4)):
        left, right = ours.attention[m - 1], theirs.attention[g - 1]
        for row, length in enumerate(LENGTHS):
            for head in range(HEADS):
                for i in range(length):
                    for j in range(length):
                        a = dot(left.query[row, head, i], left.key[row, head, j]) / sqrt(4)
                        b = dot(right.query[row, head, i], right.key[row, head, j]) / sqrt(6)
                        expected += (a - b) ** 2 / HEADS
    assert loss.item() == pytest.approx(expected / pairs, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_stands_at_padding_changes_nothing(loss: str) -> None:
    settings = config(loss)
    ours, theirs = states(1, settings.encoder_config.hidden_size, 2), states(2, 12, 4)
    positions, labels = batch()
    term = LOSSES[loss](settings)
    before = term(ours, theirs, positions, labels)
    for side in (ours, theirs):
        for state in side.hidden:
            state[1, 3:] = 100.0
        for attention in side.attention:
            for vectors in (attention.query, attention.key, attention.value):
                vectors[1, :, 3:] = -50.0
    assert torch.equal(term(ours, theirs, positions, labels), before)


@pytest.mark.parametrize("loss", ["hidden_states", "attention_scores"])
def test_of_images_the_mean_is_over_patches(loss: str) -> None:
    """Without padding, w = 1/T with the number of images as divisor is the mean over all positions."""
    settings = config(loss)
    ours, theirs = states(1, 8, 2), states(2, 12, 4)
    for side in (ours, theirs):
        for attention in side.attention:
            attention.bias.zero_()
    term = LOSSES[loss](settings)
    ids = torch.zeros(B, T, dtype=torch.long)
    as_texts, as_images = (
        Positions(inputs, BertConfig()) for inputs in ({"input_ids": ids}, {"pixel_values": torch.zeros(B, 3, 8, 8)})
    )
    means = [term(ours, theirs, positions, None) / term.count(positions, None) for positions in (as_texts, as_images)]
    assert means[0].item() == pytest.approx(means[1].item(), rel=1e-5)
