import math

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.hypothesis import Hypothesis, Weights, ranked
from hf_ssl.evaluation.recognition.rescoring import CausalLM, rescored
from tests.evaluation.recognition.causal_lms import WORDS, make_causal_lm, make_tokenizer

TEXTS = ["the cat", "", "the cat sat down", "cat", "the cat", "dog down"]


@pytest.fixture
def model():
    return make_causal_lm()


def by_hand(model, tokens: list[int]) -> float:
    """Token after token, without batch and padding."""
    total = 0.0
    model.eval()
    for end in range(1, len(tokens)):
        with torch.no_grad():
            logits = model(torch.tensor([tokens[:end]])).logits[0, -1]
        total += logits.log_softmax(dim=-1)[tokens[end]].item()
    return total


@pytest.mark.parametrize(
    ("special", "first", "last"),
    [
        ({"eos_token": "<end>"}, 0, [0]),  # GPT-2: one token for both
        ({"bos_token": "<begin>", "eos_token": "<end>"}, 2, [0]),
        ({"bos_token": "<begin>"}, 2, []),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_text_has_the_probability_of_all_its_tokens(model, special, first, last, batch_size):
    lm = CausalLM(model.train(), make_tokenizer(**special), batch_size)
    numbers = {word: number for number, word in enumerate(WORDS)}
    expected = [by_hand(model, [first, *(numbers.get(word, 1) for word in text.split()), *last]) for text in TEXTS]
    assert lm.log_probabilities(TEXTS) == pytest.approx(expected, abs=1e-4)


def test_each_different_text_is_read_once(model):
    lm = CausalLM(model, make_tokenizer(eos_token="<end>"), batch_size=2)
    sizes = []
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True)
    lm.log_probabilities(TEXTS)
    assert sizes == [(2, 3), (2, 4), (1, 6)]  # by length: little padding


def test_lists_are_ordered_anew_by_all_parts(model):
    lm = CausalLM(model, make_tokenizer(eos_token="<end>"))
    lists = [
        [
            Hypothesis("the cat", score=-3.0, acoustic=-1.0, num_tokens=6, num_frames=9, ngram=-2.0),
            Hypothesis("cat", score=-3.5, acoustic=-1.5, num_tokens=3, num_frames=9, ngram=-2.0),
        ],
        [Hypothesis("", score=-4.0, acoustic=-4.0, num_tokens=0, num_frames=9)],
    ]
    found = rescored(lists, lm)
    assert [[h.text for h in list_] for list_ in found] == [["the cat", "cat"], [""]]
    assert [h.neural for list_ in found for h in list_] == pytest.approx(lm.log_probabilities(["the cat", "cat", ""]))
    weights = Weights(ngram=0.5, word=-0.25, neural=2.0)
    order = ranked(found[0], weights)
    expected = {h.text: h.acoustic - 1.0 + 2 * h.neural - 0.25 * len(h.text.split()) for h in found[0]}
    assert {h.text: h.score for h in order} == pytest.approx(expected)
    assert order[0].text == max(expected, key=expected.__getitem__)
    assert ranked(lists[0], Weights(word=-9.0))[0].text == "cat"


def test_a_saved_model_is_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    make_tokenizer(eos_token="<end>").save_pretrained(tmp_path)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast)
    expected = CausalLM(model, make_tokenizer(eos_token="<end>")).log_probabilities(["the cat"])
    assert CausalLM.load(str(tmp_path)).log_probabilities(["the cat"]) == pytest.approx(expected, abs=1e-5)
    assert all(map(math.isfinite, expected))


def test_what_cannot_be_scored(model, tmp_path):
    with pytest.raises(InputError, match="neither for the beginning nor for the end"):
        CausalLM(model, make_tokenizer())
    with pytest.raises(InputError, match="10 tokens .* longer than the 8"):
        CausalLM(model, make_tokenizer(eos_token="<end>")).log_probabilities(["cat " * 8])
    with pytest.raises(InputError, match="No causal language model can be loaded"):
        CausalLM.load(str(tmp_path / "nowhere"))
