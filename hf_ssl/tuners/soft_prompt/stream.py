"""What passes from layer to layer beside the tokens."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertRelPositionalEmbedding
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerRelPositionalEmbedding,
)

from hf_ssl.errors import InputError

if TYPE_CHECKING:
    from hf_ssl.tuners.soft_prompt.layer import SoftPromptLayer


EMBEDDINGS_OF_DISTANCES = (Wav2Vec2BertRelPositionalEmbedding, Wav2Vec2ConformerRelPositionalEmbedding)
"""What an encoder makes once for all layers, for as many distances as its longest input of this pass has."""


class PromptStream:
    """The states of shallow prompts in one forward pass of an encoder; its layers share it.

    The encoder itself sees no prompts: each layer takes them from here, and puts here what it makes of them. So
    nothing that an encoder does between its layers (DeBERTa's convolution), with their outputs (hidden states), or
    instead of some of them (LayerDrop) meets a prompt.

    Args:
        stack (`nn.Module`): the module whose forward runs the layers; a forward pass begins and ends with it.
    """

    def __init__(self, stack: nn.Module):
        self.entry_layers: dict[str, SoftPromptLayer] = {}
        """Of each shallow prompt, the layer that holds it: the first."""
        self.distances = next((m for m in stack.modules() if isinstance(m, EMBEDDINGS_OF_DISTANCES)), None)
        self._states: dict[str, Tensor] | None = None
        self._calls: Counter[nn.Module] = Counter()
        self._handles = [
            stack.register_forward_pre_hook(self._begin),
            stack.register_forward_hook(self._end, always_call=True),
        ]

    def put(self, name: str, states: Tensor) -> None:
        """What a layer made of a shallow prompt, of shape `(B, P, D)`."""
        assert self._states is not None
        self._states[name] = states

    def take(self, name: str, batch_size: int) -> Tensor | None:
        """What the layer before made of a shallow prompt; `None` where the prompt enters.

        Raises:
            InputError: where the layers are not run by the encoder, all on the same batch.
        """
        if self._states is None:
            raise InputError(
                f"The soft prompt {name!r} is shallow, and passes from layer to layer in the encoder's own forward "
                "pass alone; run the encoder whole, or train one with deep=True."
            )
        states = self._states.get(name)
        if states is not None and len(states) != batch_size:
            raise InputError(
                f"The soft prompt {name!r} is shallow and belongs to a batch of {len(states)}, but the next layer got "
                f"{batch_size} rows; keep the batch whole, or train a prompt with deep=True."
            )
        return states

    def count_call(self, layer: nn.Module) -> int:
        """How often the layer ran before in this forward pass."""
        self._calls[layer] += 1
        return self._calls[layer] - 1

    def close(self) -> None:
        """Leave the encoder alone."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, stack: nn.Module, inputs: Any) -> None:
        self._states = {}
        self._calls.clear()

    def _end(self, stack: nn.Module, inputs: Any, output: Any) -> None:
        self._states = None  # with it the graph of the pass
