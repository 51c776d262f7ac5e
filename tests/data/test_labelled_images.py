"""What is random of the training images of a classifier, and by what it is known."""

import pickle

import pytest
import torch
from transformers import ViTImageProcessorPil

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.image_mixing import NO_BOX
from hf_ssl.data.keyed import ItemKey, KeyedDataset
from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.labelled_images import augmented, is_augmented
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError

PROCESSOR = ViTImageProcessorPil(size={"height": 24, "width": 24})
ALL = {"labelled_augmentation": "random_crop", "random_erasing": 0.5, "mixup": 0.8, "cutmix": 1.0}


def arguments(**settings) -> ImageDataArguments:
    return ImageDataArguments(path="sample:emoji", label_column="category", max_train_items=12, **settings)


def collator(seed: int = 0, processor: ViTImageProcessorPil = PROCESSOR, **settings):
    plain = LabelledCollator(modality="vision", processor=processor)
    return augmented(plain, seed, data=arguments(**settings), processor=processor)


@pytest.fixture(scope="module")
def items() -> KeyedDataset:
    return KeyedDataset(load_splits(arguments(), "vision")["train"])


def test_an_item_is_known_by_seed_epoch_and_number_and_not_by_its_batch(items):
    make = pickle.loads(pickle.dumps(collator(**ALL)))
    batch = make([items[ItemKey(1, row)] for row in range(8)])
    other = make([items[ItemKey(1, row)] for row in (5, 2)])
    assert batch["pixel_values"].shape == (8, 3, 24, 24)
    for name in ("pixel_values", "labels", "mixing_weights", "mixing_boxes"):
        assert torch.equal(batch[name][[5, 2]], other[name]), name
    for changed in (
        make([items[ItemKey(2, row)] for row in range(8)]),
        collator(seed=1, **ALL)([items[ItemKey(1, row)] for row in range(8)]),
        make([items[ItemKey(1, row, 1)] for row in range(8)]),
    ):
        assert not torch.equal(changed["pixel_values"], batch["pixel_values"])
        assert not torch.equal(changed["mixing_weights"], batch["mixing_weights"])


def test_images_that_are_only_mixed_are_those_of_evaluation(items):
    rows = [items[ItemKey(0, row)] for row in range(6)]
    plain = LabelledCollator(modality="vision", processor=PROCESSOR)(rows)
    batch = collator(cutmix=1.0)(rows)
    assert torch.equal(batch["pixel_values"], plain["pixel_values"])
    assert torch.equal(batch["labels"], plain["labels"])
    assert (batch["mixing_weights"] == 1).all()
    assert batch["mixing_weights"].dtype == torch.float32
    assert any(tuple(box.tolist()) != NO_BOX for box in batch["mixing_boxes"])
    assert "mixing_weights" not in collator(random_erasing=0.5)(rows)


def test_crops_are_normalised_as_the_encoder_wants_them(items):
    processor = ViTImageProcessorPil(size={"height": 24, "width": 24}, image_mean=[0.2] * 3, image_std=[0.1] * 3)
    pixels = collator(processor=processor, labelled_augmentation="random_crop")([items[0]])["pixel_values"]
    assert pixels.min() >= -2 - 1e-4
    assert pixels.max() <= 8 + 1e-4
    assert pixels.max() > 2  # emoji have white, or nearly


def test_what_counts_as_augmented():
    assert not is_augmented(arguments())
    assert not is_augmented(arguments(cutmix_share=0.1))
    for name, value in ALL.items():
        assert is_augmented(arguments(**{name: value}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labelled_augmentation": "simclr"}, r"augmentation of one view \(data.labelled_augmentation\)"),
        ({"labelled_augmentation": "random_corp"}, "did you mean 'random_crop'"),
    ],
)
def test_presets_that_do_not_give_one_view(settings, message):
    with pytest.raises(InputError, match=message):
        collator(**settings)


def test_an_encoder_that_reads_no_squares():
    processor = ViTImageProcessorPil(size={"height": 24, "width": 32})
    with pytest.raises(InputError, match="images of 24 × 32 pixels; leave it out"):
        collator(processor=processor, labelled_augmentation="random_crop")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup": -0.1}, "data.mixup is -0.1"),
        ({"cutmix_share": 1.5}, "data.cutmix_share is 1.5"),
        ({"mixing_probability": -1}, "data.mixing_probability is -1"),
        ({"random_erasing": 2}, "data.random_erasing is 2"),
    ],
)
def test_numbers_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        arguments(**settings)
