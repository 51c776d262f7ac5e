"""Numbers that the authors' code gives, frozen.

Source: `add_contrastive_loss` of google-research/simclr, tf2/objective.py, commit 383d414, run with TensorFlow 2.21.0
on the same input. It adds the means of the two halves of the views: twice the loss of the paper's equation.
"""

import pytest
import torch

from hf_ssl.modeling.blocks.contrastive import nt_xent
from tests.parity.inputs import wave

LOSS, GRADIENT_SIZE = 32.288124, 41.649261
GRADIENT_OF_FIRST = [-0.978761, -0.295285, 0.527068, 1.101533, 1.157930, 0.669734]


def test_nt_xent_and_its_gradient() -> None:
    views = wave(10, 6, phase=0.4).requires_grad_()
    loss, _, _ = nt_xent(*views.chunk(2), temperature=0.1)
    (2 * loss).backward()
    assert 2 * loss.item() == pytest.approx(LOSS, rel=1e-5)
    assert views.grad.abs().sum().item() == pytest.approx(GRADIENT_SIZE, rel=1e-4)
    torch.testing.assert_close(views.grad[0], torch.tensor(GRADIENT_OF_FIRST), rtol=1e-4, atol=1e-5)
