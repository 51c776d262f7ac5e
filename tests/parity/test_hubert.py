"""Numbers that the authors' code gives, frozen.

Source: `HubertModel.compute_nce` of fairseq, models/hubert/hubert.py, commit 3d262bb, and the cross entropy of
`HubertCriterion` over it, run with torch 2.13.0 on the same input.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hf_ssl.modeling.blocks.codebook import cosine_logits
from tests.parity.inputs import wave

SUM = 132.248672
FRAMES = [6.724337, 12.490252, 17.517616, 16.308567, 10.755870, 0.383713]  # the first six of twelve


def test_the_loss_of_each_frame_is_the_contrastive_one() -> None:
    frames, codebook = wave(12, 5, phase=0.1), wave(7, 5, phase=1.3)
    targets = 3 * torch.arange(12) % 7
    losses = cross_entropy(cosine_logits(frames, codebook, temperature=0.1), targets, reduction="none")
    torch.testing.assert_close(losses[:6], torch.tensor(FRAMES), rtol=1e-5, atol=1e-5)
    assert losses.sum().item() == pytest.approx(SUM, rel=1e-5)
