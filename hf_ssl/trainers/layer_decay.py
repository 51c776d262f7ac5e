"""Layer-wise learning-rate decay: the nearer a layer is to the input, the smaller its steps."""

# L layers

import re

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from hf_ssl.modeling.blocks.layer_stack import layer_stack, layer_stack_name

TOKEN_OR_POSITIONS = re.compile(
    r"(^|\.)((cls|mask|distillation|register|storage)_tokens?|position_embeddings?|pos_embed)$"
)
"""Names of parameters that are tokens or positions themselves, as in ViTs; those of a table of embeddings, as in BERT,
end in `.weight`."""


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter may have weight decay, as MAE and BEiT have it: no vectors and scalars (`ndim <= 1`), no
    class, mask, distillation and register tokens, and no position embeddings of a ViT.
    """
    return parameter.ndim > 1 and TOKEN_OR_POSITIONS.search(name) is None


def learning_rate_scales(model: nn.Module, encoder: PreTrainedModel, decay: float) -> dict[nn.Parameter, float]:
    """What each parameter's learning rate is multiplied with: layer l of L by `decay ** (L + 1 - l)`.

    Embeddings are layer 0: what comes before the layers, as the convolutions of a waveform encoder. What follows them
    (a last normalisation, pooler, head, exits) has the full rate; so has what belongs to no layer, as the prefixes of
    a tuner or BEiT's shared relative positions. An adapter has the rate of the layer that it is in. Stages of a
    hierarchical encoder count as layers, with the downsampling that is in them; ALBERT's repeated group is one layer.

    Clark et al. 2020 (ELECTRA, arXiv:2003.10555, appendix B); BEiT (arXiv:2106.08254, section 3.1) and MAE
    (arXiv:2111.06377, table 9) have .65 to .75 for ViTs.

    Args:
        model (`nn.Module`): all that is trained.
        encoder (`PreTrainedModel`): the part of it with layers.
        decay (`float`): in (0, 1]; 1 for the same rate everywhere.

    Raises:
        InputError: for an encoder whose layers are not to be found.
    """
    stack, top = f"{layer_stack_name(encoder)}.", len(layer_stack(encoder)) + 1
    last_norm = _last_norm(encoder, stack)
    scales = dict.fromkeys(model.parameters(), 1.0)
    below = 0  # of what is not in a layer; modules are registered in the order in which they run
    for name, parameter in encoder.named_parameters():
        depth = below
        if name.startswith(stack):
            depth, below = 1 + int(name.removeprefix(stack).partition(".")[0]), top
        elif name in last_norm:
            depth = top
        scales[parameter] = decay ** (top - depth)
    return scales


def _last_norm(encoder: PreTrainedModel, stack: str) -> set[str]:
    """The normalisation that waveform encoders with norms before their layers register before these and run after."""
    is_last = vars(encoder.config).get("do_stable_layer_norm") or encoder.config.model_type == "wav2vec2-conformer"
    owner = stack.removesuffix(".").rpartition(".")[0]
    return {f"{owner}.layer_norm.weight", f"{owner}.layer_norm.bias"} if is_last else set()


def scale_learning_rates(optimizer: Optimizer, scales: dict[nn.Parameter, float]) -> None:
    """Divide the optimiser's groups so that each parameter has its share of the peak.

    The groups with the full rate stand first: of the first one the trainer logs the learning rate.
    """
    groups = []
    for group in optimizer.param_groups:
        by_scale: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_scale.setdefault(scales[parameter], []).append(parameter)
        groups += [{**group, "params": of, "lr": scale * group["lr"]} for scale, of in by_scale.items()]
    optimizer.param_groups = sorted(groups, key=lambda group: group["lr"], reverse=True)
