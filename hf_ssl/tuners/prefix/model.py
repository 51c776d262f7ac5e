"""Prefix tuning as a method of PEFT."""

import re
from typing import Any, cast

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import calls_of_group
from hf_ssl.tuners.prefix.attention import attention_function, takes_prefix
from hf_ssl.tuners.prefix.config import PrefixConfig
from hf_ssl.tuners.prefix.layer import PrefixLayer, refusal_to_merge
from hf_ssl.tuners.prefix.own_attention import OWN_ATTENTION


class PrefixModel(BaseTuner):
    """Puts a `PrefixLayer` around every attention of an encoder.

    ALBERT runs the same attention `num_hidden_layers` times, and each time it has other keys and values: it counts the
    calls from the start of each forward pass. Recomputing some of them in the backward pass would be miscounted;
    transformers has no gradient checkpointing for ALBERT, and for all others a layer is one call.
    """

    prefix = "encoder_prefix_"
    tuner_layer_cls = PrefixLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(self, peft_config: PrefixConfig, model_config: dict[str, Any]) -> PrefixConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = attention_modules(self.model)
        return peft_config

    def _create_and_replace(
        self,
        peft_config: PrefixConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(layer, PrefixLayer):
            if not takes_prefix(target):
                raise InputError(
                    f"{current_key} ({type(target).__name__}) is no attention that a prefix can be joined to; give "
                    "attention modules in target_modules, or leave it out for those of the encoder."
                )
            if type(target) not in OWN_ATTENTION:
                attention_function(target, cast(PreTrainedConfig, target.config))
            layer = self._wrap(target, current_key)
            self._replace_module(parent, target_name, layer, target)
        first = next((other for other in prefix_layers(self.model) if other.has(adapter_name)), layer)
        layer.update_layer(adapter_name, peft_config, first)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Nothing more: PEFT's own looks for the weight of a layer, which an attention has not."""
        setattr(parent, child_name, new_module)

    def _wrap(self, attention: nn.Module, key: str) -> PrefixLayer:
        shared = re.fullmatch(r"(.*?)\.?albert_layer_groups\.(\d+)\..*", key)
        if shared is None:
            return PrefixLayer(attention)
        layer = PrefixLayer(attention, calls_of_group(self.model.base_model.config, int(shared[2])))
        layer.count_calls_from(self.model.get_submodule(shared[1]))
        return layer

    def _check_merge_allowed(self) -> None:
        raise refusal_to_merge()


def attention_modules(model: PreTrainedModel) -> str:
    """The `target_modules` of a `PrefixConfig`: a regular expression that the names of the attentions of the encoder
    match, and none outside of it.

    Args:
        model (`PreTrainedModel`): an encoder, or a model with an encoder under its `base_model_prefix`.

    Raises:
        InputError: for an encoder without attention, or with one that a prefix cannot reach.
    """
    encoder = model.base_model
    # With a prefix already there, the attention is the base layer of that one.
    names = {
        re.sub(r"\d+", r"\\d+", re.escape(name.removesuffix(".base_layer")))
        for name, module in encoder.named_modules()
        if takes_prefix(module)
    }
    if not names:
        raise InputError(
            f"A {encoder.config.model_type} encoder has no attention that a prefix can be joined to; take another "
            "method of fine-tuning, such as LoRA."
        )
    prefix = "" if encoder is model else re.escape(f"{model.base_model_prefix}.")
    return rf"{prefix}({'|'.join(sorted(names))})"


def prefix_layers(model: nn.Module) -> list[PrefixLayer]:
    """The layers with prefixes, in the order in which the model has them."""
    return [module for module in model.modules() if isinstance(module, PrefixLayer)]


def drop_reparametrisation(model: PeftModel | PreTrainedModel, adapter_name: str = "default") -> None:
    """Replace the MLP of a trained prefix by the keys and values that it makes; outputs stay as they are.

    What `save_pretrained` writes is then the prefix alone. Call it when training is over: until then checkpoints need
    the MLP to be resumed. Without a re-parametrisation there is nothing to do.

    Args:
        model (`PeftModel` or `PreTrainedModel`): the model with the prefix in it.
        adapter_name (`str`): the prefix.
    """
    layers = [layer for layer in prefix_layers(model) if adapter_name in layer.encoder_prefix_output]
    # All before the first is dropped: that one holds what the others are made of.
    for layer in layers:
        layer.flatten(adapter_name)
    for layer in layers:
        layer.drop_reparametrisation(adapter_name)
    model.peft_config[adapter_name].reparametrisation = None
