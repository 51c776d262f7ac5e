"""Texts to what a text objective is trained on: a tokenizer, packed sequences and batches of them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerFast

from hf_ssl.data.arguments import TextDataArguments
from hf_ssl.data.documents import tokenize_documents
from hf_ssl.data.full_sentences import FullSentences, pack_full_sentences
from hf_ssl.data.keyed import ItemKey, KeyedDataset
from hf_ssl.data.loading import load_splits
from hf_ssl.data.prepared import Batch, PreparedData
from hf_ssl.data.seeding import item_generator
from hf_ssl.data.sentence_pairs import IS_RANDOM, SentencePairs, pack_pairs
from hf_ssl.data.sequences import SpecialTokens
from hf_ssl.data.tokenization import TOKENIZERS, load_tokenizer, train_tokenizer
from hf_ssl.data.usable import check_needs_no_labels, usable
from hf_ssl.errors import InputError

logger = logging.getLogger(__name__)

MIN_USED, MAX_RANDOM = 0.5, 0.8
"""The share of the tokens, and that of random second segments, beyond which pairs are hardly worth learning from."""

Packed = SentencePairs | FullSentences


def prepare_text(args: TextDataArguments, *, seed: int, encoder: str | None) -> PreparedData:
    """Load texts, find their tokenizer, cut them into sequences.

    Args:
        args ([`TextDataArguments`]): the `data` section.
        seed (`int`): of the run.
        encoder (`str`, *optional*): the encoder that the run starts from, whose tokenizer is the default.

    Returns:
        [`PreparedData`]: items with `input_ids`, `token_type_ids`, `special_tokens_mask`, `word_starts` and, for
        pairs, `next_sentence_label`.

    Raises:
        InputError: for texts or a tokenizer that cannot be used.
    """
    check_needs_no_labels(args)
    splits = load_documents(args)
    num_items = sum(map(len, splits.values()))
    splits = usable(splits, "text", args)
    tokenizer = choose_tokenizer(args, splits["train"], encoder)
    train = pack(splits["train"], tokenizer, args, seed=seed, duplicates=args.duplicates)
    validation = None
    if "validation" in splits and (len(splits["validation"]) > 1 or not args.next_sentence):
        validation = KeyedDataset(pack(splits["validation"], tokenizer, args, seed=seed))
    elif "validation" in splits:
        logger.warning("The validation split is a single document, of which no pairs can be made: no validation loss.")
    return PreparedData(
        train=KeyedDataset(train),
        validation=validation,
        collator=TextCollator(pad_token_id=tokenizer.pad_token_id, seed=seed, dynamic_masking=args.dynamic_masking),
        processor=tokenizer,
        config_updates={
            "mask_token_id": tokenizer.mask_token_id,
            "next_sentence": args.next_sentence,
            "encoder_config": {
                "vocab_size": len(tokenizer),
                "pad_token_id": tokenizer.pad_token_id,
                "cls_token_id": tokenizer.cls_token_id,
                "sep_token_id": tokenizer.sep_token_id,
                "bos_token_id": tokenizer.cls_token_id,
                "eos_token_id": tokenizer.sep_token_id,
            },
        },
        lengths=train.lengths,
        num_skipped=num_items - sum(map(len, splits.values())),
    )


def load_documents(args: TextDataArguments) -> dict[str, Dataset]:
    """The training and, if there is one, the validation split.

    The whole corpus is needed before the first step, since segments are drawn from all of it: of a stream, the first
    `args.max_train_items` documents are read.
    """
    if args.streaming and args.max_train_items is None:
        raise InputError(
            "data.streaming=true reads only part of a corpus, and text must be told which; set data.max_train_items "
            "to a number of documents, or leave streaming out (tokens are kept on disk, not in memory)."
        )
    splits = load_splits(args, "text")
    chosen = {name: splits[name] for name in ("train", "validation") if name in splits}
    return {
        name: Dataset.from_list(list(split)) if isinstance(split, IterableDataset) else split
        for name, split in chosen.items()
    }


def choose_tokenizer(args: TextDataArguments, train: Dataset, encoder: str | None) -> PreTrainedTokenizerFast:
    """The tokenizer that `args.tokenizer` names or has trained; without it, the encoder's.

    A run that starts from an encoder trains none: the encoder's embeddings belong to its own.

    Raises:
        InputError: if neither names one, or it cannot be used.
    """
    if args.tokenizer in TOKENIZERS and encoder is None:
        return train_tokenizer(
            args.tokenizer,
            train["text"],
            vocab_size=args.vocab_size,
            lowercase=args.lowercase,
            max_length=args.max_length,
        )
    name = encoder if args.tokenizer in TOKENIZERS else args.tokenizer or encoder
    if name is None:
        raise InputError(
            f"The run names no tokenizer; set data.tokenizer to a folder or Hub name, or to {', '.join(TOKENIZERS)} "
            "to train one."
        )
    tokenizer = load_tokenizer(name)
    # The second stage of a training may be on longer sequences than the first; the encoder's positions set the limit.
    tokenizer.model_max_length = max(tokenizer.model_max_length, args.max_length)
    return tokenizer


def pack(
    dataset: Dataset, tokenizer: PreTrainedTokenizerFast, args: TextDataArguments, *, seed: int, duplicates: int = 1
) -> Packed:
    """Cut one split into sequences.

    Args:
        dataset (`Dataset`): one document a row, in the column `text`.
        tokenizer (`PreTrainedTokenizerFast`): cuts and surrounds them.
        args ([`TextDataArguments`]): `sentences`, `max_length`, `next_sentence` and what belongs to them.
        seed (`int`): of the run.
        duplicates (`int`): how many times to cut the split into pairs.

    Raises:
        InputError: if there is no text, or only one document where pairs need two.
    """
    documents = tokenize_documents(dataset, tokenizer, sentences=args.sentences, num_proc=args.num_proc)
    if not len(documents):
        raise InputError(f"The texts of {args.path} hold no words; give texts in the column {args.text_column!r}.")
    special, bounds = SpecialTokens.of(tokenizer), list(documents.sentence_bounds())
    if not args.next_sentence:
        runs = pack_full_sentences(bounds, num_tokens=args.max_length - special.num_in_single)
        return FullSentences(documents, runs, special)
    if len(bounds) == 1:
        raise InputError(
            f"A split of {args.path} is a single document, but next-sentence prediction takes every other segment "
            "from a different one; give one document a file (or row), or set data.next_sentence=false."
        )
    copies = [
        pack_pairs(
            bounds,
            num_tokens=args.max_length - special.num_in_pair,
            short_sequence_probability=args.short_sequence_probability,
            # Python's generator, since the many single draws would take ten times as long with torch's.
            random=Random(item_generator(seed, 0, copy).initial_seed()),
        )
        for copy in range(duplicates)
    ]
    pairs = SentencePairs(documents, np.concatenate(copies), special)
    _report_losses(pairs, sum(int(limits[-1]) for limits in bounds) * duplicates, args)
    return pairs


def _report_losses(pairs: SentencePairs, num_tokens: int, args: TextDataArguments) -> None:
    """Warns of sentences that do not fit into a segment, and of documents of one sentence, which has no next one."""
    used = sum(pairs.lengths) - len(pairs) * pairs.special.num_in_pair
    is_random = (pairs.pairs[:, -1] == IS_RANDOM).mean()
    if used < MIN_USED * num_tokens or is_random > MAX_RANDOM:
        logger.warning(
            "Of %d tokens the pairs use %.0f %%, and in %.0f %% of them the second segment is random: sentences are "
            "long for data.max_length=%d, or documents short. For running text set data.sentences=punctuation (now: "
            "%s), or data.next_sentence=false.",
            num_tokens,
            100 * used / num_tokens,
            100 * is_random,
            args.max_length,
            args.sentences,
        )


@dataclass
class TextCollator:
    """Pads sequences to the longest and lets the objective draw its masks.

    Args:
        pad_token_id (`int`): fills `input_ids`.
        seed (`int`): of the run.
        dynamic_masking (`bool`): whether an item is masked anew in each epoch, or always as in the first.
        pad_to_multiple_of (`int`): lengths are rounded up to it; 8 suits tensor cores.
        draw (`Callable`, *optional*): the objective's `draw_inputs`, with its config bound.

    Called with a list of items, gives tensors of shape (B, T): `input_ids`, `token_type_ids`, `attention_mask`,
    `special_tokens_mask` (true for padding, too) and `word_starts`; for pairs `next_sentence_label` (B,); and what
    `draw` makes of them.
    """

    pad_token_id: int
    seed: int
    dynamic_masking: bool = True
    pad_to_multiple_of: int = 1
    draw: Callable[[Batch, list[torch.Generator]], Batch] | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> Batch:  # noqa: D102 - described by the class
        longest = max(len(example["input_ids"]) for example in examples)
        shape = (len(examples), -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of)
        batch: Batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "token_type_ids": torch.zeros(shape, dtype=torch.long),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "special_tokens_mask": torch.ones(shape, dtype=torch.bool),
            "word_starts": torch.zeros(shape, dtype=torch.bool),
        }
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            batch["attention_mask"][row, :length] = 1
            for name in ("input_ids", "token_type_ids", "special_tokens_mask", "word_starts"):
                batch[name][row, :length] = torch.from_numpy(example[name])
        if "next_sentence_label" in examples[0]:
            batch["next_sentence_label"] = torch.tensor([example["next_sentence_label"] for example in examples])
        generators = [self._generator(example["key"]) for example in examples]
        return self.draw(batch, generators) if self.draw else batch

    def _generator(self, key: ItemKey) -> torch.Generator:
        return item_generator(self.seed, key.epoch if self.dynamic_masking else 0, key.index)
