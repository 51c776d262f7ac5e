"""One row of `objective_overhead.py`: an objective, its batch, and the passes that it needs by definition."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel

Batch = dict[str, Tensor]


def encoder_pass(model: Any, bare: Batch) -> Tensor:
    """The mean of what the bare encoder makes of its inputs."""
    return model.encoder(**bare).last_hidden_state.mean()


class Case(NamedTuple):
    """An objective and what its step is compared with.

    Args:
        model ([`SSLPreTrainedModel`]): the objective.
        batch (`dict[str, Tensor]`): what its `forward` takes.
        bare (`dict[str, Tensor]`): what `passes` takes.
        passes (function of the model and `bare`): the forward passes that the method needs by definition; from the
            scalar that it returns the backward pass starts.
    """

    model: SSLPreTrainedModel
    batch: Batch
    bare: Batch
    passes: Callable[[Any, Batch], Tensor] = encoder_pass
