"""A layer of an encoder with soft prompts."""

import inspect
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.beit.modeling_beit import BeitRelativePositionBias
from transformers.models.data2vec.modeling_data2vec_vision import Data2VecVisionRelativePositionBias
from transformers.models.deberta.modeling_deberta import DebertaLayer
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Layer

from hf_ssl.errors import InputError
from hf_ssl.tuners.soft_prompt.config import SoftPromptConfig
from hf_ssl.tuners.soft_prompt.extension import EXTENSIONS, extend_bias
from hf_ssl.tuners.soft_prompt.stream import PromptStream

BIASES_INSIDE = (BeitRelativePositionBias, Data2VecVisionRelativePositionBias)
"""What makes a bias for the scores of the attention within the layer."""
READ_MASKS_AS_BOOLEAN = (DebertaLayer, DebertaV2Layer)
"""Layers for which a floating mask is one of 0 and 1 (that of a model that is given none), not added to the scores."""


class SoftPromptLayer(nn.Module, BaseTunerLayer):
    """Runs a layer on `[prompts; tokens]` and gives back the tokens.

    The prompts are joined inside the layer's own call: hooks on it, such as those by which transformers collects
    hidden states, see the tokens alone. They stand before all tokens, so that relative distances among these stay, and
    the class token is still the first of them; VPT's code puts prompts after it, which is the same for an attention
    without positions.

    Args:
        base_layer (`nn.Module`): takes states of shape `(B, T, D)` first; gives back such, or a tuple that begins with
            them.
        stream ([`PromptStream`]): of the encoder.
        num_calls (`int`): how often a forward pass runs the layer (ALBERT's, more than once); each time, a deep prompt
            is another.
    """

    adapter_layer_names = ("soft_prompt_embeddings",)
    other_param_names = ("soft_prompt_dropout", "entry_layers")

    def __init__(self, base_layer: nn.Module, stream: PromptStream, num_calls: int = 1):
        super().__init__()
        self.base_layer = base_layer
        self.stream = stream
        self.entry_layers = stream.entry_layers  # PEFT deletes a prompt from it by this name
        self.num_calls = num_calls
        self.soft_prompt_embeddings = nn.ParameterDict()
        self.soft_prompt_dropout = nn.ModuleDict()
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self._argument_names = list(inspect.signature(type(self.get_base_layer()).forward).parameters)[2:]
        self._replaced = {"forward": vars(base_layer)["forward"]} if "forward" in vars(base_layer) else {}
        self._run_layer = base_layer.forward
        base_layer.forward = self._run_with_prompts
        self._bias_hooks = [
            handle
            for module in base_layer.modules()
            if isinstance(module, BIASES_INSIDE)
            for handle in (
                module.register_forward_pre_hook(self._measure_tokens, with_kwargs=True),
                module.register_forward_hook(self._extend_bias),
            )
        ]

    def __getattr__(self, name: str) -> Any:
        """An attribute of the layer: some encoders read them (ModernBERT, the `attention_type`)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def update_layer(self, adapter_name: str, config: SoftPromptConfig, width: int, bound: float) -> None:
        """Add a prompt, drawn uniformly from (-bound, bound); the first layer that gets a shallow one holds it."""
        self.soft_prompt_dropout[adapter_name] = nn.Dropout(config.dropout)
        if not config.deep and self.entry_layers.setdefault(adapter_name, self) is not self:
            return
        device = next(self.base_layer.parameters()).device
        prompts = torch.empty(self.num_calls if config.deep else 1, config.num_tokens, width, device=device)
        self.soft_prompt_embeddings[adapter_name] = nn.Parameter(prompts.uniform_(-bound, bound))

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """What the layer gives for the tokens."""
        return self.base_layer(*inputs, **named_inputs)

    def _run_with_prompts(self, hidden_states: Tensor, *inputs: Any, **named_inputs: Any) -> Any:
        names = self._prompts_in_use()
        if not names:
            return self._run_layer(hidden_states, *inputs, **named_inputs)
        prompts = [self._states(name, hidden_states) for name in names]
        lengths = [states.shape[1] for states in prompts]
        names_of_inputs = self._argument_names[: len(inputs)]
        positional = [self._extend(n, value, hidden_states) for n, value in zip(names_of_inputs, inputs, strict=True)]
        named = {name: self._extend(name, value, hidden_states) for name, value in named_inputs.items()}
        output = self._run_layer(torch.cat([*prompts, hidden_states], dim=1), *positional, **named)
        states, *others = output if isinstance(output, tuple) else (output,)
        *prompts, tokens = states.split([*lengths, hidden_states.shape[1]], dim=1)
        for name, prompt in zip(names, prompts, strict=True):
            if name in self.entry_layers:
                self.stream.put(name, prompt)
        return (tokens, *others) if isinstance(output, tuple) else tokens

    def _prompts_in_use(self) -> list[str]:
        if self.disable_adapters:
            return []
        return [name for name in self.active_adapters if name in self.soft_prompt_dropout]

    def _states(self, name: str, hidden_states: Tensor) -> Tensor:
        """(B, P, D): of a shallow prompt what the layer before made of it, if there was one; else the vectors."""
        batch_size = len(hidden_states)
        if name in self.entry_layers:
            states = self.stream.take(name, batch_size)
            if states is not None:
                return states
            prompt = self.entry_layers[name].soft_prompt_embeddings[name][0]
        else:
            call = self.stream.count_call(self) if self.num_calls > 1 else 0
            prompt = self.soft_prompt_embeddings[name][call]
        return self.soft_prompt_dropout[name](prompt.to(hidden_states).expand(batch_size, -1, -1))

    def _num_prompts(self) -> int:
        layers = {name: self.entry_layers.get(name, self) for name in self._prompts_in_use()}
        return sum(layer.soft_prompt_embeddings[name].shape[1] for name, layer in layers.items())

    def _extend(self, name: str, value: Any, hidden_states: Tensor) -> Any:
        if value is None or name not in EXTENSIONS:
            return value
        # WavLM's first layer makes the bias of positions, for the prompts too, and hands it to the next.
        if name == "position_bias" and value.shape[-1] != hidden_states.shape[1]:
            return value
        if name == "relative_position_embeddings" and self.stream.distances is not None:
            # They are sines of the distances; those of the prompts, which stand before the frames, are some more.
            return self.stream.distances(F.pad(hidden_states, (0, 0, self._num_prompts(), 0)))
        if name == "attention_mask" and isinstance(self.get_base_layer(), READ_MASKS_AS_BOOLEAN):
            value = value.bool()
        return EXTENSIONS[name](value, self._num_prompts())

    def _measure_tokens(
        self, module: nn.Module, inputs: Any, named_inputs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The bias is for as many tokens as the layer has states, without the prompts."""
        return inputs, named_inputs | {"dim_size": named_inputs["dim_size"] - self._num_prompts()}

    def _extend_bias(self, module: nn.Module, inputs: Any, bias: Tensor) -> Tensor:
        return extend_bias(bias, self._num_prompts())

    def merge(self, safe_merge: bool = False, adapter_names: Sequence[str] | None = None) -> NoReturn:
        """Refuse: see `refusal_to_merge`."""
        raise refusal_to_merge()

    def unmerge(self) -> NoReturn:
        """Refuse: see `refusal_to_merge`."""
        raise refusal_to_merge()

    def unload_and_optionally_merge_module(self, **options: Any) -> nn.Module:
        """PEFT asks for the layer as it was."""
        self.stream.close()
        for handle in self._bias_hooks:
            handle.remove()
        del self.base_layer.forward
        vars(self.base_layer).update(self._replaced)
        return self.base_layer


def refusal_to_merge() -> InputError:
    """Why a prompt stays beside the model."""
    return InputError(
        "A soft prompt cannot be merged, since no weights of the model make vectors that no token has; keep the "
        "adapter beside the model, or remove it with unload()."
    )
