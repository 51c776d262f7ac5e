"""Which tokens of a text are hidden, whole words or pieces at random up to a budget, and what stands for them."""

# B sequences, T tokens, W words of a sequence

import torch
from torch import Tensor

from hf_ssl.modeling.blocks.frames import IGNORED


def mask_tokens(
    batch: dict[str, Tensor],
    generators: list[torch.Generator],
    *,
    share: float,
    mask_token_id: int,
    vocab_size: int,
    mask_token_share: float = 0.8,
    random_token_share: float = 0.1,
    most: int | None = None,
    whole_words: bool = False,
) -> dict[str, Tensor]:
    """Choose the tokens to predict and hide them (Devlin et al. 2018, https://arxiv.org/abs/1810.04805, appendix A.1).

    Args:
        batch (`dict[str, Tensor]`): (B, T) each: `input_ids` and `attention_mask`; `special_tokens_mask`, true where a
            token must not be predicted (special tokens, padding); `word_starts`, true at the first token of a word.
        generators (`list[torch.Generator]`): one a row.
        share (`float`): of a sequence's tokens that are predicted; at least one is.
        mask_token_id (`int`): the token that stands for a hidden one.
        vocab_size (`int`): random tokens are below it.
        mask_token_share (`float`): of the predicted tokens, those that become the mask token.
        random_token_share (`float`): those that become a random token; the rest stay as they are.
        most (`int`, *optional*): the most tokens predicted of a sequence.
        whole_words (`bool`): hide all pieces of a word or none.

    Returns:
        `dict[str, Tensor]`: the batch with corrupted `input_ids` and with `labels` (B, T), the original tokens at the
        positions to predict and −100 elsewhere; without the two columns that only the drawing needs.
    """
    batch = dict(batch)
    input_ids, real = batch["input_ids"], batch["attention_mask"].bool()
    maskable, word_starts = ~batch.pop("special_tokens_mask").bool(), batch.pop("word_starts").bool()
    lengths = real.sum(dim=1)

    # Drawn for the real tokens only: what a row gets does not depend on how far its batch is padded.
    rows = list(zip(lengths.tolist(), generators, strict=True))
    noise = torch.zeros(*input_ids.shape, 2)
    noise[real] = torch.cat([torch.rand(length, 2, generator=generator) for length, generator in rows])
    random_ids = torch.zeros_like(input_ids)
    random_ids[real] = torch.cat([torch.randint(vocab_size, (n,), generator=g) for n, g in rows])

    # As in the reference, the share is of all tokens of the sequence, special ones included.
    budget = (lengths * share).round().long().clamp(min=1, max=most)
    masked = choose_words(noise[..., 0], word_starts & maskable if whole_words else maskable, maskable, budget)
    hidden = masked & (noise[..., 1] < mask_token_share)
    replaced = masked & ~hidden & (noise[..., 1] < mask_token_share + random_token_share)

    batch["labels"] = input_ids.masked_fill(~masked, IGNORED)
    batch["input_ids"] = torch.where(replaced, random_ids, input_ids.masked_fill(hidden, mask_token_id))
    return batch


def choose_words(priority: Tensor, starts: Tensor, maskable: Tensor, budget: Tensor) -> Tensor:
    """Take words in the order of their priority; one that no longer fits into the budget is passed over.

    Args:
        priority (`Tensor` of shape `(B, T)`): at the first token of a word, its place in the order.
        starts (`Tensor` of shape `(B, T)`): true at the first token of each word.
        maskable (`Tensor` of shape `(B, T)`): false for tokens that belong to no word.
        budget (`Tensor` of shape `(B,)`): the most tokens to take.

    Returns:
        `Tensor` of shape `(B, T)`: true for the tokens of the words taken.
    """
    word = (starts.cumsum(dim=1) - 1).clamp(min=0)  # (B, T): the number of each token's word
    sizes = torch.zeros_like(word).scatter_add(1, word, maskable.long())  # (B, W), zeros after the last word
    first = torch.full_like(priority, torch.inf).scatter_reduce(
        1, word, priority.masked_fill(~starts, torch.inf), reduce="amin"
    )
    order = first.argsort(dim=1, stable=True)  # (B, W): words by priority
    ordered_sizes = sizes.gather(1, order)
    taken = torch.zeros_like(maskable)
    left = budget.clone()
    for rank in range(int(starts.sum(dim=1).max())):
        size = ordered_sizes[:, rank]
        fits = size <= left
        left -= size * fits
        taken[:, rank] = fits
    taken = torch.zeros_like(maskable).scatter(1, order, taken)  # from priority order back to text order
    return taken.gather(1, word) & maskable
