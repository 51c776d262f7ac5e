"""A pass through an encoder whose rows leave at exits: the batch shrinks, and what no row needs is not computed."""

# B rows of the batch, n of them still here

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_leaves_with_path, tree_map_with_path
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.early_exit.layer_inputs import Arguments, Changed, before_layers, hidden_states_of
from hf_ssl.modeling.early_exit.leaving import Leaving

Sizes = dict[tuple[int, str], tuple[int, int]]
"""How large the first dimension of a layer's argument is, as `per_row` · B + `fixed`, by depth and path."""


class _AllHaveLeft(Exception):
    """Ends the encoder's forward before a layer that no row needs."""


class _UnknownArgument(Exception):
    """An argument of a layer of which it is not known whether it goes with the rows."""


class StoppingPass:
    """One pass of a batch through an encoder's own forward.

    Before each layer its arguments are looked at: when rows have left, the layer gets the hidden states of the others,
    and their part of every other argument that goes with the batch (masks, position biases, ...). When none is left,
    nothing runs any more. An exit that is not idle makes the host wait once, for the number of rows that stay.

    Args:
        encoder (`PreTrainedModel`): the encoder, in evaluation mode.
        leaving ([`Leaving`]): who leaves at an exit; told of those who come to the end, too.
        sizes (`Sizes`): of the arguments, see [`argument_sizes`].
    """

    def __init__(self, encoder: PreTrainedModel, leaving: Leaving, sizes: Sizes) -> None:
        self.encoder, self.leaving, self.sizes = encoder, leaving, sizes
        self.exit_at = {layer: index for index, layer in enumerate(leaving.exit_layers[:-1])}
        self.alive: Tensor | None = None  # (n,) rows of the batch; None: all
        self.selected: dict[int, tuple[Tensor, Tensor]] = {}  # what the rows alive have of a tensor, by its id

    def run(self, inputs: dict[str, Any]) -> None:
        """Go through the encoder as far as rows need it."""
        self.batch_size = self.num_alive = batch_size_of(inputs)
        try:
            with before_layers(self.encoder, self._before_layer):
                hidden = self.encoder(**inputs).last_hidden_state
        except _AllHaveLeft:
            return
        self.leaving.at_the_end(hidden, self.alive)

    @torch.compiler.disable  # how many rows stay is known only when it has run; what the layers do is compiled
    def _before_layer(self, depth: int, arguments: Arguments) -> Changed:
        num_given, staying = self.num_alive, None
        if depth in self.exit_at:
            staying = self._staying(depth, hidden_states_of(arguments))
        if self.alive is None:
            return None

        def rest(path: Any, argument: Any) -> Any:
            """The part of an argument that is of the rows alive: it may be given for all, or for those of before."""
            if not isinstance(argument, Tensor):
                return argument
            per_row, fixed = self._size((depth, keystr(path)), argument, num_given)
            if per_row == 0:
                return argument
            if len(argument) == per_row * self.batch_size + fixed:
                return self._of_rows_alive(argument, per_row)
            return argument if staying is None else _rows(argument, staying, per_row)

        args, kwargs = tree_map_with_path(rest, arguments)
        return args, kwargs

    def _staying(self, depth: int, hidden: Tensor) -> Tensor | None:
        """Which of the rows here do not leave; `None`: all stay."""
        if len(hidden) != self.num_alive:
            raise InputError(
                f"The layers of a {self.encoder.config.model_type} encoder are given {len(hidden)} rows for "
                f"{self.num_alive} examples, so that none can leave early; set exit_policy to 'never'."
            )
        leaving = self.leaving.at_exit(self.exit_at[depth], hidden, self.alive)
        if leaving is None:
            return None
        staying = (~leaving).nonzero()[:, 0]  # the one wait: their number is the next layer's batch
        if len(staying) == 0:
            raise _AllHaveLeft
        if len(staying) == self.num_alive:
            return None
        self.alive = staying if self.alive is None else self.alive[staying]
        self.num_alive = len(staying)
        self.selected.clear()
        return staying

    def _size(self, key: tuple[int, str], argument: Tensor, num_given: int) -> tuple[int, int]:
        if argument.dim() == 0:
            return 0, 0
        per_row, fixed = self.sizes.get(key, (0, -1))
        expected = {per_row * rows + fixed for rows in (self.batch_size, num_given)}
        # A fixed size may follow the length of the sequences. No multiple of B: it does not go with the rows.
        if len(argument) not in expected and (per_row or len(argument) % self.batch_size == 0):
            raise _UnknownArgument(key)
        return per_row, fixed

    def _of_rows_alive(self, argument: Tensor, per_row: int) -> Tensor:
        """Kept until rows leave again: most layers are given the same mask."""
        assert self.alive is not None
        if id(argument) not in self.selected:
            self.selected[id(argument)] = argument, _rows(argument, self.alive, per_row)
        return self.selected[id(argument)][1]


def run_until_all_have_left(
    encoder: PreTrainedModel, begin: Callable[[], Leaving], sizes: Sizes, inputs: dict[str, Any]
) -> Leaving:
    """A [`StoppingPass`], which learns the sizes of the layers' arguments when rows first leave, and starts again.

    Args:
        encoder (`PreTrainedModel`): the encoder, in evaluation mode.
        begin (`Callable[[], Leaving]`): makes the decisions of a pass, before any is made.
        sizes (`Sizes`): what is known of the arguments already; what is learned is added.
        inputs (`dict[str, Any]`): of the encoder.

    Returns:
        [`Leaving`]: the decisions made.
    """
    try:
        leaving = begin()
        StoppingPass(encoder, leaving, sizes).run(inputs)
    except _UnknownArgument:
        sizes.update(argument_sizes(encoder, inputs))
        leaving = begin()
        StoppingPass(encoder, leaving, sizes).run(inputs)
    return leaving


def argument_sizes(encoder: PreTrainedModel, inputs: dict[str, Any]) -> Sizes:
    """Which arguments of the layers go with the batch: seen by running it as it is and with one row more.

    A first dimension of B says nothing by itself: a pair of rotary embeddings is 2 long whatever the batch, and the
    position bias of WavLM has B · heads rows. Needed once for a model and the kinds of its inputs.
    """
    batch_size = batch_size_of(inputs)
    one_more = torch.arange(batch_size + 1, device=encoder.device).clamp(max=batch_size - 1)
    more = {
        name: value[one_more] if isinstance(value, Tensor) and value.shape[:1] == (batch_size,) else value
        for name, value in inputs.items()
    }
    fewer_sizes, more_sizes = _first_dimensions(encoder, inputs), _first_dimensions(encoder, more)
    sizes = {}
    for key, length in fewer_sizes.items():
        per_row = more_sizes[key] - length
        sizes[key] = (per_row, length - per_row * batch_size)
    return sizes


def _first_dimensions(encoder: PreTrainedModel, inputs: dict[str, Any]) -> dict[tuple[int, str], int]:
    lengths = {}

    def see(depth: int, arguments: Arguments) -> None:
        for path, argument in tree_leaves_with_path(arguments):
            if isinstance(argument, Tensor) and argument.dim() > 0:
                lengths[depth, keystr(path)] = len(argument)

    with before_layers(encoder, see):
        encoder(**inputs)
    return lengths


def batch_size_of(inputs: dict[str, Any]) -> int:
    """B, of the first tensor."""
    return len(next(value for value in inputs.values() if isinstance(value, Tensor)))


def _rows(argument: Tensor, rows: Tensor, per_row: int) -> Tensor:
    """The rows of an argument that has `per_row` of its own for each, one after the other (heads, as a rule)."""
    if per_row == 1:
        return argument.index_select(0, rows)
    return argument.unflatten(0, (-1, per_row)).index_select(0, rows).flatten(0, 1)
