"""Puts bottleneck adapters into a model and fuses them: the tuner of PEFT's interface."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.tuners.bottleneck.config import BottleneckConfig
from hf_ssl.tuners.bottleneck.fusion import AdapterFusion
from hf_ssl.tuners.bottleneck.layer import (
    NOT_LINEAR,
    BottleneckLayer,
    NormBottleneckLayer,
    bottleneck_layer,
    is_layer_norm,
)
from hf_ssl.tuners.bottleneck.targets import bottleneck_targets, feed_forward_input

SHARED_FIELDS = ("variant", "bottleneck_size", "reduction_factor", "activation", "scaling", "target_modules")
"""What adapters must have in common to be fused."""


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters; `peft.get_peft_model(model, BottleneckConfig(...))` makes it.

    Raises:
        InputError: for a model in which the adapters have no place, see [`bottleneck_targets`]; for merging.
    """

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def fuse_adapters(self, adapters: Sequence[str], adapter_name: str = "fusion", dropout: float = 0.1) -> None:
        """Add an AdapterFusion of trained adapters, as one more adapter; `set_adapter(adapter_name)` then trains it.

        It holds frozen copies of the adapters, so that its folder is complete without theirs. Its modules to save (a
        head) are its own, and begin as the model's. While it trains, `fusion_regularization()` belongs to the loss.

        Args:
            adapters (`Sequence[str]`): names of two or more loaded adapters of equal configuration.
            adapter_name (`str`, defaults to `"fusion"`): the name of the new adapter.
            dropout (`float`, defaults to 0.1): on the scores of its attention, in training.

        Raises:
            InputError: for fewer than two, an unknown one, a name already in use, or adapters that cannot be fused.
        """
        self._check_fusible(adapters, adapter_name)
        self.peft_config[adapter_name] = replace(
            self.peft_config[adapters[0]],
            fused_adapters=list(adapters),
            fusion_dropout=dropout,
            inference_mode=False,
        )
        self.inject_adapter(self.model, adapter_name)
        self._cast_adapter_dtype(adapter_name)  # to float32 under an encoder in half precision, as PEFT does
        for layer in self._layers():
            layer.fuse(adapter_name, adapters)

    def fusion_regularization(self, weight: float = 0.01) -> Tensor:
        """`weight · Σ ‖I − V‖²` over the layers of the active AdapterFusions; 0 without one. Shape ()."""
        distances = [
            adapter.distance_from_identity()
            for layer in self._layers()
            for adapter in layer.adapters_in_use().values()
            if isinstance(adapter, AdapterFusion)
        ]
        return weight * torch.stack(distances).sum() if distances else torch.zeros((), device=self.model.device)

    def _layers(self) -> list[BottleneckLayer]:
        return [module for module in self.model.modules() if isinstance(module, BottleneckLayer)]

    def _check_fusible(self, adapters: Sequence[str], adapter_name: str) -> None:
        if adapter_name in self.peft_config:
            raise InputError(f"There is an adapter {adapter_name!r} already; give the fusion another adapter_name.")
        if len(set(adapters)) < 2:
            raise InputError(f"An AdapterFusion of {list(adapters)} has nothing to choose from; name two adapters.")
        for name in adapters:
            if name not in self.peft_config:
                raise unknown_name("adapter", name, self.peft_config)
            config = self.peft_config[name]
            if config.fused_adapters is not None:
                raise InputError(f"Adapter {name!r} is a fusion itself; name the adapters that it fuses.")
            if config.train_layer_norms:
                raise InputError(
                    f"Adapter {name!r} has LayerNorms of its own, of which a fusion could keep only one set; train it "
                    "with train_layer_norms=False."
                )
            for field in SHARED_FIELDS:
                value, other = getattr(config, field), getattr(self.peft_config[adapters[0]], field)
                if value != other:
                    raise InputError(
                        f"Adapter {name!r} has {field} {value!r} and {adapters[0]!r} has {other!r}; fuse adapters of "
                        "equal configuration."
                    )

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict[str, Any]) -> BottleneckConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = bottleneck_targets(self.model, peft_config.variant)
        return peft_config

    def _prepare_model(self, peft_config: BottleneckConfig, model: PreTrainedModel) -> None:
        if peft_config.train_layer_norms:
            peft_config.modules_to_save = sorted({*(peft_config.modules_to_save or ()), *_layer_norms(model)})

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            layer = target
        else:
            layer = bottleneck_layer(target, current_key)
            self._replace_module(parent, target_name, layer, target)
        if peft_config.variant == "parallel":
            layer.read_input_of(feed_forward_input(self.model, current_key))
        layer.update_layer(adapter_name, peft_config)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise InputError(NOT_LINEAR)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """`…bottleneck_adapter.<name>.down.weight` to `…bottleneck_adapter.down.weight`, as it is saved."""
        return re.sub(rf"(\.bottleneck_adapter)\.{re.escape(adapter_name)}\.", r"\1.", key)


def _layer_norms(model: PreTrainedModel) -> list[str]:
    """Full names of the LayerNorms of the encoder; its pooler belongs to the head.

    Raises:
        InputError: where adapters of the pfeiffer variant stand around them.
    """
    encoder = model.base_model
    prefix = "" if encoder is model else f"{model.base_model_prefix}."
    names = []
    for name, module in encoder.named_modules():
        if isinstance(module, NormBottleneckLayer):
            raise InputError(
                f"The LayerNorm {prefix}{name} carries an adapter of the pfeiffer variant and cannot be trained "
                "beside it; leave train_layer_norms out, or load the two adapters into models of their own."
            )
        # An adapter that trains LayerNorms may be there already: PEFT keeps the original and a copy for each.
        if is_layer_norm(module) and not name.startswith("pooler.") and ".modules_to_save." not in name:
            names.append(prefix + name.removesuffix(".original_module"))
    return names
