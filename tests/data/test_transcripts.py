import itertools

import pytest
import torch
from transformers import AutoProcessor, HubertConfig, Wav2Vec2FeatureExtractor

from hf_ssl.data.transcripts import character_processor, normalise, why_not_alignable


@pytest.mark.parametrize(
    ("transcript", "normal"),
    [
        ("Ciao, c’è  3 gatti!", "ciao c'è gatti"),
        ("Привет — МИР. Ещё й", "привет мир ещё й"),
        ("U\N{COMBINING DIAERESIS}ber", "über"),
        ("हिन्दी", "हिन्दी"),  # vowel signs are marks, not letters
        ("  42 ... ", ""),
    ],
)
def test_normalise(transcript, normal):
    assert normalise(transcript) == normal


def test_vocabulary_is_the_characters_of_the_transcripts(tmp_path):
    processor = character_processor(["b a", "è'a"], Wav2Vec2FeatureExtractor())
    assert processor.tokenizer.get_vocab() == {"<pad>": 0, "<unk>": 1, "|": 2, "'": 3, "a": 4, "b": 5, "è": 6}
    assert processor.tokenizer.pad_token_id == 0
    assert processor.tokenizer("ab è").input_ids == [4, 5, 2, 6]
    assert processor.tokenizer("z").input_ids == [1]
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.tokenizer.decode([4, 4, 0, 4, 2, 6]) == "aa è"


def test_alignable_is_what_ctc_has_a_finite_loss_for():
    """Against torch: for every text of three letters, the loss is finite from exactly as many frames as we ask for."""
    config = HubertConfig(conv_dim=[4], conv_kernel=[10], conv_stride=[10], num_feat_extract_layers=1)
    for letters in itertools.product("ab", repeat=3):
        transcript = "".join(letters)
        targets = torch.tensor([[1 if letter == "a" else 2 for letter in transcript]])
        for frames in range(1, 7):
            scores = torch.zeros(frames, 1, 3).log_softmax(-1)
            loss = torch.nn.functional.ctc_loss(scores, targets, torch.tensor([frames]), torch.tensor([3]))
            reason = why_not_alignable(transcript, frames * 0.01, config, sampling_rate=1000, max_seconds=9)
            assert (reason is None) == bool(loss.isfinite()), (transcript, frames, reason)


def test_reasons():
    config = HubertConfig(conv_dim=[4], conv_kernel=[10], conv_stride=[10], num_feat_extract_layers=1)

    def reason(text, seconds):
        return why_not_alignable(text, seconds, config, sampling_rate=1000, max_seconds=2)

    assert "no letter" in reason("", 1)
    assert "2.5 s, longer than data.max_seconds (2)" in reason("a", 2.5)
    assert "2 frames" in reason("abc", 0.02)
    assert "'abc' needs 3" in reason("abc", 0.02)
