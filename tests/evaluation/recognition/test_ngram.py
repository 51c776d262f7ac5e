"""The n-gram model against the definitions, word by word."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from hf_ssl.errors import InputError
from hf_ssl.evaluation.recognition.corpus import BEGINNING, Corpus
from hf_ssl.evaluation.recognition.kneser_ney import FALLBACK_DISCOUNTS, estimate
from hf_ssl.evaluation.recognition.ngram import perplexity, read_words

SENTENCES = ["a b c", "a b", "b a c a", "c", "a b c a b", "a a b", "b b", "c a c a b"]


class NaiveKneserNey:
    """Chen & Goodman's modified interpolated Kneser-Ney from dictionaries of tuples."""

    def __init__(self, sentences: list[str], order: int, limits: list[int]) -> None:
        texts = [("<s>", *sentence.split(), "</s>") for sentence in sentences]
        self.order, self.limits = order, limits
        self.vocabulary = [*sorted({word for text in texts for word in text} - {"<s>"}), "<unk>"]
        self.raw = Counter(
            text[start : start + k]
            for text in texts
            for k in range(1, order + 1)
            for start in range(len(text) - k + 1)
        )
        before = defaultdict(set)
        for gram in self.raw:
            before[gram[1:]].add(gram[0])
        self.counts = {
            gram: count if len(gram) == order or gram[0] == "<s>" else len(before[gram])
            for gram, count in self.raw.items()
            if gram != ("<s>",)
        }

    def discount(self, gram: tuple[str, ...]) -> float:
        n = Counter(count for other, count in self.counts.items() if len(other) == len(gram))
        j = min(self.counts[gram], 3)
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            all_d = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
            if all(0 <= d <= i for i, d in enumerate(all_d, start=1)):
                return all_d[j - 1]
        return FALLBACK_DISCOUNTS[j - 1]

    def is_kept(self, gram: tuple[str, ...]) -> bool:
        return self.raw[gram] > self.limits[len(gram) - 1]

    def probability(self, word: str, history: tuple[str, ...]) -> float:
        history = history[-(self.order - 1) :] if self.order > 1 else ()
        after = [gram for gram in self.counts if gram[:-1] == history]
        shorter = self.probability(word, history[1:]) if history else 1 / len(self.vocabulary)
        if not after:
            return shorter
        total = sum(self.counts[gram] for gram in after)
        explained = {gram: self.counts[gram] - self.discount(gram) for gram in after if self.is_kept(gram)}
        left = 1 - sum(explained.values()) / total
        return explained.get((*history, word), 0.0) / total + left * shorter


def as_corpus(words: list[str], *sentences: tuple[str, ...]) -> Corpus:
    """Sentences of any words, those of boundaries among them."""
    tokens = [words.index(word) for sentence in sentences for word in ("<s>", *sentence)]
    return Corpus(np.array(tokens, dtype=np.int32), words)


@pytest.mark.parametrize(
    ("order", "prune"), [(1, []), (2, []), (3, []), (4, []), (3, [0, 0, 1]), (3, [0, 1]), (4, [0, 0, 1, 1])]
)
def test_every_probability_is_the_papers(order, prune):
    model = estimate(Corpus.of(SENTENCES), order, prune)
    naive = NaiveKneserNey(SENTENCES, order, prune + [prune[-1] if prune else 0] * (order - len(prune)))
    inner = [word for word in naive.vocabulary if word != "</s>"]
    histories = [h for k in range(max(order, 2)) for h in itertools.product(inner, repeat=k)]
    for history in histories:
        asked = as_corpus(model.words, *((*history, word) for word in naive.vocabulary))
        found = np.exp(model.log_probabilities(asked).reshape(len(naive.vocabulary), -1)[:, -1])
        expected = [naive.probability(word, ("<s>", *history)) for word in naive.vocabulary]
        np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=str(history))
        assert found.sum() == pytest.approx(1)


def test_the_beginning_of_a_sentence_is_given():
    model = estimate(Corpus.of(SENTENCES), 3)
    corpus = Corpus.of(SENTENCES)
    assert (model.log_probabilities(corpus)[corpus.tokens == BEGINNING] == 0).all()


def test_perplexity_counts_ends_and_leaves_unknown_words_out():
    model = estimate(Corpus.of(SENTENCES), 2)
    naive = NaiveKneserNey(SENTENCES, 2, [0, 0])
    result = perplexity(model, Corpus.in_words(["a z b"], model.words))
    steps = [("a", "<s>"), ("<unk>", "a"), ("b", "<unk>"), ("</s>", "b")]
    logs = {word: math.log(naive.probability(word, (history,))) for word, history in steps}
    assert (result.num_tokens, result.num_unknown) == (4, 1)
    assert result.with_unknown == pytest.approx(math.exp(-sum(logs.values()) / 4))
    assert result.value == pytest.approx(math.exp(-(sum(logs.values()) - logs["<unk>"]) / 3))


@pytest.mark.parametrize("prune", [[], [0, 0, 1]])
def test_kenlm_reads_the_file_and_agrees(tmp_path, prune):
    pytest.importorskip("flashlight.lib.text")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    model = estimate(Corpus.of(SENTENCES), 3, prune)
    model.save(tmp_path / "folder" / "lm.arpa")
    words = read_words(tmp_path / "folder" / "lm.arpa")
    assert words == ["a", "b", "c"]
    kenlm = KenLM(str(tmp_path / "folder" / "lm.arpa"), Dictionary([*words, "z"]))
    for sentence in ("a b c", "c c z a", ""):
        state, logs = kenlm.start(False), []
        for word in sentence.split():
            state, log = kenlm.score(state, [*words, "z"].index(word))
            logs.append(log * math.log(10))
        logs.append(kenlm.finish(state)[1] * math.log(10))
        ours = model.log_probabilities(Corpus.in_words([sentence], model.words))
        assert logs == pytest.approx(ours[1:].tolist(), abs=1e-4)


def test_the_arpa_file(tmp_path):
    estimate(Corpus.of(["a b", "a"]), 2).save(tmp_path / "lm.arpa")
    lines = (tmp_path / "lm.arpa").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["\\data\\", "ngram 1=5", "ngram 2=4"]
    assert lines[-1] == "\\end\\"
    assert any(line.startswith("-99\t<s>\t") for line in lines)
    bigrams = lines[lines.index("\\2-grams:") + 1 : -2]
    assert [line.split("\t")[1] for line in bigrams] == ["<s> a", "a </s>", "a b", "b </s>"]
    assert all(len(line.split("\t")) == 2 for line in bigrams)


@pytest.mark.parametrize("prune", [[1], [0, 2, 1], [0, 0, 0, 0]])
def test_thresholds_that_orphan_n_grams_are_refused(prune):
    with pytest.raises(InputError, match="non-decreasing"):
        estimate(Corpus.of(SENTENCES), 3, prune)


@pytest.mark.parametrize(("order", "prune"), [(9, []), (3, [0, 0, 9])])
def test_an_order_without_n_grams_is_refused(order, prune):
    with pytest.raises(InputError, match="lower the order or the pruning thresholds"):
        estimate(Corpus.of(SENTENCES), order, prune)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\n", "no ARPA file"),
        (b"\\data\\\nngram 1=2\n\\1-grams:\n-1\ta\n", "no ARPA file"),
        (b"mmap lm http://kheafield.com/code format version 5\n", "binary of KenLM"),
        (None, "There is no language model"),
    ],
)
def test_what_is_no_arpa_file(tmp_path, content, message):
    if content is not None:
        (tmp_path / "lm").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_words(tmp_path / "lm")
