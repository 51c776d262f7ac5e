import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hf_ssl.data.sampling import EpochBatchSampler
from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.deepcluster import DeepClusterConfig, DeepClusterForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.clusters import NUM_ITEMS, OneBatch, generator, items
from tests.modeling.vision.test_simclr import TINY_ENCODERS


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    sizes = {"num_clusters": 4, "num_components": 5, "num_items": NUM_ITEMS}
    return DeepClusterForPreTraining(
        DeepClusterConfig(encoder_config=TINY_ENCODERS[encoder], **sizes | fields)
    ).train()


def begun(encoder="vit", **fields):
    """A model whose first epoch has begun, and all its training images."""
    model, pixel_values = build(encoder, **fields), items(3, 16, 16)
    model.start_epoch(0, OneBatch(pixel_values), generator())
    return model, pixel_values


def eq_1(model, pixel_values, labels):
    """Eq. 1 of arXiv:1807.05520: the mean over images of the cross entropy of g_W(f(x))."""
    total = 0.0
    for x, y in zip(pixel_values, labels, strict=True):
        scores = model.classifier(model.encoder(x[None]).last_hidden_state.mean(1))[0].tolist()
        total += math.log(sum(math.exp(score) for score in scores)) - scores[y]
    return total / len(labels)


def preprocessed(features, num_components):
    """PCA, whitening and l2, by the singular values of the centred features."""
    centred = (features - features.mean(0)).double()
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    white = centred @ directions[:num_components].T / values[:num_components] * len(features) ** 0.5
    return F.normalize(white, dim=1).float()


def test_loss_is_equation_1():
    model, pixel_values = begun()
    which = torch.tensor([7, 0, 3, 11])
    model.eval()
    with torch.no_grad():
        model.classifier.weight.normal_(std=1.0)
        expected = eq_1(model, pixel_values[which], model.assignments[which].tolist())
    output = model(pixel_values[which], item_indices=which)
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(output.targets, model.assignments[which])
    assert output.num_predictions["cluster_prediction"] == 4
    assert output.logits.shape == (4, 4)
    assert output.features.shape == (4, 16)


def test_an_epoch_clusters_the_whitened_features_of_plain_images():
    model, pixel_values = build(), items(3, 16, 16)
    over_items = OneBatch(pixel_values)
    model.start_epoch(0, over_items, generator())
    assert over_items.calls == [False]  # as the encoder's preprocessor gives them
    assert model.training
    with torch.no_grad():
        features = model.eval().encoder(pixel_values).last_hidden_state.mean(1)
    white = preprocessed(features, 5)
    # a principal component has no sign, which changes no distance
    torch.testing.assert_close(
        model.whitened(features) @ model.whitened(features).T, white @ white.T, atol=1e-3, rtol=0
    )
    distances = torch.cdist(model.whitened(features), model.centroids)
    assert torch.equal(model.assignments, distances.argmin(1))
    for k in range(4):
        mean = model.whitened(features)[model.assignments == k].mean(0)
        assert torch.isfinite(mean).all()  # no cluster is empty
        torch.testing.assert_close(model.centroids[k], mean, atol=1e-5, rtol=0)


def test_each_epoch_begins_anew():
    model, pixel_values = begun()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = model.start_epoch(1, OneBatch(pixel_values), generator(1))
    assert [id(p) for p in fresh] == [id(model.classifier.weight), id(model.classifier.bias)]
    assert not torch.equal(model.classifier.weight, first["classifier.weight"])
    assert not torch.equal(model.centroids, first["centroids"])
    assert torch.equal(model.encoder.embeddings.cls_token, first["encoder.embeddings.cls_token"])
    assert not model.classifier.bias.any()
    model.start_epoch(0, OneBatch(pixel_values), generator())
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_the_classifier_begins_with_the_authors_spread():
    model = begun(num_clusters=12)[0]
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_all_clusters_come_equally_often():
    model = build(num_clusters=5)
    model.assignments[:] = torch.tensor([0] * 6 + [1] * 3 + [3] * 2 + [4])  # cluster 2 is empty
    repeats = model.item_repeats()
    assert repeats.tolist() == pytest.approx([0.5] * 6 + [1.0] * 3 + [1.5] * 2 + [3.0])
    sampler = EpochBatchSampler(NUM_ITEMS, 4, seed=0)
    sampler.set_repeats(repeats.numpy())
    drawn = np.zeros(5)
    for epoch in range(200):
        sampler.set_epoch(epoch)
        keys = [key for batch in sampler for key in batch]
        assert len(set(keys)) == len(keys) == NUM_ITEMS
        for key in keys:
            drawn[model.assignments[key.index]] += 1
    np.testing.assert_allclose(drawn / drawn.sum(), [0.25, 0.25, 0, 0.25, 0.25], atol=0.02)


def test_images_without_a_cluster_are_told_the_nearest():
    model, pixel_values = begun()
    model.eval()
    found = model.assignments.clone()
    model.assignments[:] = (found + 1) % 4
    assert torch.equal(model(pixel_values).targets, found)
    model.assignments[3] = -1
    targets = model(pixel_values, item_indices=torch.arange(NUM_ITEMS)).targets
    assert [bool(same) for same in targets == found] == [i == 3 for i in range(NUM_ITEMS)]


def test_the_host_does_not_wait():
    model, pixel_values = begun()
    with NoWaiting():
        model(pixel_values, item_indices=torch.arange(NUM_ITEMS)).loss.backward()


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model, pixel_values = begun(encoder)
    model(pixel_values, item_indices=torch.arange(NUM_ITEMS)).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(plain(pixel_values).last_hidden_state, model.encoder(pixel_values).last_hidden_state)


def test_defaults_are_the_papers():
    config = DeepClusterConfig()
    assert config.encoder_config.model_type == "resnet"
    assert (config.num_clusters, config.num_components, config.kmeans_iterations) == (10_000, 256, 20)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"num_clusters": 1}, "num_clusters is 1"),
        ({"num_components": 0}, "num_components is 0"),
        ({"kmeans_iterations": 0}, "kmeans_iterations is 0"),
        ({"num_clusters": 20, "num_items": 12}, "there are 12 training images"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        DeepClusterConfig(**fields)


def test_the_number_of_images_has_to_be_known():
    with pytest.raises(InputError, match="num_items of DeepCluster is not given"):
        build(num_items=None)


def test_two_views_instead_of_one():
    with pytest.raises(InputError, match=r"\(12, 2, 3, 16, 16\)"):
        build()(items(2, 3, 16, 16))
