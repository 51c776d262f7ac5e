import numpy as np

from hf_ssl.data.full_sentences import pack_full_sentences


def bounds(*documents):
    return [np.concatenate([[0], np.cumsum(sizes)]) for sizes in documents]


def test_sentences_stay_whole_and_documents_cost_a_separator():
    runs = pack_full_sentences(bounds([3, 4], [2], [5, 1]), num_tokens=10)
    assert runs.tolist() == [[0, 0, 1, 2, 10], [2, 0, 2, 6, 6]]


def test_a_run_may_span_many_documents():
    runs = pack_full_sentences(bounds(*[[1]] * 6), num_tokens=5)
    assert runs.tolist() == [[0, 0, 2, 1, 5], [3, 0, 5, 1, 5]]


def test_a_sentence_longer_than_a_run_is_cut():
    runs = pack_full_sentences(bounds([25], [2]), num_tokens=10)
    assert runs.tolist() == [[0, 0, 0, 10, 10], [0, 10, 0, 20, 10], [0, 20, 1, 2, 8]]


def test_every_token_is_in_one_run():
    random = np.random.default_rng(0)
    corpus = bounds(*(random.integers(1, 30, size=random.integers(1, 20)) for _ in range(100)))
    covered = [np.zeros(limits[-1], dtype=int) for limits in corpus]
    for first, start, last, end, size in pack_full_sentences(corpus, num_tokens=40).tolist():
        tokens = 0
        for document in range(first, last + 1):
            part = slice(start if document == first else 0, end if document == last else None)
            covered[document][part] += 1
            tokens += len(covered[document][part])
        assert tokens + last - first == size <= 40
    assert all((tokens == 1).all() for tokens in covered)
