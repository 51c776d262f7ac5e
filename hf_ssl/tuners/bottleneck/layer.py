"""A module of the encoder with bottleneck adapters around it."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck.bottleneck import Bottleneck
from hf_ssl.tuners.bottleneck.config import BottleneckConfig
from hf_ssl.tuners.bottleneck.fusion import AdapterFusion

NOT_LINEAR = (
    "A bottleneck adapter has a non-linearity between its projections and cannot be merged into the encoder's "
    "weights; keep it beside them (save_pretrained), or take it out with unload()."
)

# The input of the feed-forward block that is being computed. One a thread: `nn.DataParallel` runs its replicas in
# threads, and they share the hooks of the module that they are replicas of.
_feed_forward = threading.local()


def _remember_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    _feed_forward.input = inputs[0]


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """The output projection y of a block, with what its active adapters add: `y + Σ_a adapter_a(source)`.

    The source is y, or for the parallel variant the input of the feed-forward block. Adapters that are active together
    all read the same source (as PEFT's do); they are not stacked.
    """

    adapter_layer_names = ("bottleneck_adapter",)
    other_param_names = ("bottleneck_variant",)
    active_adapters: list[str]  # a property of BaseTunerLayer
    disable_adapters: bool  # likewise

    def __init__(self, base_layer: nn.Module, width: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.width = width
        self.bottleneck_adapter = nn.ModuleDict()
        self.bottleneck_variant: dict[str, str] = {}
        self.input_hooks: list[RemovableHandle] = []
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []

    def update_layer(self, name: str, config: BottleneckConfig) -> None:
        """Add an adapter, or an AdapterFusion when the config names adapters to fuse."""
        kind = Bottleneck if config.fused_adapters is None else AdapterFusion
        self.bottleneck_adapter[name] = kind(self.width, config)
        self.bottleneck_variant[name] = config.variant
        # WavLM's attention has no `weight` of its own to say where it is.
        device = next(self.base_layer.parameters()).device
        super()._move_adapter_to_device_of_base_layer(name, device=device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def read_input_of(self, feed_forward: nn.Module) -> None:
        """Let parallel adapters read what this module, the first of the feed-forward block, is called with."""
        if not self.input_hooks:
            self.input_hooks.append(feed_forward.register_forward_pre_hook(_remember_input))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., f) to (..., d), as the projection."""
        output = self.base_layer(hidden_states)
        block_input = None
        if "parallel" in self.bottleneck_variant.values():
            block_input, _feed_forward.input = _feed_forward.input, None
        for addend in self.addends(output, block_input):
            output = output + addend
        return output

    def adapters_in_use(self) -> dict[str, nn.Module]:
        """The active adapters that this module has; none while adapters are disabled."""
        names = [] if self.disable_adapters else self.active_adapters
        return {name: self.bottleneck_adapter[name] for name in names if name in self.bottleneck_adapter}

    def addends(self, source: Tensor, block_input: Tensor | None = None) -> Iterator[Tensor]:
        """What each adapter in use adds, computed in the precision of its weights. Shape (..., d)."""
        for name, adapter in self.adapters_in_use().items():
            read = source
            if self.bottleneck_variant[name] == "parallel":
                assert block_input is not None  # the block's first projection has just been called
                read = block_input
            yield adapter(read.to(next(adapter.parameters()).dtype)).to(source.dtype)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make adapters the active ones, and the only ones that train; of a fusion its attention trains alone."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self._freeze_fused()

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Let adapters train or not; the adapters within a fusion never do."""
        super().set_requires_grad(adapter_names, requires_grad)
        self._freeze_fused()

    def _freeze_fused(self) -> None:
        for adapter in self.bottleneck_adapter.values():
            if isinstance(adapter, AdapterFusion):
                adapter.adapters.requires_grad_(False)

    def fuse(self, name: str, adapters: Sequence[str]) -> None:
        """Copy adapters of this module into its fusion of that name."""
        fusion = self.bottleneck_adapter[name]
        assert isinstance(fusion, AdapterFusion)
        for copy, source in zip(fusion.adapters, adapters, strict=True):
            copy.load_state_dict(self.bottleneck_adapter[source].state_dict())

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuses.

        Raises:
            InputError: always; see the message.
        """
        raise InputError(NOT_LINEAR)

    def unmerge(self) -> None:
        """Does nothing: nothing was merged."""

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The module without its adapters.

        Raises:
            InputError: when they should be merged.
        """
        if merge:
            raise InputError(NOT_LINEAR)
        for hook in self.input_hooks:
            hook.remove()
        return self.base_layer


class NormBottleneckLayer(BottleneckLayer):
    """The LayerNorm of the sum u of a block and its residual, with the adapters before it: `LN(u + adapter(LN(u)))`.

    This is where Pfeiffer et al. put an adapter: it reads the normalised sum and adds to the sum, which is normalised
    by the same LayerNorm again (`original_ln_before`, `original_ln_after` of the adapters library).
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., d) to (..., d), as the LayerNorm."""
        normalised = self.base_layer(hidden_states)
        addends = list(self.addends(normalised))
        return self.base_layer(hidden_states + sum(addends)) if addends else normalised


class AttentionBottleneckLayer(BottleneckLayer):
    """A whole attention whose output projection is not called as a module (WavLM)."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:  # type: ignore[override]
        """As the attention, with the hidden states (B, T, d) adapted."""
        output, *rest = self.base_layer(*args, **kwargs)
        return output + sum(self.addends(output)), *rest


def bottleneck_layer(module: nn.Module, name: str) -> BottleneckLayer:
    """The module, ready for adapters.

    Raises:
        InputError: for a module that a bottleneck adapter cannot follow.
    """
    if isinstance(module, nn.Linear):
        return BottleneckLayer(module, module.out_features)
    if is_layer_norm(module):
        return NormBottleneckLayer(module, module.get_parameter("weight").shape[-1])
    if isinstance(module, WavLMAttention):
        return AttentionBottleneckLayer(module, module.embed_dim)
    raise InputError(
        f"{name} is a {type(module).__name__}, which a bottleneck adapter cannot follow; name linear layers in "
        "target_modules."
    )


def is_layer_norm(module: nn.Module) -> bool:
    """Whether it is a LayerNorm; some families have a class of their own under that name."""
    return type(module).__name__.endswith("LayerNorm")
