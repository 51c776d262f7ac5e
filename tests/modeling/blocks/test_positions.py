import torch

from hf_ssl.modeling.blocks.positions import NOWHERE, positions_of, put_frames, take_frames, take_labels

MASK = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)


def test_positions_are_those_of_the_mask():
    assert positions_of(MASK).tolist() == [[1, 3, NOWHERE], [0, 1, 2], [NOWHERE] * 3]
    assert positions_of(torch.zeros(2, 5, dtype=torch.bool)).tolist() == [[NOWHERE], [NOWHERE]]


def test_frames_and_labels_at_the_positions_are_those_that_the_mask_chooses():
    positions = positions_of(MASK)
    frames, labels = torch.randn(3, 4, 5), torch.arange(12).view(3, 4)
    there = positions != NOWHERE
    assert torch.equal(take_frames(frames, positions)[there], frames[MASK])
    taken = take_labels(labels, positions, fill=-100)
    assert torch.equal(taken[there], labels[MASK])
    assert (taken[~there] == -100).all()


def test_frames_are_put_where_they_were_taken():
    positions = positions_of(MASK)
    frames = torch.randn(3, 4, 5)
    expected = frames * MASK[..., None]
    assert torch.equal(put_frames(take_frames(frames, positions), positions, 4), expected)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(put_frames(take_frames(frames, positions)[:, order], positions[:, order], 4), expected)
