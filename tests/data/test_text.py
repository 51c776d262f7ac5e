import pickle
from functools import partial

import pytest
import torch
from transformers import AutoTokenizer, BertConfig

from hf_ssl.data.arguments import TextDataArguments
from hf_ssl.data.keyed import ItemKey
from hf_ssl.data.text import TextCollator, prepare_text
from hf_ssl.errors import InputError
from hf_ssl.modeling.text.bert import IGNORED, BertPreTrainingConfig, BertPreTrainingModel

WORDS = ["red", "green", "blue", "small", "large", "house", "tree", "river", "stone", "bird", "fish", "walks", "sings"]


def document(number, num_sentences=8):
    choose = torch.Generator().manual_seed(number)
    picks = torch.randint(len(WORDS), (num_sentences, 6), generator=choose).tolist()
    return "\n".join(" ".join(WORDS[i] for i in sentence) for sentence in picks)


@pytest.fixture
def folder(tmp_path):
    for split, numbers in {"train": range(30), "validation": range(30, 36)}.items():
        (tmp_path / "texts" / split).mkdir(parents=True)
        for number in numbers:
            (tmp_path / "texts" / split / f"{number}.txt").write_text(document(number), encoding="utf-8")
    return tmp_path / "texts"


def prepare(folder, *, seed=0, encoder=None, **fields):
    args = {"tokenizer": "wordpiece", "vocab_size": 120, "max_length": 32, "sentences": "lines", **fields}
    return prepare_text(TextDataArguments(path=str(folder), **args), seed=seed, encoder=encoder)


def with_draw(prepared):
    config = BertPreTrainingConfig(
        encoder_config=BertConfig(**prepared.config_updates["encoder_config"]),
        mask_token_id=prepared.config_updates["mask_token_id"],
    )
    prepared.collator.draw = partial(BertPreTrainingModel.draw_inputs, config)
    return prepared


def items(prepared, epoch, indices):
    return [prepared.train[ItemKey(epoch, index)] for index in indices]


def test_a_file_is_a_document_and_its_pairs_decode_to_its_sentences(folder):
    prepared = prepare(folder)
    tokenizer = prepared.processor
    lines = {line for number in range(30) for line in document(number).splitlines()}
    whole = 0
    for index in range(len(prepared.train)):
        item = prepared.train[index]
        text = tokenizer.decode(item["input_ids"])
        assert text.startswith("[CLS] ")
        assert text.count("[SEP]") == 2
        assert len(item["input_ids"]) <= 32
        assert prepared.lengths[index] == len(item["input_ids"])
        first = text.removeprefix("[CLS] ").split(" [SEP]")[0]
        whole += first in lines
    assert whole > 0
    assert len(prepared.validation) > 0
    assert prepared.config_updates == {
        "mask_token_id": 4,
        "next_sentence": True,
        "encoder_config": {
            "vocab_size": len(tokenizer),
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    }


def test_full_sentences_without_next_sentence_prediction(folder):
    prepared = prepare(folder, next_sentence=False, max_length=48)
    batch = prepared.collator(items(prepared, 0, range(8)))
    assert "next_sentence_label" not in batch
    assert (batch["token_type_ids"] == 0).all()
    assert prepared.config_updates["next_sentence"] is False
    tokens = sum(len(document(number).split()) for number in range(30))
    assert (
        sum((~item["special_tokens_mask"]).sum() for item in items(prepared, 0, range(len(prepared.train)))) >= tokens
    )
    assert [len(item["input_ids"]) for item in items(prepared, 0, range(8))] == prepared.lengths[:8]


def test_batches_are_padded_to_their_longest(folder):
    prepared = prepare(folder)
    examples = items(prepared, 0, range(12))
    batch = prepared.collator(examples)
    longest = max(len(example["input_ids"]) for example in examples)
    assert {tuple(value.shape) for value in batch.values() if value.dim() == 2} == {(12, longest)}
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == example["input_ids"].tolist()
        assert (batch["input_ids"][row, length:] == 0).all()
        assert batch["attention_mask"][row].sum() == length
        assert batch["special_tokens_mask"][row, length:].all()
        assert batch["next_sentence_label"][row] == example["next_sentence_label"]
    rounded = TextCollator(pad_token_id=0, seed=0, pad_to_multiple_of=8)(examples)
    assert rounded["input_ids"].shape[1] % 8 == 0


def test_masks_are_new_in_each_epoch_or_never(folder):
    dynamic, static = with_draw(prepare(folder)), with_draw(prepare(folder, dynamic_masking=False))

    def labels(prepared, epoch):
        return prepared.collator(items(prepared, epoch, range(6)))["labels"]

    assert torch.equal(labels(dynamic, 0), labels(dynamic, 0))
    assert not torch.equal(labels(dynamic, 0), labels(dynamic, 1))
    assert torch.equal(labels(static, 0), labels(static, 1))
    assert torch.equal(labels(static, 0), labels(dynamic, 0))


def test_an_item_is_masked_alike_in_every_batch(folder):
    prepared = with_draw(prepare(folder))
    alone = prepared.collator(items(prepared, 2, [5]))
    beside = prepared.collator(items(prepared, 2, [9, 5, 1]))
    length = alone["input_ids"].shape[1]
    assert torch.equal(alone["labels"][0], beside["labels"][1, :length])
    assert torch.equal(alone["input_ids"][0], beside["input_ids"][1, :length])


def test_the_model_takes_the_batch(folder):
    prepared = with_draw(prepare(folder))
    encoder = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        **prepared.config_updates["encoder_config"],
    )
    model = BertPreTrainingModel(BertPreTrainingConfig(encoder_config=encoder, mask_token_id=4))
    batch = prepared.collator(items(prepared, 0, range(4)))
    assert (batch["labels"] != IGNORED).any(dim=1).all()
    assert torch.isfinite(model(**batch).loss)


def test_seed_and_duplicates(folder):
    def pairs(**fields):
        return prepare(folder, **fields).train.dataset.pairs.tolist()

    once = pairs()
    assert pairs() == once
    assert pairs(seed=1) != once
    twice = pairs(duplicates=2)
    assert twice[: len(once)] == once
    assert len(twice) > 1.7 * len(once)
    assert twice[len(once) :] != once


def test_collator_and_items_go_to_workers(folder):
    prepared = with_draw(prepare(folder))
    collator, train = pickle.loads(pickle.dumps((prepared.collator, prepared.train)))
    there = collator([train[ItemKey(1, 3)]])
    here = prepared.collator([prepared.train[ItemKey(1, 3)]])
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_trained_tokenizer_can_be_given_to_the_next_run(folder, tmp_path):
    first = prepare(folder)
    first.processor.save_pretrained(tmp_path / "encoder")
    for again in (
        prepare(folder, tokenizer=str(tmp_path / "encoder")),
        prepare(folder, tokenizer=None, encoder=str(tmp_path / "encoder")),
        prepare(folder, tokenizer="bpe", encoder=str(tmp_path / "encoder")),
    ):
        assert again.processor.get_vocab() == first.processor.get_vocab()
        assert again.train[0]["input_ids"].tolist() == first.train[0]["input_ids"].tolist()
    assert AutoTokenizer.from_pretrained(tmp_path / "encoder").model_max_length == 32
    longer = prepare(folder, tokenizer=str(tmp_path / "encoder"), max_length=48)
    assert longer.processor.model_max_length == 48
    assert max(longer.lengths) == 48


def test_sentences_by_punctuation(folder, tmp_path, caplog):
    (tmp_path / "prose").mkdir()
    for number in range(12):
        (tmp_path / "prose" / f"{number}.txt").write_text(document(number).replace("\n", ". "), encoding="utf-8")
    with caplog.at_level("WARNING"):
        by_lines = prepare(tmp_path / "prose")
    assert "in 100 % of them the second segment is random" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING"):
        by_marks = prepare(tmp_path / "prose", sentences="punctuation")
    assert "second segment" not in caplog.text
    assert {item["next_sentence_label"] for item in map(by_lines.train.__getitem__, range(len(by_lines.train)))} == {1}
    assert {item["next_sentence_label"] for item in map(by_marks.train.__getitem__, range(len(by_marks.train)))} == {
        0,
        1,
    }


# Bad input


def test_one_document_has_no_other_to_draw_from(tmp_path):
    (tmp_path / "book.txt").write_text(document(0, 40), encoding="utf-8")
    with pytest.raises(InputError, match=r"single document.*data\.next_sentence=false"):
        prepare(tmp_path, validation_split=None)
    assert len(prepare(tmp_path, validation_split=None, next_sentence=False).train) > 1


def test_one_validation_document_is_left_out_and_said(tmp_path, caplog):
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(document(number), encoding="utf-8")
    assert prepare(tmp_path).validation is None
    assert "no validation loss" in caplog.text
    assert len(prepare(tmp_path, next_sentence=False).validation) > 0


def test_texts_without_words(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(InputError, match="None of the 2 items can be used"):
        prepare(tmp_path, validation_split=None)


def test_no_tokenizer(folder):
    with pytest.raises(InputError, match=r"names no tokenizer; set data\.tokenizer"):
        prepare(folder, tokenizer=None)


def test_a_stream_needs_an_end(folder):
    with pytest.raises(InputError, match=r"data\.streaming=true .* set data\.max_train_items"):
        prepare(folder, streaming=True)


def test_a_stream_is_read_up_to_its_end():
    prepared = prepare("sample:wordnet_documents", streaming=True, max_train_items=20, vocab_size=400)
    assert len(prepared.train.dataset.documents) == 20
