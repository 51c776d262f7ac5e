"""BERT: predict masked tokens from both sides, and whether one segment follows another."""

# B sequences, T tokens, M masked tokens of the batch, D hidden, V vocabulary

import inspect
from collections import OrderedDict
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pooling import pool
from hf_ssl.modeling.blocks.pretrained import SSLConfig, SSLPreTrainedModel
from hf_ssl.modeling.blocks.token_masking import mask_tokens

PUBLISHED_MASK_TOKEN_ID = 103
IGNORED = -100
"""The label of a position that is not predicted."""


@strict
class BertPreTrainingConfig(SSLConfig):
    """Masked language modelling, with next-sentence prediction or without, on any text encoder.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): BERT by default; RoBERTa, ELECTRA, DistilBERT, … any
            encoder that reads a text from both sides.
        mask_token_id (`int`, *optional*): the token that stands for a hidden one, `tokenizer.mask_token_id`. Only of a
            BERT encoder it is known: 103 in the published vocabularies.
        mlm_probability (`float`): share of a sequence's tokens that are predicted.
        mask_token_share (`float`): share of the predicted tokens that the encoder sees as the mask token.
        random_token_share (`float`): share that it sees as a random token; it sees the rest as they are.
        max_predictions_per_sequence (`int`, *optional*): the most tokens predicted of one sequence (the paper: 20 of
            128); no limit by default, since a limit lowers the share for longer sequences.
        whole_word_mask (`bool`): hide all pieces of a word or none.
        next_sentence (`bool`): also predict whether the second segment follows the first.
        initializer_range (`float`): standard deviation of the heads' initial weights.
        tie_word_embeddings (`bool`): whether the output layer's weights are the token embeddings.

    Raises:
        InputError: for values out of range, or an encoder that does not read a text from both sides.
    """

    model_type = "bert-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    mask_token_id: int | None = None
    mlm_probability: float | int = 0.15
    mask_token_share: float | int = 0.8
    random_token_share: float | int = 0.1
    max_predictions_per_sequence: int | None = None
    whole_word_mask: bool = False
    next_sentence: bool = True
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check_encoder()
        if not 0 < self.mlm_probability <= 1:
            raise InputError(f"mlm_probability is {self.mlm_probability}; give a share above 0 and at most 1.")
        if min(self.mask_token_share, self.random_token_share) < 0 or (
            self.mask_token_share + self.random_token_share > 1
        ):
            raise InputError(
                f"mask_token_share is {self.mask_token_share} and random_token_share {self.random_token_share}; "
                "give two shares whose sum is at most 1."
            )
        if self.max_predictions_per_sequence is not None and self.max_predictions_per_sequence < 1:
            raise InputError(
                f"max_predictions_per_sequence is {self.max_predictions_per_sequence}; "
                "give at least 1, or leave it out."
            )

    def _check_encoder(self) -> None:
        encoder = self.encoder_config
        assert isinstance(encoder, PreTrainedConfig)
        causal = encoder.is_encoder_decoder or getattr(encoder, "is_decoder", False)
        if type(encoder) not in MODEL_FOR_MASKED_LM_MAPPING or causal:
            raise InputError(
                f"The encoder '{encoder.model_type}' does not read a text from both sides; BERT needs one that does "
                "(bert, roberta, electra, albert, distilbert, mpnet, deberta-v2, modernbert)."
            )
        if self.mask_token_id is None and encoder.model_type == "bert":
            self.mask_token_id = PUBLISHED_MASK_TOKEN_ID
        if self.mask_token_id is None:
            raise InputError(
                f"The mask token of a '{encoder.model_type}' vocabulary is not known; give mask_token_id, the "
                "tokenizer's."
            )
        if not 0 <= self.mask_token_id < encoder.vocab_size:
            raise InputError(
                f"mask_token_id is {self.mask_token_id}, but the encoder's vocab_size {encoder.vocab_size}; give the "
                "tokenizer's mask_token_id."
            )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Where transformers looks for the vocabulary's size, and sets it when the token embeddings are resized."""
        return self.encoder_config


class MaskedTokenHead(nn.Module):
    """The vocabulary's scores at a masked position: dense → GELU → LayerNorm → decoder."""

    def __init__(self, hidden_size: int, embedding_size: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(
            OrderedDict(
                dense=nn.Linear(hidden_size, embedding_size),
                activation=nn.GELU(),
                LayerNorm=nn.LayerNorm(embedding_size, eps=1e-12),
            )
        )
        self.decoder = nn.Linear(embedding_size, vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(M, D) to (M, V)."""
        return self.decoder(self.transform(hidden))


class FirstTokenPooler(nn.Module):
    """BERT's pooling layer, for encoders that have none."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        return torch.tanh(self.dense(hidden[:, 0]))


class PreTrainingHeads(nn.Module):
    """The heads of BERT, under the names that transformers gives them."""

    def __init__(self, config: BertPreTrainingConfig, encoder: PreTrainedModel) -> None:
        super().__init__()
        hidden_size, embeddings = encoder.config.hidden_size, encoder.get_input_embeddings()
        self.predictions = MaskedTokenHead(hidden_size, embeddings.embedding_dim, embeddings.num_embeddings)
        self.pooler: nn.Module | None = None
        if config.next_sentence:
            if "pooler" not in dict(encoder.named_children()):
                self.pooler = FirstTokenPooler(hidden_size)
            self.seq_relationship = nn.Linear(hidden_size, 2)


class BertPreTrainingModel(SSLPreTrainedModel):
    """A text encoder that learns to fill masked tokens in and to tell a following segment from a random one.

    loss = −mean_{masked i} log p(x_i | x̃) − mean_{pairs} log p(is_next | x̃)

    Devlin, Chang, Lee, Toutanova 2018, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.1–A.2; masks are
    drawn as `create_pretraining_data.py` of google-research/bert draws them. The model bears its config's name,
    because `BertForPreTraining` is the class of transformers with the same weights: they have the same names there,
    with `bert.` for `encoder.` (and `cls.predictions.bias` for `cls.predictions.decoder.bias`).

    Deviations: initial weights are normal, as in transformers, and not truncated normal; an encoder without segment
    embeddings tells the segments apart by the separator alone.
    """

    config: BertPreTrainingConfig
    main_input_name = "input_ids"

    def __init__(self, config: BertPreTrainingConfig) -> None:
        super().__init__(config)
        self.cls = PreTrainingHeads(config, self.encoder)
        self._tied_weights_keys = {"cls.predictions.decoder.weight": f"{self._name_of_embeddings()}.weight"}
        architecture = self.encoder.config.to_dict()
        self.max_length = num_positions(self.encoder)
        self.takes_segments = (
            "token_type_ids" in inspect.signature(self.encoder.forward).parameters
            # RoBERTa takes segment ids, but has an embedding for the first segment only.
            and architecture.get("type_vocab_size", 0) > 1
        )
        self.post_init()

    @property
    def needs_pooler(self) -> bool:  # type: ignore[override]
        """Next-sentence prediction trains the encoder's pooling layer, so that the exported encoder has it."""
        return self.config.next_sentence

    def _name_of_embeddings(self) -> str:
        embeddings = self.encoder.get_input_embeddings()
        return next(name for name, module in self.named_modules() if module is embeddings)

    def get_output_embeddings(self) -> nn.Module:
        """The output layer over the vocabulary."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output layer (when the vocabulary is resized)."""
        self.cls.predictions.decoder = new_embeddings

    @staticmethod
    def draw_inputs(config: Any, batch: dict[str, Tensor], generators: list[torch.Generator]) -> dict[str, Tensor]:
        """Choose the tokens to predict and hide them (appendix A.1).

        Args:
            config ([`BertPreTrainingConfig`]): the shares, the limit and `whole_word_mask`.
            batch (`dict[str, Tensor]`): (B, T) each: `input_ids` and `attention_mask`; `special_tokens_mask`, true
                where a token must not be predicted (special tokens, padding); `word_starts`, true at the first token
                of a word.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: the batch with corrupted `input_ids` and with `labels` (B, T), the original tokens at
            the positions to predict and -100 elsewhere; without the two columns that only the drawing needs.
        """
        return mask_tokens(
            batch,
            generators,
            share=config.mlm_probability,
            mask_token_id=config.mask_token_id,
            vocab_size=config.encoder_config.vocab_size,
            mask_token_share=config.mask_token_share,
            random_token_share=config.random_token_share,
            most=config.max_predictions_per_sequence,
            whole_words=config.whole_word_mask,
        )

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`mlm`: masked tokens; `nsp`: sequences with a next-sentence label."""
        counts = {"mlm": (batch["labels"] != IGNORED).sum()}
        if "next_sentence_label" in batch:
            counts["nsp"] = (batch["next_sentence_label"] != IGNORED).sum()
        return counts

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch made by `draw_inputs`.

        Args:
            input_ids (`Tensor` of shape `(B, T)`): tokens, some of them hidden or replaced.
            labels (`Tensor` of shape `(B, T)`): the original token where it is to be predicted, -100 elsewhere.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens, 0 for padding.
            token_type_ids (`Tensor` of shape `(B, T)`, *optional*): 0 in the first segment, 1 in the second.
            next_sentence_label (`Tensor` of shape `(B,)`, *optional*): 0 if the second segment follows the first, 1
                if it is random, -100 to leave the pair out. Not used with `next_sentence=False`.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisors of the two terms; this batch's own
                counts by default.
            return_loss (`bool`): there is always a loss; the parameter tells the trainer so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: loss terms `mlm` and `nsp` in nats; `logits` (M, V) and `targets` (M,) of the masked tokens;
            `features` (B, D), the mean over each sequence's tokens.

        Raises:
            InputError: when the next sentence is to be predicted and the batch has no label for it, or a sequence is
                longer than the encoder's positions.
        """
        encoded = self._encode(input_ids, attention_mask, token_type_ids, **kwargs)
        hidden = encoded.last_hidden_state  # (B, T, D)

        masked = labels != IGNORED
        logits, targets = self.cls.predictions(hidden[masked]), labels[masked]  # (M, V), (M,)
        sums = {"mlm": cross_entropy(logits.float(), targets, reduction="sum")}
        counts = {"mlm": masked.sum()}
        if self.config.next_sentence:
            if next_sentence_label is None:
                raise InputError(
                    "The batch has no next_sentence_label; prepare the data as pairs (data.next_sentence=true) "
                    "or set model.next_sentence=false."
                )
            pooled = encoded.pooler_output if self.cls.pooler is None else self.cls.pooler(hidden)  # (B, D)
            scores = self.cls.seq_relationship(pooled).float()  # (B, 2)
            sums["nsp"] = cross_entropy(scores, next_sentence_label, reduction="sum", ignore_index=IGNORED)
            counts["nsp"] = (next_sentence_label != IGNORED).sum()

        # A micro-batch may hold no prediction: its sum is 0 then, and so must be its share of the loss.
        divisors = num_items_in_batch or {name: count.clamp(min=1) for name, count in counts.items()}
        terms = {name: total / divisors[name] for name, total in sums.items()}
        return SSLOutput(
            loss=torch.stack(list(terms.values())).sum(),
            loss_terms={name: term.detach() for name, term in terms.items()},
            num_predictions=counts,
            logits=logits,
            targets=targets,
            features=pool(hidden.detach(), "mean", attention_mask),
            hidden_states=encoded.hidden_states,
            attentions=encoded.get("attentions"),
        )

    def _encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None, **kwargs: Any
    ) -> ModelOutput:
        if self.max_length is not None and input_ids.shape[1] > self.max_length:
            raise InputError(
                f"A sequence has {input_ids.shape[1]} tokens, but the encoder only {self.max_length} positions; lower "
                "data.max_length, or raise model.encoder_config.max_position_embeddings."
            )
        segments = {"token_type_ids": token_type_ids} if self.takes_segments else {}
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments, **kwargs)


def num_positions(encoder: PreTrainedModel) -> int | None:
    """The tokens of the longest sequence that an encoder takes, as far as its config says so."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1  # RoBERTa's family counts from after the padding's
    return encoder.config.to_dict().get("max_position_embeddings")
