import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    HubertConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.decoding import decode_audio
from hf_ssl.data.encoder_inputs import encoder_input
from hf_ssl.data.holdout import name_hash
from hf_ssl.data.keyed import ItemKey
from hf_ssl.data.speech import SpeechCollator, prepare_speech
from hf_ssl.data.units import save_units
from hf_ssl.errors import InputError

RATE = 16_000
SECONDS = {"train": [1.0, 0.5, 2.0, 0.8], "validation": [0.7, 1.1]}
# The order in which a folder's files are read.
ORDER = {
    split: sorted(range(len(lengths)), key=lambda n, split=split: name_hash(f"{split}/{n}.wav"))
    for split, lengths in SECONDS.items()
}


def ramp(seconds, rate=RATE):
    """A waveform whose every sample says when it is: from 0 to 1 in 10 seconds."""
    return np.arange(round(seconds * rate), dtype=np.float32) / (10 * rate)


def units_of(seconds, label_rate=100):
    """Units that say when they are: their own number."""
    return np.arange(round(seconds * label_rate))


@pytest.fixture
def folder(tmp_path):
    """Recordings of one's own, `<folder>/<split>/<n>.wav`."""
    for split, lengths in SECONDS.items():
        (tmp_path / "audio" / split).mkdir(parents=True)
        for n, seconds in enumerate(lengths):
            soundfile.write(tmp_path / "audio" / split / f"{n}.wav", ramp(seconds), RATE, subtype="FLOAT")
    return tmp_path / "audio"


def write_units(folder, label_rate=100, num_clusters=200):
    units = {split: [units_of(SECONDS[split][n], label_rate) for n in ORDER[split]] for split in SECONDS}
    paths = {split: [f"{n}.wav" for n in ORDER[split]] for split in SECONDS}
    info = {"num_clusters": num_clusters, "label_rate": label_rate, "sampling_rate": RATE}
    save_units(folder, units, paths, info)
    return str(folder)


def make_collator(label_rate=100, max_seconds=15.6, do_normalize=False):
    processor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=do_normalize)
    return SpeechCollator(processor=processor, seed=0, max_seconds=max_seconds, label_rate=label_rate)


def item(seconds, index=0, epoch=0, label_rate=100):
    buffer = io.BytesIO()
    soundfile.write(buffer, ramp(seconds), RATE, format="WAV", subtype="FLOAT")
    return {
        "audio": {"bytes": buffer.getvalue(), "path": None},
        "units": units_of(seconds, label_rate).tolist(),
        "key": ItemKey(epoch, index),
    }


@pytest.mark.parametrize("label_rate", [100, 50])
def test_waveforms_and_units_are_of_the_same_moments(label_rate):
    collate = make_collator(label_rate)
    for epoch in range(20):
        items = [item(s, i, epoch, label_rate) for i, s in enumerate([1.0, 3.0, 2.2])]
        batch = collate(items)
        assert batch["input_values"].shape == (3, RATE)
        assert batch["units"].shape == (3, label_rate)
        starts = 10 * batch["input_values"][:, 0]  # seconds
        assert ((batch["units"][:, 0] / label_rate - starts).abs() <= 0.5 / label_rate + 1e-4).all()
        assert (batch["units"].diff() == 1).all()
        assert starts[0] == 0  # the shortest is taken whole


def test_crops_are_anywhere_and_new_in_every_epoch():
    collate = make_collator(max_seconds=0.5)
    starts = [10 * collate([item(1.0, 0, epoch)])["input_values"][0, 0].item() for epoch in range(200)]
    assert min(starts) < 0.02
    assert max(starts) > 0.48
    assert np.mean(starts) == pytest.approx(0.25, abs=0.05)


def test_crops_depend_on_key_and_seed_alone():
    first, second = item(1.0, 7, 3), item(2.0, 1, 3)
    collate = make_collator(max_seconds=0.5)
    together, swapped = collate([first, second]), collate([second, first])
    assert torch.equal(together["input_values"], swapped["input_values"].flip(0))
    collate.seed = 1
    assert not torch.equal(together["input_values"], collate([first, second])["input_values"])


def test_missing_units_at_the_end_are_ignored():
    example = item(1.0)
    example["units"] = example["units"][:97]
    assert make_collator()([example, item(1.0, 1)])["units"][0, 95:].tolist() == [95, 96, -100, -100, -100]


def test_normalisation_is_of_the_whole_recording():
    example = item(2.0)
    waveform = ramp(2.0)
    normalised = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    cropped = make_collator(max_seconds=0.5, do_normalize=True)([example])["input_values"][0]
    start = np.searchsorted(normalised, cropped[0].item() - 1e-6)
    np.testing.assert_allclose(cropped, normalised[start : start + RATE // 2], atol=1e-5)


def test_the_objective_draws_from_the_same_generators():
    collate = make_collator()
    seen = {}

    def draw(batch, generators):
        seen["draws"] = [torch.rand((), generator=generator).item() for generator in generators]
        return {**batch, "drawn": torch.ones(1)}

    collate.draw = draw
    assert "drawn" in collate([item(1.0), item(2.0, 1)])
    first = seen["draws"]
    collate([item(2.0, 1), item(1.0)])
    assert seen["draws"] == first[::-1]


def noise_item(seconds, index=0, epoch=0):
    """A recording whose frames all differ."""
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(index).standard_normal(round(seconds * RATE))
    soundfile.write(buffer, noise, RATE, format="WAV", subtype="FLOAT")
    audio = {"bytes": buffer.getvalue(), "path": None}
    return {"audio": audio, "units": units_of(seconds, 50).tolist(), "key": ItemKey(epoch, index)}


@pytest.mark.parametrize(
    ("processor", "rate"), [(SeamlessM4TFeatureExtractor(), 50), (ParakeetFeatureExtractor(), 100)]
)
def test_log_mel_frames_are_cropped_as_waveforms_are(processor, rate):
    collate = SpeechCollator(processor=processor, seed=0, max_seconds=0.8, label_rate=50)
    items = [noise_item(seconds, i) for i, seconds in enumerate([1.0, 3.0, 2.2])]
    batch = collate(items)
    assert set(batch) == {"input_features", "units"}
    assert batch["input_features"].shape[:2] == (3, 0.8 * rate)
    for row, example in enumerate(items):
        # Normalised as a whole, then cropped: a stretch of the whole recording's features, at the units' moment.
        whole = encoder_input(processor, decode_audio(example["audio"], RATE))
        starts = [n for n in range(len(whole)) if torch.equal(whole[n], batch["input_features"][row, 0])]
        assert len(starts) == 1
        crop = whole[starts[0] : starts[0] + len(batch["input_features"][row])]
        assert torch.equal(batch["input_features"][row], crop)
        assert abs(batch["units"][row, 0].item() / 50 - starts[0] / rate) <= 0.5 / 50 + 1e-6
    assert collate([items[1], items[0]])["input_features"].shape[1] == 0.8 * rate
    shortest = SpeechCollator(processor=processor, seed=0, max_seconds=9)(items)["input_features"]
    assert abs(shortest.shape[1] - rate) <= 2


def test_goes_to_the_workers():
    assert pickle.loads(pickle.dumps(make_collator())).label_rate == 100


def test_a_folder_of_recordings(folder, tmp_path):
    units = write_units(tmp_path / "units")
    data = prepare_speech(SpeechDataArguments(path=str(folder), units=units, max_seconds=1.5), seed=0, encoder=None)
    assert data.lengths == pytest.approx([min(SECONDS["train"][n], 1.5) for n in ORDER["train"]])
    assert data.config_updates == {"num_clusters": 200, "label_rate": 100, "sampling_rate": RATE}
    assert len(data.validation) == 2
    batch = data.collator([data.train[ItemKey(0, index)] for index in range(4)])
    assert batch["input_values"].shape == (4, RATE // 2)
    assert batch["units"].shape == (4, 50)
    assert data.processor.sampling_rate == RATE


def test_without_units_there_are_only_waveforms(folder):
    data = prepare_speech(SpeechDataArguments(path=str(folder)), seed=0, encoder=None)
    assert list(data.collator([data.train[0], data.train[1]])) == ["input_values"]
    assert data.config_updates == {}


def test_broken_recordings_are_left_out_if_asked_for(folder, tmp_path):
    units = write_units(tmp_path / "units")
    (folder / "train" / "4.wav").write_bytes(b"not a recording")
    arguments = {"path": str(folder), "units": units}
    with pytest.raises(InputError, match=r"4\.wav"):
        prepare_speech(SpeechDataArguments(**arguments), seed=0, encoder=None)
    data = prepare_speech(SpeechDataArguments(**arguments, on_error="skip"), seed=0, encoder=None)
    assert (len(data.train), data.num_skipped) == (4, 1)


def test_units_of_other_data_are_refused(folder, tmp_path):
    units = write_units(tmp_path / "units")
    soundfile.write(folder / "train" / "9.wav", ramp(1.0), RATE)
    with pytest.raises(InputError, match="hold 4 recordings of split 'train', the data set has 5"):
        prepare_speech(SpeechDataArguments(path=str(folder), units=units), seed=0, encoder=None)


def test_units_of_another_rate_are_refused(folder, tmp_path):
    units = write_units(tmp_path / "units")
    (tmp_path / "units" / "units.json").write_text('{"num_clusters": 200, "label_rate": 50, "sampling_rate": 16000}')
    with pytest.raises(InputError, match=r"have 80 labels for .*3\.wav', which lasts 0\.80 s at 50 labels/s"):
        prepare_speech(SpeechDataArguments(path=str(folder), units=units), seed=0, encoder=None)


def test_the_encoders_own_feature_extractor(folder, tmp_path):
    Wav2Vec2FeatureExtractor(do_normalize=False, sampling_rate=8000).save_pretrained(tmp_path / "encoder")
    encoder = str(tmp_path / "encoder")
    data = prepare_speech(SpeechDataArguments(path=str(folder), sampling_rate=8000), seed=0, encoder=encoder)
    assert not data.processor.do_normalize
    assert data.collator([data.train[0]])["input_values"].shape == (1, 6400)
    with pytest.raises(InputError, match=r"takes recordings at 8000 Hz, but data\.sampling_rate is 16000"):
        prepare_speech(SpeechDataArguments(path=str(folder)), seed=0, encoder=encoder)
    with pytest.raises(InputError, match=r"has no feature extractor"):
        prepare_speech(SpeechDataArguments(path=str(folder)), seed=0, encoder=str(tmp_path))
    WhisperFeatureExtractor().save_pretrained(tmp_path / "whisper")
    with pytest.raises(InputError, match="does not take waveforms but what WhisperFeatureExtractor makes of them"):
        prepare_speech(SpeechDataArguments(path=str(folder)), seed=0, encoder=str(tmp_path / "whisper"))


@pytest.mark.parametrize(
    ("architecture", "processor_class", "size"),
    [
        (Wav2Vec2BertConfig(), SeamlessM4TFeatureExtractor, (39, 160)),
        (ParakeetEncoderConfig(), ParakeetFeatureExtractor, (80, 80)),
        (HubertConfig(), Wav2Vec2FeatureExtractor, (12_800,)),
    ],
)
def test_a_fresh_encoder_decides_what_is_read(folder, architecture, processor_class, size):
    arguments = SpeechDataArguments(path=str(folder))
    data = prepare_speech(arguments, seed=0, encoder=None, architecture=architecture)
    assert type(data.processor) is processor_class
    batch = data.collator([data.train[ItemKey(0, ORDER["train"].index(3))]])  # 0.8 s
    assert batch[data.processor.model_input_names[0]].shape[1:] == size


def test_an_encoder_of_log_mel_frames(folder, tmp_path):
    SeamlessM4TFeatureExtractor().save_pretrained(tmp_path / "encoder")
    arguments = {"path": str(folder)}
    data = prepare_speech(SpeechDataArguments(**arguments), seed=0, encoder=str(tmp_path / "encoder"))
    assert data.collator([data.train[0]])["input_features"].shape[-1] == 160
    with pytest.raises(InputError, match=r"data\.mixing_probability is for encoders that read waveforms"):
        prepare_speech(
            SpeechDataArguments(**arguments, mixing_probability=0.2), seed=0, encoder=str(tmp_path / "encoder")
        )
