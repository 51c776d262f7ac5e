"""How probable a causal language model finds the transcripts of an n-best list."""

# B texts, T tokens

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_ssl.errors import InputError
from hf_ssl.evaluation.features import frozen
from hf_ssl.evaluation.recognition.hypothesis import Hypothesis
from hf_ssl.modeling.blocks.frames import IGNORED


@dataclass
class CausalLM:
    """The ln P of texts under any causal language model of transformers.

    It is the sum over the text's tokens and the end of the text, given the beginning: the whole text's probability,
    not the mean over tokens, so that longer texts are less probable. [`Weights.word`] makes up for that, as with
    n-gram models. The model reads transcripts as they are, without capitals and full stops.

    Args:
        model (`PreTrainedModel`): used on the device that it is on.
        tokenizer (`PreTrainedTokenizerBase`): with a token for the beginning or the end of a text.
        batch_size (`int`): texts at once.

    Raises:
        InputError: for a tokenizer with neither token.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.tokenizer.bos_token_id is None and self.tokenizer.eos_token_id is None:
            raise InputError(
                f"The tokenizer of {self.model.name_or_path} has a token neither for the beginning nor for the end of "
                "a text, without which the first word has no probability; take another causal language model."
            )

    @classmethod
    def load(cls, name_or_path: str, device: str | torch.device = "cpu") -> "CausalLM":
        """A published model, or one of one's own.

        Raises:
            InputError: when there is none, or it has no tokenizer.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
            model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype="auto").to(device)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise InputError(
                f"No causal language model can be loaded from {name_or_path} ({reason}); give one that "
                "AutoModelForCausalLM and AutoTokenizer load."
            ) from error
        return cls(model, tokenizer)

    def log_probabilities(self, texts: Sequence[str]) -> list[float]:
        """The ln P of each text, which may be empty.

        Raises:
            InputError: for a text of more tokens than the model reads.
        """
        different = list(dict.fromkeys(texts))
        tokens = {text: self._tokens(text) for text in different}
        order = sorted(different, key=lambda text: len(tokens[text]))
        scores: dict[str, float] = {}
        with frozen(self.model), tqdm(total=len(order), desc="Rescoring", leave=False, disable=None) as progress:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                scores |= zip(batch, self._score([tokens[text] for text in batch]), strict=True)
                progress.update(len(batch))
        return [scores[text] for text in texts]

    def _tokens(self, text: str) -> Tensor:
        beginning, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        inside = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = [end if beginning is None else beginning, *inside, *([] if end is None else [end])]
        limit = self.tokenizer.model_max_length
        if len(tokens) > limit:
            raise InputError(
                f"A transcript of {len(tokens)} tokens ({text[:40]!r} ...) is longer than the {limit} that "
                f"{self.model.name_or_path} reads; take another causal language model."
            )
        return torch.tensor(tokens)

    def _score(self, tokens: Sequence[Tensor]) -> list[float]:
        inputs = pad_sequence(list(tokens), batch_first=True)  # (B, T); what pads is never looked at
        lengths = torch.tensor([len(row) for row in tokens])
        mask = torch.arange(inputs.shape[1]) < lengths[:, None]
        targets = inputs.masked_fill(~mask, IGNORED)[:, 1:].to(self.model.device)
        output = self.model(
            input_ids=inputs.to(self.model.device), attention_mask=mask.long().to(self.model.device), use_cache=False
        )
        logits = output.logits[:, :-1].float()
        losses = cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")  # (B, T - 1)
        return (-losses.double().sum(dim=1)).tolist()


def rescored(lists: Sequence[Sequence[Hypothesis]], lm: CausalLM) -> list[list[Hypothesis]]:
    """The n-best lists with each hypothesis's `neural` score; orders and scores stay, see [`ranked`].

    Args:
        lists (`Sequence[Sequence[Hypothesis]]`): of each recording.
        lm ([`CausalLM`]): the language model.
    """
    scores = iter(lm.log_probabilities([hypothesis.text for list_ in lists for hypothesis in list_]))
    return [[replace(hypothesis, neural=next(scores)) for hypothesis in list_] for list_ in lists]
