"""What a fine-tuning run says of exits: where they stand, and how they are trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_ssl.errors import InputError
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.typed_values import converted


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training of a model with exits.

    Args:
        weights (`tuple[str, ...]`): `exit_weights` of [`EarlyExitConfig`], of the optimiser steps in turn.
        trains (`str`): `"all"`; `"backbone"`: the encoder (or its adapter) with the last exit; `"exits"`: all others.
        distils (`bool`): whether exits learn what the last exit says, in place of the labels.
    """

    weights: tuple[str, ...] = ("uniform",)
    trains: str = "all"
    distils: bool = False


BACKBONE = Stage(weights=("last",), trains="backbone")

SCHEMES: dict[str, tuple[Stage, ...]] = {
    "joint": (Stage(),),
    "depth_weighted": (Stage(weights=("depth",)),),
    "alternating": (Stage(weights=("last", "uniform")),),
    "two_stage": (BACKBONE, Stage(trains="exits")),
    "self_distillation": (BACKBONE, Stage(weights=("last",), trains="exits", distils=True)),
}
"""How exits are trained; `training.exit_scheme`.

* joint: all exits at once with equal weights (BERxiT, Xin et al. 2021; HuBERT-EE, arXiv:2204.06328, with λ = 1).
* depth_weighted: an exit's weight is the number of its layer (PABEE, Zhou et al. 2020, arXiv:2006.04152).
* alternating: the last exit alone in every other step, beginning with the first, and all in the others (BERxiT).
* two_stage: the encoder with its last exit first; then those are frozen, and the others learn (DeeBERT, Xin et al.
  2020, arXiv:2004.12993).
* self_distillation: likewise, but the others learn the last exit's probabilities (FastBERT, Liu et al. 2020,
  arXiv:2004.02178, section 3.2), for which it would need no labels.
"""


@dataclass(kw_only=True)
class ExitArguments:
    """`model.exits` of a run.

    Args:
        layers (`list[int]` or `str`): after which layers exits stand, counted from 1, rising; or `"all"`. The last
            layer is an exit in any case.
        head (`str`): `"linear"`, or `"pooler"` with a dense layer and tanh before it.
        pooling (`str`, *optional*): what the head of a whole row reads: `"cls"`, `"mean"`, or `None` for `"cls"` of
            text and of encoders with a class token. In the first layers of an encoder that was not trained by its
            class token (sentence-transformers), that knows next to nothing: give `"mean"`.
        learn_to_exit (`bool`): whether BERxiT's module is trained, too, which predicts whether an exit is wrong (for
            the policy `"learned"`).
    """

    layers: list[int] | str = "all"
    head: str = "linear"
    pooling: str | None = None
    learn_to_exit: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ExitArguments":
        """The arguments of a run file's mapping.

        Raises:
            InputError: for an unknown key, or a value of the wrong kind.
        """
        arguments = cls(**converted(cls, values, "model.exits"))
        if isinstance(arguments.layers, str) and arguments.layers != "all":
            raise InputError(f"model.exits.layers is {arguments.layers!r}; give numbers, e.g. [2,4,6], or all.")
        return arguments

    def config(self, encoder_config: PreTrainedConfig) -> EarlyExitConfig:
        """The config of the model around such an encoder.

        Raises:
            InputError: for exits beyond the encoder's depth, none before its end, or a head or pooling that is not
                known.
        """
        try:
            config = EarlyExitConfig(
                encoder_config=encoder_config,
                exit_layers=None if self.layers == "all" else self.layers,
                exit_head=self.head,
                pooling=self.pooling,
                learn_to_exit=self.learn_to_exit,
            )
        except StrictDataclassError as error:
            raise InputError(f"model.exits cannot be used: {error.__cause__ or error}") from error
        if len(config.exits) == 1:
            raise InputError(
                f"model.exits.layers={self.layers} leaves no exit before the last layer, {config.exits[0]}; name an "
                "earlier layer, too."
            )
        return config
