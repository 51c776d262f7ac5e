import math

import pytest
import torch
from transformers import (
    AlbertConfig,
    BertConfig,
    BertForPreTraining,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.text.bert import IGNORED, BertPreTrainingConfig, BertPreTrainingModel
from tests.tiny import TINY

VOCAB_SIZE, MASK = 200, 4
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def bert(**fields):
    encoder = BertConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=512, **SIZES)
    return BertPreTrainingConfig(encoder_config=encoder, mask_token_id=MASK, **fields)


def text_batch(num_rows, length, *, real=None, word_length=1):
    """[CLS] tokens [SEP] padding; words of `word_length` tokens."""
    real = torch.full((num_rows,), length) if real is None else torch.as_tensor(real)
    positions = torch.arange(length)
    attention_mask = (positions < real[:, None]).long()
    special = (attention_mask == 0) | (positions == 0) | (positions == real[:, None] - 1)
    ids = torch.randint(5, VOCAB_SIZE, (num_rows, length), generator=item_generator(1, 0, 0))
    return {
        "input_ids": ids.masked_fill(special, 2) * attention_mask,
        "attention_mask": attention_mask,
        "special_tokens_mask": special,
        "word_starts": ((positions - 1) % word_length == 0) & ~special,
    }


def draw(config, batch, seed=0):
    generators = [item_generator(seed, 0, row) for row in range(len(batch["input_ids"]))]
    return BertPreTrainingModel.draw_inputs(config, batch, generators)


# The loss


def test_loss_is_the_mean_over_masked_tokens_plus_the_mean_over_pairs():
    model, batch = TINY["bert"]()
    output = model.eval()(**batch)

    encoder_inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    encoded = model.encoder(**encoder_inputs)
    dense, norm = model.cls.predictions.transform.dense, model.cls.predictions.transform.LayerNorm
    embeddings = model.encoder.embeddings.word_embeddings.weight
    mlm, nsp = [], []
    for row in range(len(batch["labels"])):
        for position, label in enumerate(batch["labels"][row].tolist()):
            if label == IGNORED:
                continue
            h = dense(encoded.last_hidden_state[row, position])
            h = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))  # GELU
            h = (h - h.mean()) / torch.sqrt(h.var(unbiased=False) + 1e-12) * norm.weight + norm.bias
            scores = embeddings @ h + model.cls.predictions.decoder.bias
            mlm.append(torch.logsumexp(scores, 0) - scores[label])
        pooled = torch.tanh(model.encoder.pooler.dense(encoded.last_hidden_state[row, 0]))
        scores = model.cls.seq_relationship(pooled)
        nsp.append(torch.logsumexp(scores, 0) - scores[batch["next_sentence_label"][row]])

    torch.testing.assert_close(output.loss_terms["mlm"], sum(mlm) / len(mlm))
    torch.testing.assert_close(output.loss_terms["nsp"], sum(nsp) / len(nsp))
    torch.testing.assert_close(output.loss, output.loss_terms["mlm"] + output.loss_terms["nsp"])
    assert output.num_predictions == {"mlm": len(mlm), "nsp": len(nsp)}
    assert output.logits.shape == (len(mlm), 64)
    assert output.targets.tolist() == batch["labels"][batch["labels"] != IGNORED].tolist()


def test_equals_transformers_bert_for_pretraining():
    reference = BertForPreTraining(BertConfig(vocab_size=VOCAB_SIZE, **SIZES)).eval()
    model = BertPreTrainingModel(bert()).eval()
    weights = {
        key.replace("bert.", "encoder.", 1) if key.startswith("bert.") else key: value
        for key, value in reference.state_dict().items()
        if key != "cls.predictions.bias"  # tied to that of the decoder
    }
    model.load_state_dict(weights)

    batch = draw(model.config, text_batch(6, 20, real=[20, 20, 9, 14, 5, 20]))
    batch["token_type_ids"] = (torch.arange(20) > 7).long().expand(6, -1)
    batch["next_sentence_label"] = torch.tensor([0, 1, 1, 0, 1, 0])
    ours, theirs = model(**batch).loss, reference(**batch).loss
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    theirs_by_name = dict(reference.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters():
        theirs_name = name.replace("encoder.", "bert.", 1) if name.startswith("encoder.") else name
        torch.testing.assert_close(parameter.grad, theirs_by_name[theirs_name].grad, msg=name)


def test_without_next_sentence_there_is_one_term_and_nothing_untrained():
    model = BertPreTrainingModel(bert(next_sentence=False))
    batch = draw(model.config, text_batch(4, 16))
    output = model(**batch, next_sentence_label=torch.zeros(4, dtype=torch.long))
    assert output.loss_terms.keys() == {"mlm"}
    output.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.encoder.pooler is None


@pytest.mark.parametrize("model_type", ["vit", "gpt2", "t5"])
def test_an_encoder_that_does_not_read_from_both_sides(model_type):
    with pytest.raises(InputError, match=f"'{model_type}' does not read a text from both sides"):
        BertPreTrainingConfig(encoder_config={"model_type": model_type}, mask_token_id=MASK)


def test_the_mask_token_of_the_vocabulary():
    assert BertPreTrainingConfig().mask_token_id == 103
    with pytest.raises(InputError, match="mask token of a 'roberta' vocabulary is not known; give mask_token_id"):
        BertPreTrainingConfig(encoder_config={"model_type": "roberta"})
    with pytest.raises(InputError, match="mask_token_id is 200, but the encoder's vocab_size 200"):
        BertPreTrainingConfig(encoder_config=BertConfig(vocab_size=VOCAB_SIZE), mask_token_id=200)


def test_next_sentence_without_a_label_says_what_to_do():
    model = BertPreTrainingModel(bert())
    with pytest.raises(InputError, match=r"next_sentence_label.*data\.next_sentence=true"):
        model(**draw(model.config, text_batch(2, 16)))


def test_a_sequence_longer_than_the_positions_says_what_to_do():
    model = BertPreTrainingModel(bert(next_sentence=False))
    batch = draw(model.config, text_batch(1, 513))
    with pytest.raises(InputError, match=r"513 tokens.*512 positions.*data\.max_length"):
        model(**batch)


def test_roberta_counts_its_positions_from_after_the_paddings():
    roberta = RobertaConfig(**SIZES, vocab_size=VOCAB_SIZE, max_position_embeddings=34, pad_token_id=1)
    model = BertPreTrainingModel(
        BertPreTrainingConfig(encoder_config=roberta, mask_token_id=MASK, next_sentence=False)
    )
    assert torch.isfinite(model(**draw(model.config, text_batch(1, 32))).loss)
    with pytest.raises(InputError, match=r"33 tokens.*32 positions"):
        model(**draw(model.config, text_batch(1, 33)))


def test_a_micro_batch_without_predictions_adds_nothing():
    model = BertPreTrainingModel(bert(next_sentence=False))
    batch = draw(model.config, text_batch(2, 16))
    batch["labels"].fill_(IGNORED)
    assert model(**batch).loss.item() == 0
    assert model(**batch, num_items_in_batch={"mlm": torch.tensor(5)}).loss.item() == 0


@pytest.mark.parametrize(
    ("encoder", "embeddings", "pooler"),
    [
        (RobertaConfig(vocab_size=VOCAB_SIZE, type_vocab_size=1, **SIZES), "embeddings.word_embeddings", True),
        (ElectraConfig(vocab_size=VOCAB_SIZE, embedding_size=16, **SIZES), "embeddings.word_embeddings", False),
        (AlbertConfig(vocab_size=VOCAB_SIZE, embedding_size=16, **SIZES), "embeddings.word_embeddings", True),
        (
            DistilBertConfig(vocab_size=VOCAB_SIZE, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
            "embeddings.word_embeddings",
            False,
        ),
        (ModernBertConfig(vocab_size=VOCAB_SIZE, pad_token_id=0, **SIZES), "embeddings.tok_embeddings", False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_other_encoders(encoder, embeddings, pooler, tmp_path):
    model = BertPreTrainingModel(BertPreTrainingConfig(encoder_config=encoder, mask_token_id=MASK))
    batch = draw(model.config, text_batch(4, 16))
    batch["token_type_ids"] = (torch.arange(16) > 7).long().expand(4, -1)
    model(**batch, next_sentence_label=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.cls.predictions.decoder.weight is model.encoder.get_submodule(embeddings).weight
    assert (model.cls.pooler is None) == pooler
    model.save_pretrained(tmp_path)
    loaded = BertPreTrainingModel.from_pretrained(tmp_path)
    assert loaded.cls.predictions.decoder.weight is loaded.encoder.get_submodule(embeddings).weight


# Tied weights


def test_tied_embeddings_survive_saving_and_resizing(tmp_path):
    model = BertPreTrainingModel(bert())
    model.resize_token_embeddings(VOCAB_SIZE + 8)
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight.normal_()
    model.save_pretrained(tmp_path)
    loaded, report = BertPreTrainingModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert loaded.cls.predictions.decoder.weight is loaded.encoder.embeddings.word_embeddings.weight
    assert loaded.cls.predictions.decoder.weight.shape == (VOCAB_SIZE + 8, 32)
    assert loaded.cls.predictions.decoder.bias.shape == (VOCAB_SIZE + 8,)
    assert torch.equal(loaded.cls.predictions.decoder.weight, model.cls.predictions.decoder.weight)


def test_exported_encoder_has_the_trained_pooler(tmp_path):
    model = BertPreTrainingModel(bert())
    model.export_encoder(tmp_path)
    plain, report = BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert torch.equal(plain.pooler.dense.weight, model.encoder.pooler.dense.weight)


# Masking


def test_fifteen_percent_are_masked_80_10_10():
    config, batch = bert(), text_batch(400, 100)
    drawn = draw(config, batch)
    masked = drawn["labels"] != IGNORED
    assert (masked.sum(1) == 15).all()  # of 100 tokens, special ones counted
    assert torch.equal(drawn["labels"][masked], batch["input_ids"][masked])
    assert torch.equal(drawn["input_ids"][~masked], batch["input_ids"][~masked])
    hidden = drawn["input_ids"][masked] == MASK
    kept = drawn["input_ids"][masked] == batch["input_ids"][masked]
    assert hidden.float().mean() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean() == pytest.approx(0.1 + 0.1 / VOCAB_SIZE, abs=0.015)
    random = drawn["input_ids"][masked][~hidden & ~kept]
    assert random.float().mean() == pytest.approx((VOCAB_SIZE - 1) / 2, rel=0.1)
    assert random.max() < VOCAB_SIZE
    every_position = masked.float().mean(0)[1:-1]
    assert every_position == pytest.approx(torch.full((98,), 15 / 98), abs=0.09)


def test_special_tokens_and_padding_are_never_masked():
    batch = text_batch(200, 30, real=torch.arange(200) % 26 + 5)
    drawn = draw(bert(mlm_probability=0.9), batch)
    assert not ((drawn["labels"] != IGNORED) & batch["special_tokens_mask"]).any()
    assert not {"special_tokens_mask", "word_starts"} & drawn.keys()
    maskable = (~batch["special_tokens_mask"]).sum(1)
    wanted = (batch["attention_mask"].sum(1) * 0.9).round()
    assert torch.equal((drawn["labels"] != IGNORED).sum(1), torch.minimum(maskable, wanted.long()))


def test_at_least_one_and_at_most_the_limit():
    assert ((draw(bert(), text_batch(50, 3))["labels"] != IGNORED).sum(1) == 1).all()
    limited = draw(bert(max_predictions_per_sequence=20), text_batch(20, 400))
    assert ((limited["labels"] != IGNORED).sum(1) == 20).all()


@pytest.mark.parametrize("word_length", [2, 3])
def test_whole_words_are_masked_or_none_of_them(word_length):
    batch = text_batch(300, 62, word_length=word_length)
    masked = draw(bert(whole_word_mask=True), batch)["labels"] != IGNORED
    assert (masked.sum(1) <= 9).all()
    assert (masked.sum(1) == 9 // word_length * word_length).all()
    word = batch["word_starts"].cumsum(1)[:, 1:-1]
    for row in range(300):
        sizes = torch.bincount(word[row], weights=masked[row, 1:-1].float())
        of_word = torch.bincount(word[row])
        assert ((sizes == 0) | (sizes == of_word)).all()


def test_a_word_that_does_not_fit_is_passed_over_for_a_shorter_one():
    """One word of six tokens and six of one; two of twelve tokens may be masked, never the long word."""
    batch = text_batch(100, 14)
    batch["word_starts"][:, 2:7] = False
    masked = draw(bert(whole_word_mask=True), batch)["labels"] != IGNORED
    assert not masked[:, 1:7].any()
    assert (masked.sum(1) == 2).all()


def test_a_row_does_not_depend_on_its_batch():
    config, batch = bert(whole_word_mask=True), text_batch(8, 40, real=[40, 12, 25, 40, 33, 8, 19, 27], word_length=2)
    together = draw(config, batch)
    for row in range(8):
        length = int(batch["attention_mask"][row].sum())
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        drawn = BertPreTrainingModel.draw_inputs(config, alone, [item_generator(0, 0, row)])
        assert torch.equal(drawn["input_ids"][0], together["input_ids"][row, :length])
        assert torch.equal(drawn["labels"][0], together["labels"][row, :length])


def test_drawing_leaves_the_global_generator_and_the_batch_alone():
    batch = text_batch(4, 20)
    before = {name: value.clone() for name, value in batch.items()}
    state = torch.get_rng_state()
    draw(bert(), batch)
    assert torch.equal(state, torch.get_rng_state())
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[name], before[name]) for name in batch)


# The config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mlm_probability": 0.0}, r"mlm_probability is 0\.0"),
        ({"mlm_probability": 15}, "mlm_probability is 15"),
        ({"mask_token_share": 0.95}, r"mask_token_share is 0\.95 and random_token_share 0\.1"),
        ({"max_predictions_per_sequence": 0}, "max_predictions_per_sequence is 0"),
    ],
)
def test_values_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        bert(**fields)


def test_config_keeps_its_values(tmp_path):
    config = bert(mlm_probability=0.2, whole_word_mask=True, max_predictions_per_sequence=20, next_sentence=False)
    config.save_pretrained(tmp_path)
    loaded = BertPreTrainingConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.encoder_config.model_type == "bert"
