import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_ssl.data.tokenization import SPECIAL_TOKENS, TOKENIZERS, load_tokenizer, train_tokenizer
from hf_ssl.errors import InputError

PLAIN = """
import sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert "hf_ssl" not in sys.modules
print(tokenizer("Café au lait", "for two").input_ids)
"""


def texts():
    chooser = random.Random(0)
    words = ["".join(chooser.choice("abcdefghijkl") for _ in range(chooser.randint(2, 8))) for _ in range(400)]
    return [" ".join(chooser.choices(words, k=10)).capitalize() + ". Über den Café!" for _ in range(300)]


def train(kind, vocab_size=500, lowercase=True, corpus=None):
    return train_tokenizer(kind, corpus or texts(), vocab_size=vocab_size, lowercase=lowercase, max_length=64)


@pytest.fixture(scope="module")
def trained():
    return {kind: train(kind) for kind in TOKENIZERS}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pairs_have_berts_form(trained, kind):
    tokenizer = trained[kind]
    assert len(tokenizer) <= 500
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    pair = tokenizer("uber den", "cafe")
    first = tokenizer("uber den", add_special_tokens=False).input_ids
    second = tokenizer("cafe", add_special_tokens=False).input_ids
    assert pair.input_ids == [2, *first, 3, *second, 3]
    assert pair.token_type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.model_max_length == 64


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_lowercase_and_accents(trained, kind):
    assert trained[kind].tokenize("ÜBER CAFÉ") == trained[kind].tokenize("uber cafe")
    cased = train(kind, lowercase=False)
    assert cased.tokenize("Über den Café") != cased.tokenize("uber den cafe")
    assert cased.unk_token not in cased.tokenize("Über den Café")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_decodes_what_it_encodes(trained, kind):
    text = texts()[3].lower().replace("ü", "u").replace("é", "e")
    decoded = trained[kind].decode(trained[kind](text).input_ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_same_texts_give_the_same_tokenizer(trained, kind):
    """The libraries' own trainers number WordPiece's characters and order Unigram's pieces by chance."""
    for _ in range(3):
        assert train(kind).backend_tokenizer.to_str() == trained[kind].backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_saved_it_loads_without_hf_ssl(trained, kind, tmp_path):
    trained[kind].save_pretrained(tmp_path)
    result = subprocess.run([sys.executable, "-c", PLAIN, tmp_path], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(trained[kind]("Café au lait", "for two").input_ids)
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded.mask_token_id, loaded.pad_token_id, loaded.model_max_length) == (4, 0, 64)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_token_belongs_to_a_word(trained, kind):
    encoding = trained[kind]("uber den cafe", add_special_tokens=False)
    words = encoding.word_ids()
    assert sorted(set(words)) == [0, 1, 2]
    assert words == sorted(words)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_vocabulary_too_small_for_the_characters(kind):
    with pytest.raises(InputError, match=r"data\.vocab_size is 12, too small .*; give more than \d+"):
        train(kind, vocab_size=12)


def test_characters_that_the_texts_lack_are_unknown_except_for_bytes(trained):
    assert trained["wordpiece"].tokenize("東") == ["[UNK]"]
    assert trained["unigram"].unk_token_id in trained["unigram"]("東").input_ids
    assert trained["bpe"].unk_token_id not in trained["bpe"]("東").input_ids


def test_a_name_without_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"No tokenizer can be loaded from '.*nowhere'.*wordpiece, bpe, unigram"):
        load_tokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="wordpeice"):
        load_tokenizer("wordpeice")


@pytest.mark.parametrize(
    ("tokens", "missing"), [({"pad_token": "[PAD]"}, "mask"), ({"mask_token": "[MASK]"}, "padding")]
)
def test_a_tokenizer_without_the_tokens_that_are_needed(tokens, missing, tmp_path):
    vocab = {"[PAD]": 0, "[MASK]": 1, "a": 2}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocab, "[PAD]")), **tokens)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).tokenize("a") == ["a"]
    with pytest.raises(InputError, match=f"has no {missing} token"):
        load_tokenizer(str(tmp_path))
