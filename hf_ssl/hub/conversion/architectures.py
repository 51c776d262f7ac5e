"""What a class here has in common with a model of fairseq."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.dictionary import Dictionary
from hf_ssl.hub.conversion.encoder_names import Names, encoder_names, prefixed
from hf_ssl.hub.conversion.settings import Settings
from hf_ssl.modeling.blocks.pretrained import SSLConfig

FINE_TUNED_ENCODER = "w2v_encoder.w2v_model."
"""Where fairseq's CTC models hold their encoder."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """One class, its parameters and its config, as the counterpart of a model of fairseq.

    Args:
        model_class (`type[PreTrainedModel]`): of transformers, or an objective of this package.
        family (`str`): the objective that fairseq trained the encoder with.
        prefix (`str`): of the encoder's parameters in the class.
        to_config: makes the class's config from fairseq's settings, the encoder's config and fairseq's weights.
        to_sections: makes what fairseq's `model`, `task` and `criterion` settings hold beyond the encoder.
        heads: names the parameters outside the encoder, given the class's config.
        set_aside (`tuple[str, ...]`): beginnings of the names of fairseq's parameters that the class has no place for.
        fine_tuned (`bool`): for CTC.
        has_teacher (`bool`): whether the class has data2vec's teacher.
        prepare: brings fairseq's weights into a form in which names are enough; given the dictionary of its labels.
        restore: the reverse.
        state: makes what the class's state dict holds that fairseq's does not, from fairseq's settings and the
            class's config.
    """

    model_class: type[PreTrainedModel]
    family: str
    prefix: str
    to_config: Callable[[Settings, PreTrainedConfig, Weights], PreTrainedConfig]
    to_sections: Callable[[PreTrainedConfig], dict[str, dict[str, Any]]]
    heads: Callable[[PreTrainedConfig], Names] = lambda config: {}
    set_aside: tuple[str, ...] = ()
    fine_tuned: bool = False
    has_teacher: bool = False
    prepare: Callable[[Weights, Dictionary | None], Weights] = lambda weights, dictionary: weights
    restore: Callable[[Weights, Dictionary | None], Weights] = lambda weights, dictionary: weights
    state: Callable[[Settings, PreTrainedConfig], Weights] = lambda settings, config: {}

    def names(self, config: PreTrainedConfig) -> Names:
        """By fairseq's name of every parameter of the class, its name there."""
        inside = FINE_TUNED_ENCODER if self.fine_tuned else ""
        return prefixed(encoder_names(encoder_config_of(config)), inside, self.prefix) | self.heads(config)

    def check_shapes(self, config: PreTrainedConfig, weights: Weights) -> None:
        """Compare names and shapes with those of the class itself, which is built without memory.

        Args:
            config (`PreTrainedConfig`): of the class.
            weights (`dict[str, Tensor]`): by their names in the class.

        Raises:
            InputError: for a parameter whose shape is not what the settings say.
        """
        with torch.device("meta"):
            expected = self.model_class(config).state_dict()
        if expected.keys() != weights.keys():
            raise AssertionError(f"{self.model_class.__name__}: {sorted(expected.keys() ^ weights.keys())}")
        for name, weight in weights.items():
            if weight.shape != expected[name].shape:
                raise InputError(
                    f"{name} has the shape {tuple(weight.shape)}, but the checkpoint's settings make it "
                    f"{tuple(expected[name].shape)}; settings and weights are not of the same model."
                )


def encoder_config_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """The encoder's config: the nested one of an objective, or the config itself."""
    return config.encoder_config if isinstance(config, SSLConfig) else config
