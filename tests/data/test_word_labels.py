import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_ssl.data.word_labels import WordLabelCollator

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sun", "rain", "##y", "##s", "day"]


@pytest.fixture
def tokenizer():
    inner = Tokenizer(models.WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def test_a_class_stands_at_the_first_token_of_its_word(tokenizer):
    batch = WordLabelCollator(tokenizer=tokenizer)(
        [
            {"text": ["sun", "suns", "rainys", "day"], "label": [5, 6, 7, 8]},
            {"text": ["sun", "sun"], "label": [3, 4]},
        ]
    )
    assert batch["input_ids"].tolist() == [[2, 4, 4, 7, 5, 6, 7, 8, 3], [2, 4, 4, 3, 0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [
        [-100, 5, 6, -100, 7, -100, -100, 8, -100],
        [-100, 3, 4, -100, -100, -100, -100, -100, -100],
    ]
    assert batch["attention_mask"][1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_words_beyond_the_limit_have_no_class(tokenizer):
    batch = WordLabelCollator(tokenizer=tokenizer, max_length=4)(
        [{"text": ["sun", "suns", "day"], "label": [5, 6, 7]}]
    )
    assert batch["labels"].tolist() == [[-100, 5, 6, -100]]
