"""An attention module with a prefix."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from hf_ssl.errors import InputError
from hf_ssl.tuners.prefix.attention import attend_with_prefix, key_width
from hf_ssl.tuners.prefix.config import PrefixConfig


class PrefixLayer(nn.Module, BaseTunerLayer):
    """Gives an attention module the keys and values of the active prefixes, one after the other.

    With a re-parametrisation they are `MLP(E)` (Li & Liang 2021, section 4.3), of which the embedding E of the prefix
    tokens and the hidden layer are common to all layers: the first layer with the prefix holds them. The output layer
    of the MLP is cut by what it makes, so that each layer holds its part.

    Args:
        base_layer (`nn.Module`): the attention.
        num_calls (`int`): how often one forward pass of the encoder runs it; every call has keys and values of its
            own. More than one are counted from the start of what is given to `count_calls_from`.
    """

    adapter_layer_names = (
        "encoder_prefix_key_values",
        "encoder_prefix_embedding",
        "encoder_prefix_hidden",
        "encoder_prefix_output",
    )
    other_param_names = ("encoder_prefix_dropout", "first_layers")

    def __init__(self, base_layer: nn.Module, num_calls: int = 1):
        super().__init__()
        self.base_layer = base_layer
        self.num_calls = num_calls
        self.key_width = key_width(base_layer)
        self.encoder_prefix_key_values = nn.ParameterDict()
        self.encoder_prefix_embedding = nn.ParameterDict()
        self.encoder_prefix_hidden = nn.ModuleDict()
        self.encoder_prefix_output = nn.ModuleDict()
        self.encoder_prefix_dropout = nn.ModuleDict()
        self.first_layers: dict[str, PrefixLayer] = {}
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self._num_calls_made = 0

    def count_calls_from(self, stack: nn.Module) -> None:
        """Take the first call after the start of a forward pass of `stack`, which runs the layers, as the first.

        A pass that ended with an exception leaves nothing behind, then.
        """
        self._start_hook = stack.register_forward_pre_hook(self._start)

    def update_layer(self, adapter_name: str, config: PrefixConfig, first_layer: "PrefixLayer") -> None:
        """Add a prefix, of which `first_layer` holds what all layers share."""
        self.encoder_prefix_dropout[adapter_name] = nn.Dropout(config.dropout)
        if config.reparametrisation is None:
            key_values = torch.empty(self.num_calls, 2, config.num_tokens, self.key_width)
            self.encoder_prefix_key_values[adapter_name] = nn.Parameter(key_values.normal_(std=0.02))
        else:
            self.first_layers[adapter_name] = first_layer
            if first_layer is self:
                embedding = torch.empty(config.num_tokens, self.key_width).normal_()
                self.encoder_prefix_embedding[adapter_name] = nn.Parameter(embedding)
                self.encoder_prefix_hidden[adapter_name] = nn.Linear(self.key_width, config.reparametrisation)
            self.encoder_prefix_output[adapter_name] = nn.Linear(
                config.reparametrisation, self.num_calls * 2 * self.key_width
            )
        self._move_adapter_to_device_of_base_layer(adapter_name)  # type: ignore[operator]

    def has(self, adapter_name: str) -> bool:
        """Whether there is a prefix of that name here."""
        return adapter_name in self.encoder_prefix_dropout

    def key_values(self, adapter_name: str) -> torch.Tensor:
        """The keys and values of a prefix, of shape `(num_calls, 2, num_tokens, key_width)`."""
        if adapter_name in self.encoder_prefix_key_values:
            return self.encoder_prefix_key_values[adapter_name]
        first = self.first_layers[adapter_name]
        embedding = first.encoder_prefix_embedding[adapter_name]
        hidden = first.encoder_prefix_hidden[adapter_name](embedding).tanh()
        flat = self.encoder_prefix_output[adapter_name](hidden)
        return flat.unflatten(-1, (self.num_calls, 2, self.key_width)).permute(1, 2, 0, 3)

    @torch.no_grad()
    def flatten(self, adapter_name: str) -> None:
        """Hold the keys and values that the re-parametrisation makes, beside it."""
        trainable = any(parameter.requires_grad for parameter in self.encoder_prefix_output[adapter_name].parameters())
        key_values = self.key_values(adapter_name).contiguous()
        self.encoder_prefix_key_values[adapter_name] = nn.Parameter(key_values, requires_grad=trainable)

    def drop_reparametrisation(self, adapter_name: str) -> None:
        """Forget the MLP; `flatten` comes before, in all layers."""
        for part in (self.encoder_prefix_embedding, self.encoder_prefix_hidden, self.encoder_prefix_output):
            if adapter_name in part:
                del part[adapter_name]
        del self.first_layers[adapter_name]

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """What the attention gives, with the prefixes."""
        call = self._count_call() if self.num_calls > 1 else 0
        active: list[str] = self.active_adapters  # type: ignore[assignment]
        names = [name for name in active if self.has(name)]
        if self.disable_adapters or not names:
            return self.base_layer(*inputs, **named_inputs)
        prefixes = [self.encoder_prefix_dropout[name](self.key_values(name)[call]) for name in names]
        return attend_with_prefix(self.base_layer, torch.cat(prefixes, dim=1), *inputs, **named_inputs)

    def merge(self, safe_merge: bool = False, adapter_names: Sequence[str] | None = None) -> NoReturn:
        """Refuse: see `refusal_to_merge`."""
        raise refusal_to_merge()

    def unmerge(self) -> NoReturn:
        """Refuse: see `refusal_to_merge`."""
        raise refusal_to_merge()

    def unload_and_optionally_merge_module(self, **options: Any) -> nn.Module:
        """PEFT asks for the attention as it was."""
        if self.num_calls > 1:
            self._start_hook.remove()
        return self.base_layer

    def _count_call(self) -> int:
        self._num_calls_made += 1
        return (self._num_calls_made - 1) % self.num_calls

    def _start(self, stack: nn.Module, inputs: Any) -> None:
        self._num_calls_made = 0

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        parameter = next(base_layer.parameters())
        return parameter.device, parameter.dtype


def refusal_to_merge() -> InputError:
    """Why a prefix stays beside the model."""
    return InputError(
        "A prefix cannot be merged, since no weights of the model make keys and values that no token has; keep the "
        "adapter beside the model, or remove it with unload()."
    )
