"""Optimisers and their parameter groups."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from hf_ssl.trainers.arguments import SSLTrainingArguments


def parameter_groups(
    model: nn.Module, weight_decay: float, *, bias_learning_rate: float | None = None, constant: Sequence[str] = ()
) -> list[dict]:
    """Trainable parameters in two groups: matrices decay; vectors and scalars (biases, normalisation, `ndim <= 1`) do
    not. LARS besides leaves the second group's steps unscaled, as SimCLR asks (arXiv:2002.05709, appendix B.6).

    Args:
        model (`nn.Module`): whose parameters they are.
        weight_decay (`float`): of the matrices.
        bias_learning_rate (`float`, *optional*): peak of the second group; by default the optimiser's.
        constant (`Sequence[str]`): names of submodules whose learning rate does not decay: their parameters make two
            groups more, with `"schedule": "constant"`.
    """
    prefixes = tuple(f"{name}." for name in constant)
    trainable = [(name.startswith(prefixes), p) for name, p in model.named_parameters() if p.requires_grad]
    of_vectors = {} if bias_learning_rate is None else {"lr": bias_learning_rate}
    groups: list[dict] = []
    for stays, of_schedule in ((False, {}), (True, {"schedule": "constant"})):
        parameters = [p for p_stays, p in trainable if p_stays == stays]
        matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": weight_decay, **of_schedule})
        groups.append({"params": vectors, "weight_decay": 0.0, **of_schedule, **of_vectors})
    return groups if constant else groups[:2]


def make_optimizer(model: nn.Module, args: SSLTrainingArguments, *, constant: Sequence[str] = ()) -> Optimizer:
    """The optimiser that `args.optimizer` names, over the groups of [`parameter_groups`].

    LARS is `pytorch_optimizer`'s (Apache-2.0): one-dimensional parameters step as plain SGD, and a parameter whose
    norm or gradient is zero is not scaled.
    """
    groups = parameter_groups(model, args.weight_decay, bias_learning_rate=args.bias_learning_rate, constant=constant)
    if args.optimizer == "adamw":
        return AdamW(
            groups,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            fused=True,
        )
    if args.optimizer == "sgd":
        return SGD(groups, lr=args.learning_rate, momentum=args.momentum)
    from pytorch_optimizer import LARS  # imports every optimiser it has: slow, and few runs need it

    return LARS(groups, lr=args.learning_rate, momentum=args.momentum, trust_coefficient=args.trust_coefficient)


def set_weight_decay(optimizer: Optimizer, weight_decay: float) -> None:
    """Another weight decay for those groups of parameters that have one."""
    for group in optimizer.param_groups:
        if group["weight_decay"] > 0:
            group["weight_decay"] = weight_decay


@torch.no_grad()
def clip_each_gradient(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Scale the gradient of each parameter down to a norm, by itself (DINO's `clip_gradients`).

    Args:
        parameters (iterable of `Tensor`): those without a gradient are passed over.
        max_norm (`float`): what each gradient's norm may be at most.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    factors = torch._foreach_norm(gradients)
    torch._foreach_add_(factors, 1e-6)  # as torch's `clip_grad_norm_` does
    torch._foreach_reciprocal_(factors)
    torch._foreach_mul_(factors, max_norm)
    torch._foreach_clamp_max_(factors, 1.0)
    torch._foreach_mul_(gradients, factors)
