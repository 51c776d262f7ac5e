import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ASTFeatureExtractor,
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from hf_ssl.data.labelled import LabelledCollator

RATE = 16_000


def image(size, colour):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def recording(seconds, rate=RATE, seed=0):
    samples = 0.1 + 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, samples.clip(-1, 1), rate, format="WAV")
    return {"bytes": file.getvalue(), "path": "tone.wav"}


def tokenizer():
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "c": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=4, padding_side="right"
    )


def test_images_of_any_size_with_their_classes():
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    collator = LabelledCollator(modality="vision", processor=processor)
    batch = collator([{"image": image((9, 30), "white"), "label": 2}, {"image": image((8, 8), "black"), "label": 0}])
    assert set(batch) == {"pixel_values", "labels"}
    assert torch.equal(batch["pixel_values"], torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 3, 8, 8))
    assert batch["labels"].tolist() == [2, 0]
    assert batch["labels"].dtype == torch.int64


def test_a_padded_recording_is_what_it_is_alone():
    processor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    collator = LabelledCollator(modality="speech", processor=processor)
    short, long = {"audio": recording(0.5), "label": 1}, {"audio": recording(1.0, seed=1), "label": 0}
    batch, alone = collator([short, long]), collator([short])
    assert batch["attention_mask"].sum(dim=1).tolist() == [RATE // 2, RATE]
    torch.testing.assert_close(batch["input_values"][:1, : RATE // 2], alone["input_values"])
    assert not batch["input_values"][0, RATE // 2 :].any()


def test_encoders_with_group_norm_get_no_mask_but_unpadded_normalisation():
    processor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    collator = LabelledCollator(modality="speech", processor=processor)
    batch = collator([{"audio": recording(0.5)}, {"audio": recording(1.0, seed=1)}])
    assert set(batch) == {"input_values"}
    assert batch["input_values"][0, : RATE // 2].mean().abs() < 1e-6
    assert not batch["input_values"][0, RATE // 2 :].any()


def test_long_recordings_keep_their_beginning_and_are_resampled():
    processor = Wav2Vec2FeatureExtractor(do_normalize=False)
    collator = LabelledCollator(modality="speech", processor=processor, max_seconds=0.25)
    whole = LabelledCollator(modality="speech", processor=processor)
    row = {"audio": recording(1.0, rate=8000)}
    assert whole([row])["input_values"].shape == (1, RATE)
    assert torch.equal(collator([row])["input_values"], whole([row])["input_values"][:, : RATE // 4])


@pytest.mark.parametrize(
    ("processor", "name", "shape", "has_mask"),
    [
        (WhisperFeatureExtractor(), "input_features", (2, 80, 3000), False),
        (ASTFeatureExtractor(), "input_values", (2, 1024, 128), False),
        (SeamlessM4TFeatureExtractor(), "input_features", (2, 50, 160), True),
    ],
)
def test_other_feature_extractors(processor, name, shape, has_mask):
    collator = LabelledCollator(modality="speech", processor=processor)
    batch = collator([{"audio": recording(0.5)}, {"audio": recording(1.0)}])
    assert batch[name].shape[0] == shape[0]
    assert batch[name].shape[2] == shape[2]
    assert abs(batch[name].shape[1] - shape[1]) <= 2  # windows at the edges
    assert ("attention_mask" in batch) is has_mask


def test_texts_are_padded_and_cut():
    rows = [{"text": "a b c a b c", "label": 1}, {"text": "b", "label": 0}]
    batch = LabelledCollator(modality="text", processor=tokenizer())(rows)
    assert batch["input_ids"].tolist() == [[2, 3, 4, 2], [3, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert LabelledCollator(modality="text", processor=tokenizer(), max_length=2)(rows)["input_ids"].shape == (2, 2)


def test_it_can_be_sent_to_a_worker():
    collator = pickle.loads(pickle.dumps(LabelledCollator(modality="text", processor=tokenizer(), max_length=3)))
    assert collator([{"text": "a b c a"}])["input_ids"].tolist() == [[2, 3, 4]]
