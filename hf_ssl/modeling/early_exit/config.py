"""The configuration of an encoder with exits: where they stand, what they are, and who leaves at them."""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling.blocks.layer_stack import num_layers
from hf_ssl.modeling.blocks.pooling import check_pooling
from hf_ssl.modeling.early_exit.policies import NEVER, check_policy

HEADS = ("linear", "pooler")
WEIGHTS = ("uniform", "depth", "last")


@strict
class EarlyExitConfig(PreTrainedConfig):
    """Configuration of the five models with exits; labels are given as to transformers' models (`id2label`, ...).

    Args:
        encoder_config (`dict` or `PreTrainedConfig`): of any transformers encoder of text, images or speech.
        exit_layers (`list[int]`, *optional*): after which layers exits stand, counted from 1, rising; stages of a
            hierarchical encoder (Swin, ConvNeXt, ResNet). The last layer is an exit whether or not it is named.
            `None`: after each layer.
        exit_head (`str`): `"linear"`, or `"pooler"`: DeeBERT's dense layer, tanh and dropout before it.
        pooling (`str`, *optional*): what a head of a whole row reads, `"cls"` or `"mean"`; `None` is `"cls"` for text
            and encoders with a class token, else `"mean"`. Heads of tokens and frames do not pool.
        classifier_dropout (`float`): before every exit's last linear layer.
        exit_weights (`str`): the weights w of the loss Σ w_i L_i / Σ w_i over exits: `"uniform"`, `"depth"` (w_i the
            number of the exit's layer, PABEE), or `"last"` (the last exit's loss alone).
        learn_to_exit (`bool`): whether the model has BERxiT's learning-to-exit module, which the policy `"learned"`
            asks; its loss, the squared error of the predicted wrongness, is then added.
        exit_policy (`str`): who leaves early in inference: `"never"` (nobody), `"entropy"`, `"max_probability"`,
            `"margin"`, `"patience"`, `"learned"`; see [`hf_ssl.modeling.early_exit.policies`]. `"never"` returns the
            logits of all exits; where these are not wanted either, a threshold of 1 saves computing them.
        exit_threshold (`float` or `list[float]`): in [0, 1], of all exits or one for each before the last: a row
            leaves where its score is greater. At 1 nobody does, and the exit costs nothing. Not for `"patience"`.
        exit_patience (`int`): how often in a row an exit must have repeated the prediction of the one before.
        exit_guarantee (`dict`, *optional*): what the calibration of the thresholds promised (risk, level,
            confidence, split); for the record.
        vocab_size, pad_token_id, ctc_loss_reduction, ctc_zero_infinity: of [`EarlyExitForCTC`] alone, as in
            transformers' CTC models.

    Raises:
        InputError (within `StrictDataclassClassValidationError`): for exits, thresholds or names that cannot be.
    """

    model_type = "early-exit"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}
    keys_to_ignore_at_inference = ["exit_logits", "exit_errors", "exit_layer", "hidden_states", "attentions"]

    encoder_config: dict | PreTrainedConfig | None = None
    exit_layers: list[int] | None = None
    exit_head: str = "linear"
    pooling: str | None = None
    classifier_dropout: float | int = 0.1
    exit_weights: str = "uniform"
    learn_to_exit: bool = False
    exit_policy: str = NEVER
    exit_threshold: float | int | list[float | int] = 1.0
    exit_patience: int = 1
    exit_guarantee: dict | None = None
    vocab_size: int = 32
    pad_token_id: int | None = 0
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = True

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one frame to the next, which a pipeline counts time stamps by (waveform encoders only)."""
        assert isinstance(self.encoder_config, PreTrainedConfig)
        return math.prod(self.encoder_config.conv_stride)

    @property
    def exits(self) -> list[int]:
        """The layers after which exits stand, counted from 1; the last layer is the last of them."""
        assert isinstance(self.encoder_config, PreTrainedConfig)
        last = num_layers(self.encoder_config)
        layers = range(1, last) if self.exit_layers is None else [layer for layer in self.exit_layers if layer < last]
        return [*layers, last]

    @property
    def thresholds(self) -> list[float]:
        """What the scores of the policy are compared with, one number for each exit before the last."""
        number = len(self.exits) - 1
        if self.exit_policy == "patience":
            return [self.exit_patience - 1.0] * number
        if isinstance(self.exit_threshold, list):
            return [float(threshold) for threshold in self.exit_threshold]
        return [float(self.exit_threshold)] * number

    @property
    def weights(self) -> list[float]:
        """The weights of the exits' losses; they add up to 1."""
        weights = {
            "uniform": [1.0] * len(self.exits),
            "depth": [float(layer) for layer in self.exits],
            "last": [0.0] * (len(self.exits) - 1) + [1.0],
        }[self.exit_weights]
        return [weight / sum(weights) for weight in weights]

    def validate_architecture(self) -> None:
        """Called by `@strict`: refuses names and exits that cannot be, and then thresholds."""
        check_policy(self.exit_policy)
        if self.exit_head not in HEADS:
            raise unknown_name("exit head", self.exit_head, HEADS)
        if self.exit_weights not in WEIGHTS:
            raise unknown_name("weighting of exits", self.exit_weights, WEIGHTS)
        if self.pooling is not None:
            check_pooling(self.pooling)
        if isinstance(self.encoder_config, PreTrainedConfig):  # `None` while transformers looks at the class
            self._check_exit_layers(num_layers(self.encoder_config))
            self.check_policy()

    def _check_exit_layers(self, last: int) -> None:
        layers = self.exit_layers or []
        beyond = [layer for layer in layers if not 1 <= layer <= last]
        if beyond:
            raise InputError(f"There is no layer {beyond[0]} for an exit; the encoder has layers 1 to {last}.")
        if layers != sorted(set(layers)):
            raise InputError(f"exit_layers is {layers}; name each layer once, in rising order.")

    def check_policy(self) -> None:
        """Refuse thresholds and a patience that cannot be: fields may have been set since the config was made."""
        check_policy(self.exit_policy)
        number = len(self.exits) - 1
        given = self.exit_threshold if isinstance(self.exit_threshold, list) else [self.exit_threshold]
        if isinstance(self.exit_threshold, list) and len(given) != number:
            raise InputError(
                f"exit_threshold has {len(given)} numbers; give one for each of the {number} exits before the last."
            )
        outside = [threshold for threshold in given if not 0 <= threshold <= 1]
        if outside:
            raise InputError(f"exit_threshold is {outside[0]}; give a number from 0 to 1 (1: nobody leaves there).")
        if self.exit_patience < 1:
            raise InputError(f"exit_patience is {self.exit_patience}; give a number of repetitions, 1 or more.")
        counts_classes = self.num_labels > 1 and self.problem_type in (None, "single_label_classification")
        if (self.exit_policy != NEVER or self.learn_to_exit) and not counts_classes:
            raise InputError(
                f"Exits compare classes, but the task is {self.problem_type or 'regression'} with {self.num_labels} "
                "labels; set exit_policy to 'never' and leave learn_to_exit out."
            )
        if self.exit_policy == "learned" and not self.learn_to_exit:
            raise InputError(
                "The exit policy 'learned' asks a module that this model lacks; train with learn_to_exit."
            )
