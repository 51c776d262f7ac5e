"""Where prompts start from."""

import math

import pytest
import torch
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.tuners.soft_prompt import SoftPromptConfig
from hf_ssl.tuners.soft_prompt.initialisation import uniform_bound
from tests.families import TEXT
from tests.tuners.soft_prompt.tiny import prompts_of, tiny

WORDS = ["good", "bad", "fun", "##ny"]


@pytest.fixture
def tokenizer(tmp_path):
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {word: 10 + i for i, word in enumerate(WORDS)}
    word_piece = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    word_piece.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=word_piece, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return str(folder)


def started(name="bert", model=None, **fields):
    """The starting prompts, and the model."""
    model = model or tiny(name)[0]
    return prompts_of(get_peft_model(model, SoftPromptConfig(**fields))), model


def embed(model, input_ids):
    """Each token alone, as the first layer gets it: normalised, with the first position."""
    with torch.no_grad():
        return model.bert.embeddings(input_ids[:, None])[:, 0]


def test_random_prompts_are_drawn_as_in_vpt():
    assert uniform_bound(ViTConfig()) == math.sqrt(6 / (3 * 16 * 16 + 768))
    (prompt,), _ = started("vit", num_tokens=500)
    bound = math.sqrt(6 / (3 * 8 * 8 + 16))
    assert 0.99 * bound < prompt.abs().max() <= bound
    assert prompt.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_encoders_without_patches():
    model, _ = tiny("wav2vec2")
    assert uniform_bound(model.config) == math.sqrt(6 / (16 + 16))
    model, _ = tiny("audio-spectrogram-transformer")
    assert uniform_bound(model.config) == math.sqrt(6 / (16 * 16 + 16))


def test_words(tokenizer):
    (prompt,), model = started(num_tokens=2, init="words", init_words=["good", "bad"], tokenizer=tokenizer)
    torch.testing.assert_close(prompt[0], embed(model, torch.tensor([10, 11])))


def test_a_word_of_two_tokens_is_their_mean(tokenizer):
    (prompt,), model = started(num_tokens=1, init="words", init_words=["funny"], tokenizer=tokenizer)
    mean = model.get_input_embeddings().weight[[12, 13]].mean(0)
    with torch.no_grad():
        expected = model.bert.embeddings(inputs_embeds=mean[None, None])[0]
    torch.testing.assert_close(prompt[0], expected)


def test_class_names_and_drawn_tokens(tokenizer):
    model, _ = tiny("bert")
    model.config.id2label = {0: "good", 1: "bad", 2: "funny"}
    (prompt,), _ = started(model=model, num_tokens=5, init="classes", tokenizer=tokenizer)
    torch.testing.assert_close(prompt[0, :2], embed(model, torch.tensor([10, 11])))
    distances = torch.cdist(prompt[0, 3:], embed(model, torch.arange(40)))
    assert (distances.min(dim=1).values < 1e-2).all()


def test_drawn_tokens_differ_and_follow_the_seed():
    torch.manual_seed(3)
    vectors = [started(num_tokens=40, init="vocabulary")[0][0][0] for _ in range(2)]
    assert torch.equal(*vectors)  # `tiny` sets the seed
    model, _ = tiny("bert")
    tokens = torch.cdist(vectors[0], embed(model, torch.arange(40))).argmin(dim=1)
    assert tokens.sort().values.tolist() == list(range(40))


def test_centres_of_clusters():
    model, _ = tiny("bert")
    centres = 5 * torch.eye(16)[:4]
    table = centres.repeat_interleave(10, dim=0) + 0.01 * torch.randn(40, 16)
    model.get_input_embeddings().weight.data.copy_(table)
    (prompt,), _ = started(model=model, num_tokens=4, init="kmeans")
    with torch.no_grad():
        expected = model.bert.embeddings(inputs_embeds=table.view(4, 10, 16).mean(dim=1)[:, None])[:, 0]
    distances = torch.cdist(prompt[0], expected)
    assert distances.argmin(dim=1).sort().values.tolist() == [0, 1, 2, 3]
    assert distances.min(dim=1).values.max() < 1e-3


def test_deep_prompts_start_from_activations():
    prompts, model = started(num_tokens=40, init="vocabulary", deep=True)
    for layer in model.bert.encoder.layer:
        layer.enable_adapters(False)
    with torch.no_grad():
        states = model.bert(torch.arange(40)[:, None], output_hidden_states=True).hidden_states
    tokens = torch.cdist(prompts[0][0], states[0][:, 0]).argmin(dim=1)
    torch.testing.assert_close(prompts[1][0], states[1][tokens, 0])


@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@pytest.mark.parametrize("name", sorted(TEXT))
def test_every_text_encoder_starts_from_its_vocabulary(name, deep):
    drawn, model = started(name, num_tokens=4, init="vocabulary", deep=deep)
    random, _ = started(name, num_tokens=4, deep=deep)
    assert [p.shape for p in drawn] == [p.shape for p in random]
    assert all(p.isfinite().all() for p in drawn)
    assert not any(map(torch.equal, drawn, random))
    assert not model.training
    assert all(not m.disable_adapters for m in model.modules() if hasattr(m, "soft_prompt_embeddings"))


def test_what_is_loaded_does_not_start_anew(tmp_path, tokenizer):
    model, _ = tiny("bert")
    config = SoftPromptConfig(num_tokens=2, init="words", init_words=["good", "bad"], tokenizer=tokenizer)
    trained = get_peft_model(model, config)
    prompts_of(trained)[0].data.zero_()
    trained.save_pretrained(tmp_path / "adapter")
    assert not config.initialised  # another model starts from the same words
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    for is_trainable in (False, True):
        loaded = PeftModel.from_pretrained(tiny("bert")[0], tmp_path / "adapter", is_trainable=is_trainable)
        assert not prompts_of(loaded)[0].any()
        assert loaded.peft_config["default"].init_words == ["good", "bad"]
    with pytest.raises(InputError, match="There is no tokenizer in"):
        get_peft_model(tiny("bert")[0], config)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vit", {"init": "vocabulary"}, "init is 'vocabulary', but a vit encoder reads no words"),
        ("wav2vec2", {"init": "kmeans"}, "init is 'kmeans', but a wav2vec2 encoder reads no words"),
        ("bert", {"init": "classes"}, "give the model's config an id2label"),
        ("bert", {"init": "vocabulary", "num_tokens": 41}, "the vocabulary has 40"),
        ("bert", {"init": "words", "init_words": ["good", "bad"], "num_tokens": 1}, "start from 2 words"),
    ],
)
def test_a_start_that_is_not_to_be_had_is_refused(name, fields, message):
    with pytest.raises(InputError, match=message):
        started(name, **fields)


def test_words_without_tokens_are_refused(tokenizer):
    with pytest.raises(InputError, match="' ' has no token"):
        started(num_tokens=1, init="words", init_words=[" "], tokenizer=tokenizer)
