import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.moco import MoCoConfig, MoCoForPreTraining
from tests.modeling.vision.contrastive_ranks import CASES, inputs, joint_batch, key_order, moco, two_steps
from tests.modeling.vision.test_simclr import TINY_ENCODERS
from tests.two_processes import run_two_processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What `contrastive_ranks.py` makes of each of two processes; for the tests of all its objectives."""
    folder = tmp_path_factory.mktemp("ranks")
    run_two_processes(Path(__file__).parent / "contrastive_ranks.py", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def unit(vectors):
    return vectors / vectors.square().sum(dim=-1, keepdim=True).sqrt()


def eq_1(q, k, queue, temperature):
    """Eq. 1 of arXiv:1911.05722, term by term."""
    total = 0.0
    for query, key in zip(q, k, strict=True):
        positive = torch.exp(query @ key / temperature)
        negatives = sum(torch.exp(query @ row / temperature) for row in queue)
        total = total - torch.log(positive / (positive + negatives))
    return total / len(q)


def algorithm_1(model, batches, learning_rate):
    """The paper's order: the key encoder moves before the keys are made, and the queue after the step."""
    f_q, f_k = copy.deepcopy(model.student), copy.deepcopy(model.student)
    queue, losses = list(model.queue.rows.clone()), []
    m, temperature = model.config.momentum, model.config.temperature

    def embed(network, images):
        return unit(network["projection_head"](network["encoder"](images).last_hidden_state.mean((2, 3))))

    for x_q, x_k in (batch.unbind(1) for batch in batches):
        q = embed(f_q, x_q)
        with torch.no_grad():
            for key_weight, query_weight in zip(f_k.parameters(), f_q.parameters(), strict=True):
                key_weight.copy_(m * key_weight + (1 - m) * query_weight)
            k = embed(f_k, x_k)
        loss = eq_1(q, k, queue, temperature)
        f_q.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight in f_q.parameters():
                weight -= learning_rate * weight.grad
        queue = [*queue, *k][-model.config.queue_size :]
        losses.append(loss.item())
    return losses


def test_three_steps_are_algorithm_1():
    model = moco("resnet")
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(5, 2, 3, 16, 16, generator=generator) for _ in range(4)]
    expected = algorithm_1(model, batches, 0.5)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.5), []
    for batch in batches:
        optimizer.zero_grad()
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
        model.after_optimizer_step(0.1)
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-4)
    assert model.queue.num_filled == 12


def test_a_symmetric_loss_is_the_mean_of_both_directions():
    symmetric, one_way = moco("vit", symmetric=True), moco("vit")
    both = joint_batch()
    losses = [one_way(both).loss, one_way(both.flip(1)).loss]
    torch.testing.assert_close(symmetric(both).loss, sum(losses) / 2)
    assert len(symmetric.queue.waiting[0]) == 2 * len(both)


def test_an_untrained_queue_costs_the_logarithm_of_its_size():
    """Of unit vectors of many dimensions all cosines are near 0."""
    torch.manual_seed(0)
    config = MoCoConfig(encoder_config=TINY_ENCODERS["vit"], projection_size=512, queue_size=300, temperature=1.0)
    output = MoCoForPreTraining(config)(joint_batch())
    assert output.logits[:, 1:].exp().sum(dim=1).log().mean().item() == pytest.approx(math.log(300), abs=0.01)


def test_output():
    output = moco("resnet", symmetric=True)(joint_batch())
    assert output.logits.shape == (16, 13)
    assert output.targets.tolist() == [0] * 16
    assert output.features.shape == (16, 16)
    assert not output.logits.requires_grad
    assert output.num_predictions == {}
    assert 0 < output.diagnostics["key_spread"] < 1.5
    torch.testing.assert_close(F.cross_entropy(output.logits, output.targets), output.loss.detach())


def test_only_training_fills_the_queue():
    model = moco("vit")
    model.eval()(joint_batch())
    model.after_optimizer_step(0.5)
    assert model.queue.num_filled == 0
    model.train()(joint_batch())
    assert model.queue.num_filled == 0  # not before the step is over
    model.after_optimizer_step(0.5)
    assert model.queue.num_filled == 8
    torch.testing.assert_close(model.queue.rows.norm(dim=1), torch.ones(12))


def test_the_key_encoder_keeps_statistics_of_its_own():
    model = moco("resnet")
    norm = model.teacher["encoder"].embedder.embedder.normalization
    start = norm.running_mean.clone()
    model.eval()(joint_batch())
    assert torch.equal(norm.running_mean, start)
    model.train()(joint_batch())
    assert not torch.equal(norm.running_mean, start)
    own = norm.running_mean.clone()
    model.after_optimizer_step(0.5)
    assert torch.equal(norm.running_mean, own)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_the_teacher_starts_as_the_student(tmp_path):
    model = moco("vit", num_projection_layers=2)
    for ours, theirs in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        model.teacher["projection_head"][0].weight.add_(1)
    model.save_pretrained(tmp_path)
    loaded = MoCoForPreTraining.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert not any(p.requires_grad for p in loaded.teacher.parameters())


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    sizes = {"projection_size": 8, "queue_size": 12}
    model = MoCoForPreTraining(MoCoConfig(encoder_config=TINY_ENCODERS[encoder], **sizes))
    model(joint_batch()).loss.backward()
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    images = joint_batch()[:, 0]
    plain = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_defaults_are_the_papers():
    config = MoCoConfig()
    assert config.encoder_config.depths == (3, 4, 6, 3)
    assert config.projection_sizes == [2048, 128]
    assert (config.temperature, config.momentum, config.queue_size) == (0.07, 0.999, 65536)
    assert MoCoConfig(num_projection_layers=2).projection_sizes == [2048, 2048, 128]


def test_the_order_of_a_key_depends_on_its_item_alone():
    config = moco("vit").config
    generators = [torch.Generator().manual_seed(index) for index in range(3)]
    drawn = MoCoForPreTraining.draw_inputs(config, {"pixel_values": joint_batch()[:3]}, generators)["key_order"]
    alone = MoCoForPreTraining.draw_inputs(config, {}, [torch.Generator().manual_seed(2)])["key_order"]
    assert drawn.shape == (3,)
    assert drawn[2] == alone[0]
    assert "key_order" not in MoCoForPreTraining.draw_inputs(moco("vit", key_batch_norm="joint").config, {}, [])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_on_the_joint_batch(case, ranks):
    model = CASES[case]()
    joint = two_steps(model, model, inputs(model))
    first, second = (rank[case] for rank in ranks)
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, joint["losses"], rtol=1e-5, atol=1e-5)
    gradient = torch.cat([g.flatten() for g in joint["gradient"].values()])
    for rank in (first, second):
        error = torch.cat([rank["gradient"][name].flatten() for name in joint["gradient"]]) - gradient
        assert error.norm() <= 1e-4 * gradient.norm()
        for name, value in joint["state"].items():
            torch.testing.assert_close(rank["state"][name], value, rtol=1e-3, atol=1e-4)


def test_keys_are_normalised_beside_other_images_than_their_queries(ranks):
    """Shuffling BN, section 3.3: the same permutation on both processes, undone after the key encoder."""
    model = moco("resnet")
    queries, keys = joint_batch().unbind(1)
    permutation = key_order().argsort()

    def encode(network, images):
        hidden = torch.cat([network["encoder"](half).last_hidden_state for half in images.chunk(2)])  # two processes
        return hidden.mean((2, 3))

    hidden = torch.empty(8, 16)
    hidden[permutation] = encode(model.teacher, keys[permutation]).detach()
    q, k = unit(model.projection_head(encode(model.student, queries))), unit(model.teacher["projection_head"](hidden))
    expected = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ model.queue.rows.T], dim=1) / 0.2
    got = torch.cat([rank["logits of shuffled keys"] for rank in ranks])
    torch.testing.assert_close(got, expected.detach(), rtol=1e-4, atol=1e-4)
    beside_their_queries = (q * unit(model.teacher["projection_head"](encode(model.teacher, keys)))).sum(dim=1) / 0.2
    assert not torch.allclose(got[:, 0], beside_their_queries, atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"key_batch_norm": "shufle"}, "did you mean 'shuffle'"),
        ({"num_projection_layers": 0}, "num_projection_layers is 0"),
        ({"projection_hidden_size": 8}, "no hidden layer"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        MoCoConfig(**fields)


def test_one_view_instead_of_two():
    with pytest.raises(InputError, match=r"\(8, 3, 16, 16\)"):
        moco("vit")(joint_batch()[:, 0])
