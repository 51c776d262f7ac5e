"""Batch normalisation with the statistics of all processes' rows."""

# B rows of this process, R processes, D channels

import torch
from torch import Tensor, nn

from hf_ssl.modeling.blocks.gather import gather_with_gradient, num_processes


class JointBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the rows of all processes; on one process, and in evaluation, exactly `nn.BatchNorm1d`.

    Where two views of an image are compared, statistics of each process's few rows let the model tell which rows share
    a process. Unlike `nn.SyncBatchNorm` this runs on every device, CPU included. Each process must have equally many
    rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input` to zero mean and unit variance by channel, then scale and shift; same shape."""
        if self.training and num_processes() > 1:
            return _joint_batch_norm(self, input)
        return super().forward(input)


class JointBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the feature maps (B, D, H, W) of all processes; otherwise as [`JointBatchNorm1d`]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input` to zero mean and unit variance by channel, then scale and shift; same shape."""
        if self.training and num_processes() > 1:
            return _joint_batch_norm(self, input)
        return super().forward(input)


def join_batch_norms(module: nn.Module) -> None:
    """Turn every `nn.BatchNorm1d` and `nn.BatchNorm2d` in `module` into its joint form; its weights and names stay."""
    joint: dict[type, type] = {nn.BatchNorm1d: JointBatchNorm1d, nn.BatchNorm2d: JointBatchNorm2d}
    for child in module.modules():
        if type(child) in joint:
            # The class alone changes: the parameters (on whatever device, meta included) and their names must not.
            child.__class__ = joint[type(child)]


def _joint_batch_norm(norm: JointBatchNorm1d | JointBatchNorm2d, input: Tensor) -> Tensor:
    dims = [0, *range(2, input.dim())]
    local_var, local_mean = torch.var_mean(input.float(), dims, correction=0)  # (D,) each
    statistics = gather_with_gradient(torch.stack([local_mean, local_var])[None])  # (R, 2, D)
    means, variances = statistics.unbind(dim=1)
    mean = means.mean(dim=0)
    # Variances within processes plus the variance between their means: no cancellation, unlike E[x²] - E[x]².
    var = variances.mean(dim=0) + means.var(dim=0, correction=0)
    _update_running_statistics(norm, mean, var, num_rows=num_processes() * input.numel() // input.shape[1])
    scale = torch.rsqrt(var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
    shift = -mean * scale + (0.0 if norm.bias is None else norm.bias)
    per_channel = [1, -1] + [1] * (input.dim() - 2)
    return torch.addcmul(shift.view(per_channel), input, scale.view(per_channel)).to(input.dtype)


@torch.no_grad()
def _update_running_statistics(
    norm: JointBatchNorm1d | JointBatchNorm2d, mean: Tensor, var: Tensor, num_rows: int
) -> None:
    if not norm.track_running_stats:
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    # as torch does: the running variance is the unbiased one
    norm.running_var.lerp_((var * num_rows / (num_rows - 1)).to(norm.running_var.dtype), momentum)
