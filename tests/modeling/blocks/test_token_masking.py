import torch

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.token_masking import choose_words


def choose_in_a_loop(priority, starts, maskable, budget):
    """Words of one row in the order of their priority; what no longer fits is passed over."""
    words = []
    for position in range(len(priority)):
        if starts[position]:
            words.append([position])
        elif maskable[position]:
            words[-1].append(position)
    taken = []
    for word in sorted(words, key=lambda word: priority[word[0]].item()):
        if len(taken) + len(word) <= budget:
            taken += word
    return [position in taken for position in range(len(priority))]


def test_equals_a_loop_over_words():
    draw = item_generator(0, 0, 0)
    rows, length = 60, 24
    maskable = torch.rand(rows, length, generator=draw) < 0.8
    starts = maskable & (torch.rand(rows, length, generator=draw) < 0.5)
    starts |= maskable & (maskable.cumsum(1) == 1)  # the first maskable token starts a word
    priority = torch.rand(rows, length, generator=draw)
    budget = torch.randint(0, 9, (rows,), generator=draw)
    chosen = choose_words(priority, starts, maskable, budget)
    for row in range(rows):
        expected = choose_in_a_loop(priority[row], starts[row], maskable[row], int(budget[row]))
        assert chosen[row].tolist() == expected, row


def test_a_row_without_words_gets_nothing():
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    some = torch.ones(2, 5, dtype=torch.bool) & torch.tensor([[False], [True]])
    chosen = choose_words(torch.rand(2, 5), some, some, torch.tensor([3, 3]))
    assert torch.equal(chosen[0], nothing[0])
    assert chosen[1].sum() == 3
