"""Optimisers and their parameter groups."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from hf_ssl.trainers.arguments import SSLTrainingArguments


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups: matrices decay; vectors and scalars (biases, normalisation, `ndim <= 1`) do
    not.

    LARS besides leaves the second group's steps unscaled, as SimCLR asks (arXiv:2002.05709, appendix B.6).
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, args: SSLTrainingArguments) -> Optimizer:
    """The optimiser that `args.optimizer` names.

    LARS is `pytorch_optimizer`'s (Apache-2.0): one-dimensional parameters step as plain SGD, and a parameter whose
    norm or gradient is zero is not scaled.
    """
    groups = parameter_groups(model, args.weight_decay)
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
