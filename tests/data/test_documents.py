import pickle

import numpy as np
import pytest
from datasets import Dataset

from hf_ssl.data.documents import sentences_by_line, sentences_by_punctuation, tokenize_documents
from hf_ssl.data.tokenization import train_tokenizer

TEXTS = ["the cat sat\n\non the mat\n", "  \n", "a dog barked", "", "one\ntwo three\nfour"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("wordpiece", TEXTS * 5, vocab_size=60, lowercase=True, max_length=32)


@pytest.fixture(scope="module")
def documents(tokenizer):
    return tokenize_documents(Dataset.from_dict({"text": TEXTS}), tokenizer, sentences="lines", num_proc=1)


def test_sentences_by_line():
    assert sentences_by_line("one. two\n\n \nthree\r\nfour") == ["one. two", "three", "four"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ("3.14 is pi.", ["3.14 is pi."]),
        ("wrapped\nline. next", ["wrapped\nline.", "next"]),
        ("a title\n\nits text", ["a title", "its text"]),
        ("“Quoted.” (Aside.) End.", ["“Quoted.”", "(Aside.)", "End."]),
        ("第一句。第二句！第三", ["第一句。", "第二句！", "第三"]),
        (" \n\n ", []),
    ],
)
def test_sentences_by_punctuation(text, sentences):
    assert sentences_by_punctuation(text) == sentences


def test_documents_keep_their_sentences_and_empty_ones_are_left_out(documents, tokenizer):
    assert len(documents) == 3
    for document, text in enumerate([TEXTS[0], TEXTS[2], TEXTS[4]]):
        sentences = [tokenizer(line, add_special_tokens=False).input_ids for line in sentences_by_line(text)]
        limits = list(documents.sentence_bounds())[document]
        assert limits.tolist() == np.cumsum([0, *map(len, sentences)]).tolist()
        ids, _ = documents.tokens(document, 0, int(limits[-1]))
        assert ids.tolist() == [token for sentence in sentences for token in sentence]
        assert documents.tokens(document, 1, 3)[0].tolist() == ids[1:3].tolist()


def test_word_starts(documents, tokenizer):
    limits = list(documents.sentence_bounds())[2]
    ids, starts = documents.tokens(2, 0, int(limits[-1]))
    inner = [token.startswith("##") for token in tokenizer.convert_ids_to_tokens(ids)]
    assert any(inner), "the vocabulary is too large for this test"
    assert starts.tolist() == [not piece for piece in inner]


def test_workers_get_the_documents(documents):
    copy = pickle.loads(pickle.dumps(documents))
    assert copy.tokens(0, 0, 4)[0].tolist() == documents.tokens(0, 0, 4)[0].tolist()
