import numpy as np
import pytest
import torch

from hf_ssl.data.decoding import decode_audio
from hf_ssl.evaluation.recognition.emissions import emissions, like_lengths
from tests.evaluation.recognition.recognisers import load, save_recogniser, with_lengths, write_sample


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return with_lengths(write_sample(tmp_path_factory.mktemp("data") / "speech", {"train": 5}), "train")


def one_by_one(recogniser, recordings):
    """Each recording alone, without padding."""
    found = []
    for row in recordings:
        waveform = decode_audio(row["audio"], 16_000)
        inputs = recogniser.processor.feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        inputs.pop("attention_mask", None)
        with torch.no_grad():
            found.append(recogniser.model.eval()(**inputs).logits[0].log_softmax(dim=-1).numpy())
    return found


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_recordings_in_batches_give_what_each_gives_alone(tmp_path, recordings, kind):
    recogniser = load(save_recogniser(tmp_path, kind))
    sizes = []
    hook = recogniser.model.register_forward_pre_hook(
        lambda model, args, kwargs: sizes.append(len(kwargs["input_values"])), with_kwargs=True
    )
    found = emissions(recogniser.model, recogniser.processor, recordings)
    hook.remove()
    assert sizes == ([5] if kind == "layer" else [1] * 5)  # with group norm the zeros that pad would be heard
    for values, expected in zip(found, one_by_one(recogniser, recordings), strict=True):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, atol=1e-4)
        np.testing.assert_allclose(np.exp(values).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2-bert", "parakeet_encoder"])
def test_encoders_of_mel_frames(tmp_path, recordings, kind):
    recogniser = load(save_recogniser(tmp_path, kind))
    found = emissions(recogniser.model, recogniser.processor, recordings)
    alone = emissions(recogniser.model, recogniser.processor, recordings, max_batch_seconds=0.0)
    for values, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(values, expected, atol=1e-4)


def test_frames_after_an_adapter(tmp_path, recordings):
    recogniser = load(save_recogniser(tmp_path, "wav2vec2-bert", add_adapter=True))
    found = emissions(recogniser.model, recogniser.processor, recordings)
    alone = emissions(recogniser.model, recogniser.processor, recordings, max_batch_seconds=0.0)
    assert [len(values) for values in found] == [len(values) for values in alone]


def test_the_model_is_left_as_it_was(tmp_path, recordings):
    recogniser = load(save_recogniser(tmp_path))
    recogniser.model.train()
    emissions(recogniser.model, recogniser.processor, recordings)
    assert recogniser.model.training


@pytest.mark.parametrize(
    ("limit", "batches"),
    [(10.0, [[1], [3, 0], [2]]), (0.0, [[1], [3], [0], [2]]), (1000.0, [[1, 3, 0, 2]])],
)
def test_batches_of_like_length(limit, batches):
    assert list(like_lengths([4.0, 30.0, 3.0, 5.0], limit)) == batches
