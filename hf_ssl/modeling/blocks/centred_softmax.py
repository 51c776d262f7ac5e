"""The distribution of a self-distillation teacher: centred and sharpened, so that it does not collapse."""

# N rows of this process, K prototypes

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_ssl.modeling.blocks.gather import sum_over_processes
from hf_ssl.modeling.blocks.teacher import linear_decay


class CentredSoftmax(nn.Module):
    """`P(x) = softmax((g(x) − c) / τ)`, c a moving average of g (Caron et al. 2021, arXiv:2104.14294, section 3.1).

    Centring keeps one dimension from dominating but pushes towards the uniform distribution; a low τ does the
    opposite. c and τ are buffers: saved with the model, equal on all processes. All micro-batches of an optimiser step
    see the same c, which moves once per step, towards the mean over all of them (Eq. 4).

    Args:
        size (`int`): K.
        centre_decay (`float`): m in [0, 1] of `c ← m c + (1 − m) mean(g)`.
        temperature (`float`): τ > 0 at the beginning.
        final_temperature (`float`): τ after the warm-up.
        warmup_share (`float`): share of the training, in [0, 1], over which τ changes linearly.
    """

    centre: Tensor
    temperature: Tensor

    def __init__(
        self,
        size: int,
        *,
        centre_decay: float,
        temperature: float,
        final_temperature: float,
        warmup_share: float,
    ) -> None:
        super().__init__()
        self.centre_decay = centre_decay
        self.temperatures, self.warmup_share = (temperature, final_temperature), warmup_share
        self.register_buffer("centre", torch.empty(size))
        self.register_buffer("temperature", torch.empty(()))
        self.reset_parameters()
        self.waiting: Tensor | None = None

    def reset_parameters(self) -> None:
        """The centre is 0, the temperature as at the beginning; a model's `_init_weights` has to call it."""
        init.zeros_(self.centre)
        init.constant_(self.temperature, self.temperatures[0])

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution of each row.

        Args:
            logits (`Tensor` of shape `(..., K)`): g, fp32.

        Returns:
            probabilities (`Tensor` of shape `(..., K)`) and their entropy (`Tensor` of shape `(...)`, in nats).
        """
        log_probabilities = ((logits - self.centre) / self.temperature).log_softmax(dim=-1)
        probabilities = log_probabilities.exp()
        return probabilities, -torch.linalg.vecdot(probabilities, log_probabilities)

    @torch.no_grad()
    def observe(self, mean: Tensor, num_rows: int) -> None:
        """Let the mean (K,) of g over rows of this process wait for [`commit`]."""
        observed = torch.cat([mean * num_rows, mean.new_full((1,), num_rows)])
        self.waiting = observed if self.waiting is None else self.waiting + observed  # one sum, however many wait

    @torch.no_grad()
    def commit(self, progress: float) -> None:
        """Once per optimiser step: move c towards the mean of what all processes observed, and set τ.

        Args:
            progress (`float`): share of the training that is done, in [0, 1].
        """
        self.temperature.fill_(linear_decay(progress, *self.temperatures, self.warmup_share))
        if self.waiting is None:
            return
        # no gradient is recorded here, so this is a plain sum
        total, self.waiting = sum_over_processes(self.waiting), None
        self.centre.lerp_((total[:-1] / total[-1]).to(self.centre.dtype), 1 - self.centre_decay)
