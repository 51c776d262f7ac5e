import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ImageGPTImageProcessorPil, ViTImageProcessorPil

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.colours import prepare_colours
from hf_ssl.data.keyed import ItemKey
from hf_ssl.errors import InputError

NUM_IMAGES, NUM_COLOURS, SIZE = 6, 20, 8


@pytest.fixture
def folder(tmp_path):
    """Pictures of the size that the encoder sees."""
    random = np.random.default_rng(0)
    data = tmp_path / "pictures"
    data.mkdir()
    for number in range(NUM_IMAGES):
        pixels = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{number}.png")
    return data


@pytest.fixture
def palette(tmp_path):
    clusters = np.random.default_rng(1).uniform(-1, 1, (NUM_COLOURS, 3))
    processor = ImageGPTImageProcessorPil(clusters=clusters.tolist(), size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "palette")
    return str(tmp_path / "palette")


def arguments(folder, palette, **fields):
    options = {"image_size": SIZE, "augmentation": "crop", "validation_split": None, **fields}
    return ImageDataArguments(path=str(folder), palette=palette, **options)


def batch_of(prepared, keys):
    return prepared.collator([prepared.train[key] for key in keys])


def test_colours_are_the_nearest_of_the_palette(folder, palette):
    prepared = prepare_colours(arguments(folder, palette), seed=0, encoder=None)
    batch = batch_of(prepared, range(NUM_IMAGES))
    assert batch.keys() == {"input_ids"}
    assert batch["input_ids"].shape == (NUM_IMAGES, SIZE * SIZE)
    assert prepared.batch_transform is None

    tokens = prepared.collator.transform
    pixels = torch.randint(256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = tokens({"pixel_values": pixels})["input_ids"]
    clusters = np.array(prepared.processor.clusters)
    for image, row in zip(pixels.numpy(), numbers.tolist(), strict=True):
        for place, number in enumerate(row):
            colour = image[:, place // SIZE, place % SIZE] / 127.5 - 1
            assert number == min(range(NUM_COLOURS), key=lambda c: float(((clusters[c] - colour) ** 2).sum()))


def test_tokens_are_those_of_transformers_image_processor(folder, palette, tmp_path):
    prepared = prepare_colours(arguments(folder, palette), seed=0, encoder=None)
    prepared.processor.save_pretrained(tmp_path / "encoder")
    plain = ImageGPTImageProcessorPil.from_pretrained(tmp_path / "encoder")
    images = [Image.open(folder / f"{number}.png") for number in range(NUM_IMAGES)]
    theirs = plain(images=images, return_tensors="pt")["input_ids"]
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    assert torch.equal(theirs, prepared.collator.transform({"pixel_values": pixels})["input_ids"])


def test_the_encoder_gets_its_sizes_from_the_data(folder, palette):
    prepared = prepare_colours(arguments(folder, palette), seed=0, encoder=None)
    sizes = {"vocab_size": NUM_COLOURS + 1, "n_positions": SIZE * SIZE}
    assert prepared.config_updates == {"encoder_config": sizes}
    assert dict(prepared.processor.size) == {"height": SIZE, "width": SIZE}


def test_an_encoder_to_start_from_brings_its_palette(folder, palette):
    prepared = prepare_colours(arguments(folder, None), seed=0, encoder=palette)
    assert len(prepared.processor.clusters) == NUM_COLOURS
    assert prepared.config_updates == {}
    with pytest.raises(InputError, match=r"its own palette; leave data\.palette out"):
        prepare_colours(arguments(folder, palette), seed=0, encoder=palette)


def test_colours_depend_on_seed_epoch_and_item_alone(folder, palette):
    prepared = prepare_colours(arguments(folder, palette), seed=0, encoder=None)
    prepared.collator = pickle.loads(pickle.dumps(prepared.collator))
    tokens = batch_of(prepared, [ItemKey(1, index) for index in (3, 4, 5)])["input_ids"]
    assert torch.equal(tokens[1:2], batch_of(prepared, [ItemKey(1, 4)])["input_ids"])
    assert not torch.equal(tokens[1:2], batch_of(prepared, [ItemKey(2, 4)])["input_ids"])


def test_one_view_only(folder, palette):
    with pytest.raises(InputError, match="simclr_small makes 2 views"):
        prepare_colours(arguments(folder, palette, augmentation="simclr_small"), seed=0, encoder=None)


def test_palettes_that_are_none(folder, tmp_path):
    with pytest.raises(InputError, match="has no palette; set"):
        prepare_colours(arguments(folder, None), seed=0, encoder=None)
    with pytest.raises(InputError, match="has no image processor"):
        prepare_colours(arguments(folder, str(tmp_path)), seed=0, encoder=None)
    ViTImageProcessorPil().save_pretrained(tmp_path / "vit")
    with pytest.raises(InputError, match="has no palette; give one of an ImageGPT"):
        prepare_colours(arguments(folder, str(tmp_path / "vit")), seed=0, encoder=None)
    with pytest.raises(InputError, match="num_colours is 1"):
        arguments(folder, None, num_colours=1)
