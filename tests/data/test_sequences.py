import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_ssl.data.sequences import SpecialTokens
from hf_ssl.data.tokenization import train_tokenizer


def roberta_like():
    """`<s> A </s></s> B </s>`, one token type."""
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, sep_token="</s>", cls_token="<s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def bert_like():
    return train_tokenizer("wordpiece", ["a b c"] * 4, vocab_size=20, lowercase=True, max_length=32)


def tokens(*ids, starts=None):
    return np.array(ids, dtype=np.int32), np.ones(len(ids), dtype=bool) if starts is None else np.array(starts)


def test_special_tokens_are_read_off_the_tokenizer(bert_like):
    assert SpecialTokens.of(bert_like) == SpecialTokens([2], [3], [3], 3, (0, 1))
    roberta = SpecialTokens.of(roberta_like())
    assert roberta == SpecialTokens([0], [2, 2], [2], 2, (0, 0))
    assert (roberta.num_in_pair, roberta.num_in_single) == (4, 2)


def test_pair(bert_like):
    pair = SpecialTokens.of(bert_like).join_pair(tokens(7, 8), tokens(9, 10, 11, starts=[True, False, True]))
    assert pair["input_ids"].tolist() == [2, 7, 8, 3, 9, 10, 11, 3]
    assert pair["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert pair["special_tokens_mask"].tolist() == [True, False, False, True, False, False, False, True]
    assert pair["word_starts"].tolist() == [False, True, True, False, True, False, True, False]


def test_what_is_left_of_a_word_at_a_cut_is_a_word_of_its_own(bert_like):
    pair = SpecialTokens.of(bert_like).join_pair(tokens(7, 8), tokens(9, 10, starts=[False, False]))
    assert pair["word_starts"].tolist() == [False, True, True, False, True, False, False]


def test_run_of_documents(bert_like):
    run = SpecialTokens.of(bert_like).join_documents([tokens(7), tokens(8, 9)])
    assert run["input_ids"].tolist() == [2, 7, 3, 8, 9, 3]
    assert run["token_type_ids"].tolist() == [0] * 6
    assert run["special_tokens_mask"].tolist() == [True, False, True, False, False, True]


def test_the_longest_pair_of_the_reference_form_encodes_as_the_tokenizer_does(bert_like):
    ids = [bert_like("a b", add_special_tokens=False).input_ids, bert_like("c", add_special_tokens=False).input_ids]
    pair = SpecialTokens.of(bert_like).join_pair(tokens(*ids[0]), tokens(*ids[1]))
    expected = bert_like("a b", "c")
    assert pair["input_ids"].tolist() == expected.input_ids
    assert pair["token_type_ids"].tolist() == expected.token_type_ids
