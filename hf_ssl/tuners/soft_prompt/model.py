"""Soft prompts as a method of PEFT."""

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import calls_of_group, layer_stack_name
from hf_ssl.tuners.soft_prompt.config import SoftPromptConfig
from hf_ssl.tuners.soft_prompt.initialisation import start_from, uniform_bound, vectors_of
from hf_ssl.tuners.soft_prompt.layer import SoftPromptLayer, refusal_to_merge
from hf_ssl.tuners.soft_prompt.stream import PromptStream

WITHOUT_PLACE = {
    "longformer": "cut the tokens into windows",
    "roformer": "are given a rotation for each token",
    "squeezebert": "have the tokens along their last axis",
    "xlnet": "have the tokens along their first axis",
}
"""Families of which a layer is given something else than states (B, T, D) and a mask that can be extended."""


class SoftPromptModel(BaseTuner):
    """Puts a `SoftPromptLayer` around every layer of an encoder; one of shallow prompts, too, has to cut them off."""

    prefix = "soft_prompt_"
    tuner_layer_cls = SoftPromptLayer
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(self, model: PreTrainedModel, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add a prompt, and let it start from where its config says, unless it comes from a file."""
        config = self.peft_config[adapter_name]
        vectors = None if config.initialised or config.init == "random" else vectors_of(model, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if vectors is not None:
            start_from(model, vectors, adapter_name)

    def _prepare_adapter_config(self, peft_config: SoftPromptConfig, model_config: dict[str, Any]) -> SoftPromptConfig:
        self._layers = prompted_layers(self.model)
        if peft_config.target_modules is None:
            peft_config.target_modules = self._layers
        return peft_config

    def _prepare_model(self, peft_config: SoftPromptConfig, model: PreTrainedModel) -> None:
        streams = [module.stream for module in model.modules() if isinstance(module, SoftPromptLayer)]
        encoder = model.base_model
        stack_owner = layer_stack_name(encoder).rpartition(".")[0]
        self._stream = streams[0] if streams else PromptStream(encoder.get_submodule(stack_owner))

    def _create_and_replace(
        self,
        peft_config: SoftPromptConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if not re.fullmatch(self._layers, current_key):
            raise InputError(
                f"{current_key} ({type(target).__name__}) is no layer of the encoder; give layers in target_modules, "
                "or leave it out for all."
            )
        config = self.model.base_model.config
        layer = target
        if not isinstance(layer, SoftPromptLayer):
            layer = SoftPromptLayer(target, self._stream, self._num_calls(current_key))
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, peft_config, config.hidden_size, uniform_bound(config))
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own takes what it replaces for a layer with a weight.
        setattr(parent, child_name, new_module)

    def _num_calls(self, key: str) -> int:
        group = re.search(r"albert_layer_groups\.(\d+)\.", key)
        return 1 if group is None else calls_of_group(self.model.base_model.config, int(group[1]))

    def _check_merge_allowed(self) -> None:
        raise refusal_to_merge()


def prompted_layers(model: PreTrainedModel) -> str:
    """The `target_modules` of a `SoftPromptConfig`: a regular expression that the names of the encoder's layers match.

    Args:
        model (`PreTrainedModel`): an encoder, or a model with an encoder under its `base_model_prefix`.

    Raises:
        InputError: for an encoder whose layers have no place for prompts.
    """
    encoder = model.base_model
    family, fields = encoder.config.model_type, encoder.config.to_dict()
    if "depths" in fields:
        raise InputError(
            f"A {family} encoder has stages of windows or of feature maps, not one sequence of tokens that soft "
            "prompts could join; take another method of fine-tuning, such as LoRA."
        )
    if family in WITHOUT_PLACE:
        raise InputError(
            f"The layers of a {family} encoder {WITHOUT_PLACE[family]}, which soft prompts cannot join; take another "
            "method of fine-tuning, such as LoRA."
        )
    if encoder.config._attn_implementation not in ("sdpa", "eager"):
        raise InputError(
            f"Soft prompts do not extend the masks of {encoder.config._attn_implementation} attention; load the model "
            "with attn_implementation='sdpa' or 'eager'."
        )
    prefix = "" if encoder is model else f"{model.base_model_prefix}."
    layers = re.escape(f"{prefix}{layer_stack_name(encoder)}.") + r"\d+"
    return layers + r"\.albert_layers\.\d+" if "num_hidden_groups" in fields else layers
