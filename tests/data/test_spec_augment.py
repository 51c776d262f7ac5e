import numpy as np
import pytest
import torch
from transformers import HubertConfig, SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2FeatureExtractor

from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.spec_augment import SpecAugment, SpecAugmentCollator

SETTINGS = SpecAugment(time_prob=0.65, time_length=10, channel_prob=0.25, channel_length=64)


def generators(number: int, epoch: int = 0) -> list[torch.Generator]:
    return [item_generator(7, epoch, index) for index in range(number)]


def naive_share(rng: np.random.Generator, size: int, p: float, length: int, least: int) -> float:
    """One row's masked share, written from fairseq's description of `mask_prob`: the expected mass before overlap."""
    number = max(least, int(np.floor(p * size / length + rng.random())))
    masked = set()
    for start in rng.choice(size - length, number, replace=False):
        for place in range(start, start + length):
            masked.add(place)
    return len(masked) / size


@pytest.mark.parametrize(
    ("name", "size", "p", "length", "least"),
    [
        ("time", 500, 0.65, 10, 2),
        ("time", 60, 0.05, 10, 2),
        ("channel", 768, 0.25, 64, 0),
        ("channel", 96, 0.1, 64, 0),
    ],
)
def test_shares_are_those_of_fairseq(name, size, p, length, least):
    number, rng = 800, np.random.default_rng(0)
    settings = SpecAugment(**{f"{name}_prob": p, f"{name}_length": length})
    drawn = settings.draw([size] * number, size, generators(number))[f"mask_{name}_indices"].float().mean(dim=1)
    naive = np.array([naive_share(rng, size, p, length, least) for _ in range(number)])
    error = 4 * naive.std() * (2 / number) ** 0.5
    assert drawn.mean().item() == pytest.approx(naive.mean(), abs=error)
    assert drawn.std().item() == pytest.approx(naive.std(), rel=0.15)


def test_a_row_depends_on_its_key_alone():
    together = SETTINGS.draw([50, 300, 120], 128, generators(3))
    assert together["mask_time_indices"].shape == (3, 300)
    for row, frames in enumerate([50, 300, 120]):
        alone = SETTINGS.draw([frames], 128, [item_generator(7, 0, row)])
        assert torch.equal(together["mask_time_indices"][row, :frames], alone["mask_time_indices"][0])
        assert not together["mask_time_indices"][row, frames:].any()
        assert torch.equal(together["mask_channel_indices"][row], alone["mask_channel_indices"][0])
    later = SETTINGS.draw([50, 300, 120], 128, generators(3, epoch=1))
    assert not torch.equal(together["mask_time_indices"], later["mask_time_indices"])


def test_a_share_of_zero_masks_nothing():
    assert SpecAugment().draw([50], 128, generators(1)) == {}
    assert set(SpecAugment(time_prob=0.5).draw([50], 128, generators(1))) == {"mask_time_indices"}
    assert set(SpecAugment(channel_prob=0.5).draw([50], 128, generators(1))) == {"mask_channel_indices"}


WAVEFORM = (
    HubertConfig(hidden_size=128, conv_dim=[4, 4], conv_kernel=[10, 8], conv_stride=[10, 16]),
    Wav2Vec2FeatureExtractor(sampling_rate=8000),  # takes no mask: it is known from the row alone where it ends
)
MEL = (Wav2Vec2BertConfig(hidden_size=128), SeamlessM4TFeatureExtractor(sampling_rate=8000))


@pytest.mark.parametrize(("config", "processor"), [WAVEFORM, MEL], ids=["waveform", "mel"])
def test_the_collator_masks_each_recording_to_its_end(config, processor, recordings):
    inputs = LabelledCollator(modality="speech", processor=processor, max_seconds=1.0)
    collator = SpecAugmentCollator(
        inputs=inputs, spec_augment=SETTINGS, encoder_config=config, processor=processor, seed=7, max_seconds=1.0
    )
    rows = recordings([0.6, 1.4, 0.9])
    batch, plain = collator(rows), inputs(rows)
    assert set(batch) - set(plain) == {"mask_time_indices", "mask_channel_indices"}
    mask = batch["mask_time_indices"]
    if "input_features" in plain:
        assert mask.shape == plain["input_features"].shape[:2]
        frames = plain["attention_mask"].sum(dim=1).tolist()
    else:
        frames = [30, 50, 45]  # ⌊(⌊(S − 10) / 10⌋ + 1 − 8) / 16⌋ + 1 of 4800, 8000 and 7200 samples
        assert mask.shape == (3, 50)
    for row, number in enumerate(frames):
        assert mask[row, :number].any()
        assert not mask[row, number:].any()
        alone = collator([rows[row]])
        assert torch.equal(alone["mask_time_indices"][0, :number], mask[row, :number])
        assert torch.equal(alone["mask_channel_indices"][0], batch["mask_channel_indices"][row])


@pytest.fixture
def recordings(tmp_path):
    import soundfile

    def rows(seconds: list[float]) -> list[dict]:
        rng, found = np.random.default_rng(0), []
        for index, length in enumerate(seconds):
            file = tmp_path / f"{index}.wav"
            soundfile.write(file, rng.normal(size=round(length * 8000)) / 10, 8000)
            found.append({"audio": {"bytes": None, "path": str(file)}, "length": length, "key": (0, index)})
        return found

    return rows
