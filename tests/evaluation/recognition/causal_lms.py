"""A tiny causal language model of seven words, with random weights."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

WORDS = ["<end>", "<unk>", "<begin>", "the", "cat", "sat", "down"]


def make_tokenizer(max_length: int = 8, **special: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", model_max_length=max_length, **special)


def make_causal_lm(max_length: int = 8) -> GPT2LMHeadModel:
    set_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(WORDS), n_positions=max_length, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
        )
    )
