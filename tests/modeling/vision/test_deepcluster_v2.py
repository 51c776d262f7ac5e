import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.deepcluster_v2 import DeepClusterV2Config, DeepClusterV2ForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.clusters import NUM_ITEMS, OneBatch, generator, items
from tests.modeling.vision.test_simclr import TINY_ENCODERS

SIZES = {"projection_hidden_size": 16, "projection_size": 8, "num_prototypes": [4, 3, 5], "num_items": NUM_ITEMS}


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    return DeepClusterV2ForPreTraining(
        DeepClusterV2Config(encoder_config=TINY_ENCODERS[encoder], **SIZES | fields)
    ).train()


def begun(encoder="vit", **fields):
    """A model whose first epoch has begun, and all its training images."""
    model, pixel_values = build(encoder, **fields), items(2, 3, 16, 16)
    model.start_epoch(0, OneBatch(pixel_values), generator())
    return model, pixel_values


def spherical_kmeans(vectors, chosen, num_iterations):
    """`cluster_memory` of the paper's appendix in loops: the largest cosine, the normalised mean, 10 times."""
    centroids = [vectors[i] for i in chosen]
    nearest = lambda x: max(range(len(centroids)), key=lambda k: (x @ centroids[k]).item())  # noqa: E731
    for _ in range(num_iterations):
        clusters = [[] for _ in centroids]
        for x in vectors:
            clusters[nearest(x)].append(x)
        centroids = [F.normalize(sum(c), dim=0) if c else old for c, old in zip(clusters, centroids, strict=True)]
    return torch.stack(centroids), [nearest(x) for x in vectors]


def test_loss_is_the_cross_entropy_with_the_clusters_of_the_items():
    model, pixel_values = begun()
    model.eval()
    local, which = items(1, 3, 8, 8, seed=2)[:4], torch.tensor([7, 0, 3, 11])
    views = [*pixel_values[which].unbind(1), local[:, 0]]
    terms = []
    with torch.no_grad():
        for view in views:
            hidden = model.encoder(view, interpolate_pos_encoding=True).last_hidden_state.mean(1)
            for b, z in enumerate(F.normalize(model.projection_head(hidden), dim=1)):
                for m, centroids in enumerate(model.centroids.split(SIZES["num_prototypes"])):
                    scores = [(z @ c).item() / 0.1 for c in centroids]
                    total = math.log(sum(math.exp(score) for score in scores))
                    terms.append(total - scores[int(model.assignments[m, which[b]])])
    output = model(pixel_values[which], local, item_indices=which)
    assert output.loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    assert output.num_predictions["cluster_prediction"] == 4
    assert output.logits.shape == (12, 4)
    assert output.targets.tolist() == model.assignments[0, which].repeat_interleave(3).tolist()
    assert output.features.shape == (12, 16)


def test_the_first_epoch_fills_the_memory_and_clusters_it():
    model, pixel_values = build(), items(2, 3, 16, 16)
    over_items = OneBatch(pixel_values)
    with torch.no_grad():
        expected = model.project(model.embed(pixel_values).features)
    assert model.start_epoch(0, over_items, generator()) == []
    assert over_items.calls == [True]  # with the views of the training
    torch.testing.assert_close(model.memory.rows, expected)
    drawn = generator()
    for m, (num_clusters, centroids) in enumerate(zip([4, 3, 5], model.centroids.split([4, 3, 5]), strict=True)):
        chosen = torch.randperm(NUM_ITEMS, generator=drawn)[:num_clusters]
        by_hand, clusters = spherical_kmeans(model.memory.rows[:, m % 2], chosen, 10)
        torch.testing.assert_close(centroids, by_hand)
        assert model.assignments[m].tolist() == clusters


def test_later_epochs_cluster_what_the_epoch_before_has_embedded():
    model, pixel_values = begun()
    filled = model.memory.rows.clone()
    which = torch.tensor([5, 2])
    with torch.no_grad():
        model.encoder.embeddings.cls_token += 1
        model(pixel_values[which], item_indices=which)
        z = model.project(model.embed(pixel_values[which]).features)
    assert torch.equal(model.memory.rows, filled)
    model.after_optimizer_step(0.5)
    torch.testing.assert_close(model.memory.rows[which], z)
    others = [i for i in range(NUM_ITEMS) if i not in (2, 5)]
    assert torch.equal(model.memory.rows[others], filled[others])

    over_items = OneBatch(pixel_values)
    model.start_epoch(1, over_items, generator(1))
    assert over_items.calls == []
    torch.testing.assert_close(model.memory.rows[which], z)
    by_hand, clusters = spherical_kmeans(
        model.memory.rows[:, 0], torch.randperm(NUM_ITEMS, generator=generator(1))[:4], 10
    )
    torch.testing.assert_close(model.centroids[:4], by_hand)
    assert model.assignments[0].tolist() == clusters


def test_evaluation_leaves_the_memory_alone():
    model, pixel_values = begun()
    filled = model.memory.rows.clone()
    model.eval()(pixel_values, item_indices=torch.arange(NUM_ITEMS))
    model.after_optimizer_step(0.5)
    assert torch.equal(model.memory.rows, filled)


def test_images_without_a_cluster_are_told_the_nearest():
    model, pixel_values = begun()
    model.eval()
    with torch.no_grad():
        z = model.project(model.embed(pixel_values).features)
        nearest = (z[:, 0] @ model.centroids[:4].T).argmax(1)
    assert torch.equal(model(pixel_values).targets, nearest.repeat_interleave(2))
    model.assignments.zero_()
    model.assignments[0] = (nearest + 1) % 4
    assert torch.equal(model(pixel_values).targets, nearest.repeat_interleave(2))
    model.assignments[:, 3] = -1
    targets = model(pixel_values, item_indices=torch.arange(NUM_ITEMS)).targets[::2]
    assert [bool(same) for same in targets == nearest] == [i == 3 for i in range(NUM_ITEMS)]


def test_centroids_and_labels_take_no_gradient_and_the_encoder_does():
    model, pixel_values = begun()
    model(pixel_values, item_indices=torch.arange(NUM_ITEMS)).loss.backward()
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"encoder", "projection_head"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_host_does_not_wait():
    model, pixel_values = begun()
    with NoWaiting():
        model(pixel_values, item_indices=torch.arange(NUM_ITEMS)).loss.backward()
        model.after_optimizer_step(0.5)


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model, pixel_values = begun(encoder)
    model(pixel_values, item_indices=torch.arange(NUM_ITEMS)).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    images = pixel_values[:, 0]
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_defaults_are_the_papers():
    config = DeepClusterV2Config()
    assert config.encoder_config.model_type == "resnet"
    assert list(config.num_prototypes) == [3000, 3000, 3000]
    assert (config.projection_hidden_size, config.projection_size) == (2048, 128)
    assert (config.temperature, config.kmeans_iterations) == (0.1, 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"num_prototypes": []}, r"num_prototypes is \[\]"),
        ({"num_prototypes": [4, 1]}, r"num_prototypes is \[4, 1\]"),
        ({"kmeans_iterations": 0}, "kmeans_iterations is 0"),
        ({"num_prototypes": [4, 20], "num_items": 12}, "there are 12 training images"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        DeepClusterV2Config(**fields)


def test_the_number_of_images_has_to_be_known():
    with pytest.raises(InputError, match="num_items of DeepCluster-v2 is not given"):
        build(num_items=None)


def test_one_view_instead_of_two():
    with pytest.raises(InputError, match=r"\(12, 3, 16, 16\)"):
        build()(items(3, 16, 16))
