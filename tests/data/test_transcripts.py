import itertools

import pytest
import torch
from transformers import AutoProcessor, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hf_ssl.data.transcripts import TranscriptForm, normalise, why_not_alignable

PHONES = TranscriptForm(unit="phones")


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
    assert TranscriptForm().clean(transcript) == normal


def test_without_normalising_all_characters_stay():
    form = TranscriptForm(normalise=False)
    assert form.clean("  Der Hund,\nder U\N{COMBINING DIAERESIS}ber 3 sprang! ") == "Der Hund, der Über 3 sprang!"
    assert form.clean(None) == ""
    assert form.tokenizer(["Aa", "a|1"]).get_vocab() == {"<pad>": 0, "<unk>": 1, "|": 2, "1": 3, "A": 4, "a": 5}


def test_phones_are_symbols_of_any_length():
    assert PHONES.clean(" AA1  t͡ʃ\ta: ") == "AA1 t͡ʃ a:"
    assert PHONES.units("AA1 t͡ʃ a:") == ["AA1", "t͡ʃ", "a:"]
    tokenizer = PHONES.tokenizer(["t a", "t͡ʃ AA1 a"])
    assert tokenizer.get_vocab() == {"<pad>": 0, "<unk>": 1, "AA1": 2, "a": 3, "t": 4, "t͡ʃ": 5}
    assert tokenizer("t͡ʃ t ʃ AA1").input_ids == [5, 4, 1, 2]


def test_descriptions_say_what_is_left():
    assert "lower-case" in TranscriptForm().description
    assert "all characters" in TranscriptForm(normalise=False).description
    assert "phones" in PHONES.description


@pytest.mark.parametrize(
    ("form", "spoken", "frames"),
    [(TranscriptForm(), "aa è", "aa_a|è"), (PHONES, "a a t͡ʃ", ["a", "<pad>", "a", "t͡ʃ", "t͡ʃ"])],
)
def test_a_saved_processor_reads_frames_as_ctc_does(tmp_path, form, spoken, frames):
    tokenizer = form.tokenizer([spoken])
    processor = Wav2Vec2Processor(feature_extractor=Wav2Vec2FeatureExtractor(), tokenizer=tokenizer)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path).tokenizer
    ids = again.convert_tokens_to_ids([frame.replace("_", "<pad>") for frame in frames])
    assert again.decode(ids) == spoken
    assert again.decode([0, 0]) == ""
    assert again(spoken).input_ids == tokenizer(spoken).input_ids


def test_vocabulary_is_the_characters_of_the_transcripts():
    tokenizer = TranscriptForm().tokenizer(["b a", "è'a"])
    assert tokenizer.get_vocab() == {"<pad>": 0, "<unk>": 1, "|": 2, "'": 3, "a": 4, "b": 5, "è": 6}
    assert tokenizer.pad_token_id == 0
    assert tokenizer("ab è").input_ids == [4, 5, 2, 6]
    assert tokenizer("z").input_ids == [1]


def test_alignable_is_what_ctc_has_a_finite_loss_for():
    """Against torch: for every text of three letters, the loss is finite from exactly as many frames as we ask for."""
    for letters in itertools.product("ab", repeat=3):
        targets = torch.tensor([[1 if letter == "a" else 2 for letter in letters]])
        for frames in range(1, 7):
            scores = torch.zeros(frames, 1, 3).log_softmax(-1)
            loss = torch.nn.functional.ctc_loss(scores, targets, torch.tensor([frames]), torch.tensor([3]))
            reason = why_not_alignable(list(letters), frames)
            assert (reason is None) == bool(loss.isfinite()), (letters, frames, reason)


def test_reasons():
    assert "nothing of its transcript is left" in why_not_alignable([], 9)
    assert why_not_alignable(["AA1", "t͡ʃ"], 1) == "it has 1 frames, and the 2 units of its transcript need 2"
