import math

import pytest
import torch
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.rotation import RotationConfig, RotationForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.test_simclr import TINY_ENCODERS


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    return RotationForPreTraining(RotationConfig(encoder_config=TINY_ENCODERS[encoder], **fields))


def images(num_images=3):
    return torch.randn(num_images, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def turned(image, degrees):
    """One image (C, S, S), its pixels moved one by one: the point (row, column) anticlockwise about the middle."""
    side, result = image.shape[-1], torch.empty_like(image)
    for row in range(side):
        for column in range(side):
            new = {
                0: (row, column),
                90: (side - 1 - column, row),
                180: (side - 1 - row, side - 1 - column),
                270: (column, side - 1 - row),
            }[degrees]
            result[:, new[0], new[1]] = image[:, row, column]
    return result


@pytest.mark.parametrize("rotations", [[0, 90, 180, 270], [0, 180], [90, 270]])
def test_loss_is_equation_3(rotations):
    model = build(rotations=rotations).eval()
    total = 0.0
    for image in images():
        for label, degrees in enumerate(rotations):
            hidden = model.encoder(pixel_values=turned(image, degrees)[None]).last_hidden_state.mean(1)
            scores = model.classifier(hidden)[0].tolist()
            probability = math.exp(scores[label]) / sum(math.exp(score) for score in scores)
            total -= math.log(probability) / (len(rotations) * len(images()))
    assert model(images()).loss.item() == pytest.approx(total, rel=1e-4)


def test_labels_add_up_as_angles_do():
    """An image that is turned by 90 degrees first has the same four copies, each one class further."""
    model = build().eval()
    upright = model(images()).logits.view(3, 4, 4)
    turned_before = model(images().rot90(1, dims=(2, 3))).logits.view(3, 4, 4)
    torch.testing.assert_close(turned_before, upright.roll(-1, dims=1))


def test_a_flip_after_the_rotation_would_change_the_class():
    for image in images():
        flipped_last = turned(image, 90).flip(-1)
        assert torch.equal(flipped_last, turned(image.flip(-1), 270))
        assert not torch.equal(flipped_last, turned(image.flip(-1), 90))


def test_output():
    output = build()(images())
    assert output.logits.shape == (12, 4)
    assert output.targets.tolist() == [0, 1, 2, 3] * 3
    assert output.features.shape == (12, 16)
    assert not output.logits.requires_grad
    assert output.num_predictions["rotation"] == 3
    mean = torch.nn.functional.cross_entropy(output.logits, output.targets)
    torch.testing.assert_close(output.loss.detach(), mean)


def test_micro_batches_of_other_sizes_add_up():
    model = build().eval()
    counts = {"rotation": torch.tensor(3)}
    parts = [model(part, num_items_in_batch=counts).loss for part in images().split([2, 1])]
    torch.testing.assert_close(sum(parts), model(images()).loss)


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = build(encoder)
    model(images()).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(plain(images()).last_hidden_state, model.encoder(images()).last_hidden_state)


def test_forward_never_waits_for_an_accelerator():
    model = build()
    with NoWaiting():
        model(images()).loss.backward()


def test_defaults_are_the_papers():
    config = RotationConfig()
    assert config.encoder_config.model_type == "resnet"
    assert config.rotations == [0, 90, 180, 270]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotations": [0, 45, 90]}, r"rotations is \[0, 45, 90\].*without interpolating"),
        ({"rotations": [0, 360]}, "give different angles of 0, 90, 180 and 270"),
        ({"rotations": [0, 90, 90]}, "give different angles"),
        ({"rotations": [0]}, "at least 2"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        RotationConfig(**fields)


@pytest.mark.parametrize("shape", [(2, 2, 3, 16, 16), (2, 3, 16, 24)])
def test_other_shapes(shape):
    with pytest.raises(InputError, match="one square image an item"):
        build()(torch.randn(shape))
