"""Numbers that KenLM's estimator gives, frozen.

Source: `lmplz -o 4` of kpu/kenlm, commit 4cb443e, with and without `--prune 0 0 1`, on the normalised definitions of
the sample `glosses`, split validation: log10 of probability and back-off weight, as written in its ARPA file.
"""

import pytest

from hf_ssl.data.arguments import TextDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.transcripts import normalise
from hf_ssl.evaluation.recognition.corpus import Corpus
from hf_ssl.evaluation.recognition.kneser_ney import count_ngrams, discounts_of, estimate

DISCOUNTS = [
    [0.650077, 1.02144, 1.80056],
    [0.826951, 1.30673, 1.46569],
    [0.924102, 1.39029, 1.70249],
    [0.93899, 1.48458, 1.70077],
]
COUNTS = {(): [6818, 22676, 28691, 27935], (0, 0, 1): [6818, 22676, 2447, 1186]}
NGRAMS = {
    (): {
        "<unk>": (-4.372804, 0.0),
        "</s>": (-1.0050935, 0.0),
        "the": (-1.9207413, -0.18090422),
        "of the": (-0.8523971, -0.11252979),
        "<s> a": (-0.6712553, -0.2197203),
        "of something </s>": (-0.30982515, 0.0),
        "<s> the act": (-1.9018046, -0.42353386),
        "<s> the act of": (-0.16164854, 0.0),
        "a member of the": (-0.2664837, 0.0),
        "of or relating to": (-0.010016979, 0.0),
    },
    (0, 0, 1): {
        "of the": (-0.8523971, -0.088453196),
        "<s> a": (-0.6712553, -0.20209864),
        "of something </s>": (-0.30129617, 0.0),
        "<s> the act": (-1.901578, -0.4136106),
        "<s> the act of": (-0.1589565, 0.0),
        "a member of the": (-0.26474783, 0.0),
    },
}
BEGINNING_BACKOFF = -0.57154  # of <s>, whose own probability is not used and differs between programs


@pytest.fixture(scope="module")
def corpus():
    texts = load_splits(TextDataArguments(path="sample:glosses"), "text")["validation"]["text"]
    return Corpus.of(filter(None, map(normalise, texts)))


def test_discounts(corpus):
    found = [discounts_of(grams.counts, k)[1:] for k, grams in enumerate(count_ngrams(corpus, 4), start=1)]
    for discounts, expected in zip(found, DISCOUNTS, strict=True):
        assert discounts == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prune", NGRAMS)
def test_the_model_is_lmplz_s(corpus, prune, tmp_path):
    estimate(corpus, 4, prune).save(tmp_path / "lm.arpa")
    lines = (tmp_path / "lm.arpa").read_text(encoding="utf-8").splitlines()
    assert [int(line.split("=")[1]) for line in lines if line.startswith("ngram ")] == COUNTS[prune]
    fields = [line.split("\t") for line in lines if "\t" in line]
    found = {words: (float(log), float(backoff[0]) if backoff else 0.0) for log, words, *backoff in fields}
    assert found["<s>"][1] == pytest.approx(BEGINNING_BACKOFF, abs=1e-5)
    for words, expected in NGRAMS[prune].items():
        assert found[words] == pytest.approx(expected, abs=1e-5), words
