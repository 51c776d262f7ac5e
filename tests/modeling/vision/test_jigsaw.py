import math

import pytest
import torch
from transformers import AutoModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.permutation_set import permutation_set
from hf_ssl.modeling.vision.jigsaw import JigsawConfig, JigsawForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.test_simclr import TINY_ENCODERS

NUM_IMAGES = 4


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    sizes = {"num_permutations": 6, "patch_size": 16, "patch_jitter": 2, "tile_size": 8, "head_hidden_size": 12}
    sizes |= {"head_dropout": 0, "gray_probability": 0.5}
    return JigsawForPreTraining(JigsawConfig(encoder_config=TINY_ENCODERS[encoder], **{**sizes, **fields}))


def make_batch(config, num_images=NUM_IMAGES):
    pixel_values = torch.randn(num_images, 3, 54, 54, generator=torch.Generator().manual_seed(1))
    generators = [item_generator(0, 0, index) for index in range(num_images)]
    return JigsawForPreTraining.draw_inputs(config, {"pixel_values": pixel_values}, generators)


def naive_tile(batch, image, number):
    """One tile, each colour channel where its corner is, with mean 0 and variance 1."""
    pixels = batch["pixel_values"][image]
    if batch["gray"][image]:
        pixels = (0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]).expand(3, -1, -1)
    corners = batch["patch_corners"][image, number].tolist()
    tile = torch.stack([pixels[c, top : top + 16, left : left + 16] for c, (top, left) in enumerate(corners)])
    return (tile - tile.mean()) / tile.std(correction=0)


def test_loss_is_the_papers():
    model = build().eval()
    batch = make_batch(model.config)
    assert set(batch["gray"].tolist()) == {True, False}
    total = 0.0
    for image in range(NUM_IMAGES):
        label = int(batch["permutation"][image])
        shown = []
        for place in range(9):
            tile = naive_tile(batch, image, int(model.permutations[label, place]))
            hidden = model.encoder(pixel_values=tile[None]).last_hidden_state.mean(1)
            shown.append(torch.relu(model.fc6[0](hidden)))
        scores = model.fc8(torch.relu(model.fc7[0](torch.cat(shown, dim=1))))[0].tolist()
        total -= math.log(math.exp(scores[label]) / sum(math.exp(score) for score in scores)) / NUM_IMAGES
    assert model(**batch).loss.item() == pytest.approx(total, rel=1e-4)


def test_permutations_are_saved_and_known_by_their_seed(tmp_path):
    model = build()
    assert torch.equal(model.permutations, permutation_set(6, 9, 0))
    assert not torch.equal(model.permutations, build(permutation_seed=1).permutations)
    model.permutations.copy_(model.permutations.flip(0))  # a set of one's own
    model.save_pretrained(tmp_path)
    loaded = JigsawForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.permutations.dtype == torch.int64
    assert torch.equal(loaded.permutations, model.permutations)


def test_channels_of_grey_images_stay_together():
    batch = make_batch(JigsawConfig(patch_size=16, patch_jitter=2, gray_probability=0.3), num_images=64)
    corners, gray = batch["patch_corners"], batch["gray"]
    assert (corners[gray] == corners[gray][:, :, :1]).all()
    assert (corners[~gray] != corners[~gray][:, :, :1]).any()
    assert 0.1 < gray.float().mean() < 0.5


def test_all_permutations_are_drawn():
    batch = make_batch(JigsawConfig(num_permutations=5, patch_size=16, patch_jitter=2), num_images=64)
    assert batch["permutation"].unique().tolist() == [0, 1, 2, 3, 4]


def test_what_is_drawn_for_an_image_does_not_depend_on_the_others():
    config = build().config
    whole = make_batch(config)
    pixel_values = whole["pixel_values"][2:3]
    alone = JigsawForPreTraining.draw_inputs(config, {"pixel_values": pixel_values}, [item_generator(0, 0, 2)])
    assert alone.keys() == whole.keys() == {"pixel_values", "permutation", "gray", "patch_corners"}
    for name, value in alone.items():
        assert torch.equal(value, whole[name][2:3]), name


def test_output():
    model = build()
    batch = make_batch(model.config)
    output = model(**batch)
    assert output.logits.shape == (NUM_IMAGES, 6)
    assert torch.equal(output.targets, batch["permutation"])
    assert output.features.shape == (9 * NUM_IMAGES, 16)
    assert output.num_predictions["permutation"] == NUM_IMAGES
    assert not output.logits.requires_grad
    torch.testing.assert_close(torch.nn.functional.cross_entropy(output.logits, output.targets), output.loss.detach())


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = build(encoder)
    model(**make_batch(model.config)).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain, images = AutoModel.from_pretrained(tmp_path).eval(), torch.randn(2, 3, 16, 16)
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_forward_never_waits_for_an_accelerator():
    model = build()
    batch = make_batch(model.config)
    with NoWaiting():
        model(**batch).loss.backward()


def test_defaults_are_the_authors():
    config = JigsawConfig()
    assert config.encoder_config.model_type == "resnet"
    assert (config.num_permutations, config.patch_size, config.patch_jitter) == (1000, 64, 21)
    assert (config.tile_size, config.head_hidden_size) == (1024, 4096)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_permutations": 1}, "num_permutations is 1"),
        ({"num_permutations": 362_881}, "there are 362880 of 9 tiles"),
        ({"permutation_seed": -1}, "permutation_seed is -1"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"channel_jitter": -2}, "channel_jitter is -2"),
        ({"gray_probability": 2}, "gray_probability is 2"),
        ({"tile_size": 0}, "tile_size is 0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        JigsawConfig(**fields)


def test_an_image_that_is_too_small():
    with pytest.raises(InputError, match="raise data.image_size to 255"):
        JigsawForPreTraining.draw_inputs(
            JigsawConfig(), {"pixel_values": torch.zeros(1, 3, 224, 224)}, [item_generator(0, 0, 0)]
        )


def test_several_views():
    model = build()
    batch = make_batch(model.config)
    with pytest.raises(InputError, match="one square image an item"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:, None]})
