"""Which tokens of a text are hidden: whole words, at random, up to a budget."""

# B sequences, T tokens, W words of a sequence

import torch
from torch import Tensor


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
