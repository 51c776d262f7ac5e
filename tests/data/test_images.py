import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, ResNetConfig, ViTImageProcessorPil

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.images import prepare_images
from hf_ssl.data.keyed import ItemKey, KeyedIterableDataset
from hf_ssl.errors import InputError
from tests.tiny_encoders import save_image_encoder


@pytest.fixture
def folder(tmp_path):
    """Pictures of every mode and some odd sizes, and two files that are none."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    pictures = {
        "rgb": colours,
        "gray": colours.convert("L"),
        "alpha": colours.convert("RGBA"),
        "palette": colours.convert("P"),
        "sixteen": Image.fromarray(random.integers(0, 65536, (9, 9)).astype(np.uint16)),
        "pixel": colours.resize((1, 1)),
        "strip": colours.resize((1, 200)),
    }
    data = tmp_path / "pictures"
    data.mkdir()
    for name, picture in pictures.items():
        picture.save(data / f"{name}.png")
    colours.convert("CMYK").save(data / "cmyk.jpg")
    return data


def arguments(path, **fields):
    options = {"image_size": 16, "augmentation": "simclr_small", "validation_split": None, **fields}
    return ImageDataArguments(path=str(path), **options)


def batch_of(prepared, keys):
    return prepared.collator([prepared.train[key] for key in keys])


def finished(prepared, keys):
    batch = batch_of(prepared, keys)
    return batch if prepared.batch_transform is None else prepared.batch_transform(batch)


def test_pictures_of_every_kind_become_views(folder):
    prepared = prepare_images(arguments(folder), seed=0, encoder=None)
    assert len(prepared.train) == 8
    assert prepared.validation is None
    raw = batch_of(prepared, range(8))
    assert raw["pixel_values"].shape == (8, 2, 3, 16, 16)
    assert raw["pixel_values"].dtype == torch.uint8
    batch = finished(prepared, range(8))
    assert batch.keys() == {"pixel_values"}
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_values"].amin() >= -1
    assert batch["pixel_values"].amax() <= 1


def test_worker_and_device_make_the_same_views(folder):
    device = prepare_images(arguments(folder), seed=3, encoder=None)
    worker = prepare_images(arguments(folder, augment_on="worker"), seed=3, encoder=None)
    assert worker.batch_transform is None
    keys = [ItemKey(2, index) for index in range(8)]
    torch.testing.assert_close(finished(worker, keys), finished(device, keys))


def test_views_depend_on_seed_epoch_and_item_alone(folder):
    prepared = prepare_images(arguments(folder), seed=0, encoder=None)
    views = finished(prepared, [ItemKey(1, index) for index in (4, 5, 6)])["pixel_values"]
    alone = finished(prepared, [ItemKey(1, 5)])["pixel_values"]
    torch.testing.assert_close(views[1:2], alone)
    other_epoch = finished(prepared, [ItemKey(2, 5)])["pixel_values"]
    other_seed = finished(prepare_images(arguments(folder), seed=1, encoder=None), [ItemKey(1, 5)])["pixel_values"]
    assert not torch.allclose(alone, other_epoch)
    assert not torch.allclose(alone, other_seed)


@pytest.mark.parametrize("augment_on", ["device", "worker"])
def test_runs_in_workers(folder, augment_on):
    prepared = prepare_images(arguments(folder, augment_on=augment_on), seed=0, encoder=None)
    loader = DataLoader(prepared.train, batch_size=4, collate_fn=prepared.collator, num_workers=1)
    batches = list(loader)
    expected = batch_of(prepared, range(4))
    torch.testing.assert_close(batches[0], expected)
    assert pickle.loads(pickle.dumps(prepared.collator)).views == prepared.collator.views


def test_multi_crop_gives_global_and_local_views_of_two_sizes(folder):
    options = {"augmentation": "dino_small", "local_image_size": 8}
    prepared = prepare_images(arguments(folder, **options), seed=0, encoder=None)
    raw = batch_of(prepared, range(8))
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in raw.items()} == {
        "pixel_values": ((8, 2, 3, 16, 16), torch.uint8),
        "augmentation": ((8, 2, 11), torch.float32),
        "local_pixel_values": ((8, 4, 3, 8, 8), torch.uint8),
        "local_augmentation": ((8, 4, 11), torch.float32),
    }
    batch = finished(prepared, range(8))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "pixel_values": (8, 2, 3, 16, 16),
        "local_pixel_values": (8, 4, 3, 8, 8),
    }
    assert all(tensor.dtype == torch.float32 and tensor.abs().amax() <= 1 for tensor in batch.values())
    worker = prepare_images(arguments(folder, augment_on="worker", **options), seed=0, encoder=None)
    torch.testing.assert_close(finished(worker, range(8)), batch)
    alone = finished(prepared, [5])
    torch.testing.assert_close(alone, {name: tensor[5:6] for name, tensor in batch.items()})


def test_local_views_larger_than_the_global_ones(folder):
    with pytest.raises(InputError, match=r"local_image_size is 96, more than data\.image_size=32.*about 16"):
        prepare_images(arguments(folder, image_size=32, augmentation="dino_small"), seed=0, encoder=None)
    prepare_images(arguments(folder, image_size=32), seed=0, encoder=None)  # no local views, nothing to say
    with pytest.raises(InputError, match=r"data\.local_image_size is 0"):
        arguments(folder, local_image_size=0)


@pytest.mark.parametrize(
    ("name", "keys"), [("crop_flip", {"pixel_values"}), ("beit", {"pixel_values", "augmentation"})]
)
def test_presets_of_one_view_have_no_dimension_for_views(folder, name, keys):
    prepared = prepare_images(arguments(folder, augmentation=name), seed=0, encoder=None)
    raw = batch_of(prepared, range(8))
    assert raw.keys() == keys
    assert raw["pixel_values"].shape == (8, 3, 16, 16)
    batch = finished(prepared, range(8))
    assert batch.keys() == {"pixel_values"}
    assert batch["pixel_values"].shape == (8, 3, 16, 16)
    worker = prepare_images(arguments(folder, augmentation=name, augment_on="worker"), seed=0, encoder=None)
    torch.testing.assert_close(finished(worker, range(8)), batch)


def test_flips_come_as_often_as_the_preset_says(tmp_path):
    """A picture whose left half is black and right half white shows whether it was mirrored."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, 8:] = 255
    folder = tmp_path / "halves"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "half.png")
    shares = {}
    for name in ("crop_flip", "crop", "rotnet"):
        prepared = prepare_images(arguments(folder, augmentation=name), seed=0, encoder=None)
        views = batch_of(prepared, [ItemKey(epoch, 0) for epoch in range(400)])["pixel_values"].float()
        shares[name] = (views[..., :8].mean(dim=(1, 2, 3)) > views[..., 8:].mean(dim=(1, 2, 3))).float().mean().item()
    assert shares == pytest.approx({"crop_flip": 0.5, "crop": 0.0, "rotnet": 0.5}, abs=0.06)


def test_items_with_their_numbers(folder):
    prepared = prepare_images(arguments(folder), seed=0, encoder=None, with_indices=True)
    assert prepared.config_updates == {"encoder_config": {"image_size": 16}, "num_items": 8}
    batch = finished(prepared, [ItemKey(3, 6), ItemKey(0, 2)])
    assert batch["item_indices"].tolist() == [6, 2]
    assert batch["item_indices"].dtype == torch.int64
    assert "item_indices" not in batch_of(prepare_images(arguments(folder), seed=0, encoder=None), [0])


def test_items_of_a_stream_have_no_numbers():
    args = ImageDataArguments(path="sample:emoji", image_size=16, streaming=True)
    with pytest.raises(InputError, match=r"data\.streaming is true.*set data\.streaming=false"):
        prepare_images(args, seed=0, encoder=None, with_indices=True)


def test_objective_draws_from_the_items_generators(folder):
    prepared = prepare_images(arguments(folder), seed=0, encoder=None)

    def draw(batch, generators):
        return {**batch, "noise": torch.stack([torch.rand(3, generator=generator) for generator in generators])}

    prepared.collator.draw = draw
    together = batch_of(prepared, [ItemKey(0, 1), ItemKey(0, 2)])
    assert together["noise"].shape == (2, 3)
    assert torch.equal(together["noise"][1:], batch_of(prepared, [ItemKey(0, 2)])["noise"])


def test_processor_loads_without_hf_ssl_and_normalises_alike(folder, tmp_path):
    prepared = prepare_images(arguments(folder), seed=0, encoder=None)
    assert prepared.config_updates == {"encoder_config": {"image_size": 16}}
    prepared.processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    gray = Image.new("RGB", (16, 16), (51, 102, 204))
    pixels = loaded(gray, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([51, 102, 204]) / 255 * 2 - 1)
    assert pixels.shape == (1, 3, 16, 16)


def test_processor_of_the_encoder_gives_mean_and_deviation(folder, tmp_path):
    own = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    own.save_pretrained(tmp_path)
    ResNetConfig().save_pretrained(tmp_path)
    prepared = prepare_images(arguments(folder), seed=0, encoder=str(tmp_path))
    assert prepared.config_updates == {}
    assert list(prepared.processor.image_mean) == [0.1, 0.2, 0.3]
    black = {"pixel_values": torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8), "augmentation": torch.zeros(1, 2, 11)}
    black["augmentation"][..., :7] = torch.tensor([0.0, 1, 2, 3, 1, 1, 1])
    pixels = prepared.batch_transform(black)["pixel_values"]
    torch.testing.assert_close(pixels[0, 0, :, 0, 0], torch.tensor([-0.1 / 0.5, -0.2 / 0.6, -0.3 / 0.7]))


def test_encoder_without_processor(folder, tmp_path):
    with pytest.raises(InputError, match="has no image processor"):
        prepare_images(arguments(folder), seed=0, encoder=str(tmp_path))


def test_an_encoder_that_takes_another_size(folder, tmp_path):
    encoder = save_image_encoder(tmp_path)
    prepare_images(arguments(folder, image_size=32), seed=0, encoder=str(encoder))
    with pytest.raises(InputError, match=r"does not take data\.image_size=48 .*32\*32"):
        prepare_images(arguments(folder, image_size=48), seed=0, encoder=str(encoder))


def test_broken_pictures_are_skipped_and_counted(folder):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    with pytest.raises(InputError, match=r"broken\.png"):
        prepare_images(arguments(folder), seed=0, encoder=None)
    prepared = prepare_images(arguments(folder, on_error="skip"), seed=0, encoder=None)
    assert len(prepared.train) == 8
    assert prepared.num_skipped == 1


def test_embedded_data():
    prepared = prepare_images(ImageDataArguments(path="sample:emoji", image_size=32), seed=0, encoder=None)
    assert len(prepared.train) > len(prepared.validation) > 0
    assert finished(prepared, [0, 1])["pixel_values"].shape == (2, 2, 3, 32, 32)


def test_stream():
    args = ImageDataArguments(path="sample:emoji", image_size=16, streaming=True, augmentation="simclr_small")
    prepared = prepare_images(args, seed=0, encoder=None)
    assert isinstance(prepared.train, KeyedIterableDataset)
    items = [item for item, _ in zip(prepared.train, range(3), strict=False)]
    assert [item["key"] for item in items] == [ItemKey(0, 0), ItemKey(0, 1), ItemKey(0, 2)]
    assert prepared.collator(items)["pixel_values"].shape == (3, 2, 3, 16, 16)
    assert Image.open(io.BytesIO(prepared.validation[0]["image"]["bytes"])).size == (32, 32)
