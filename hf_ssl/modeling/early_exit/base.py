"""What the five models with exits have in common: the encoder, its exits, and the two ways to go through them."""

# B rows, T tokens or frames, D hidden, C classes

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.layer_stack import layer_stack
from hf_ssl.modeling.blocks.pooling import check_class_token, has_class_token
from hf_ssl.modeling.blocks.pretrained import build_encoder
from hf_ssl.modeling.early_exit.config import EarlyExitConfig
from hf_ssl.modeling.early_exit.heads import ExitHead, LearningToExit, width_after
from hf_ssl.modeling.early_exit.layer_inputs import run_to_the_end
from hf_ssl.modeling.early_exit.leaving import Leaving
from hf_ssl.modeling.early_exit.output import EarlyExitOutput
from hf_ssl.modeling.early_exit.policies import NEVER, over_positions
from hf_ssl.modeling.early_exit.stopping import Sizes, run_until_all_have_left

Inputs = dict[str, Any]


class EarlyExitModel(PreTrainedModel):
    """A transformers encoder with a head after some of its layers; base of the five models.

    A checkpoint of the bare encoder loads into it: `AutoModelFor….from_pretrained(encoder, config=EarlyExitConfig(
    encoder_config=...))`. Training, labels and the policy `"never"` take every row through all layers; else rows leave
    at the first exit that is certain enough of them, and the layers after it do not run for them.

    `torch.compile` takes the model, or each layer of [`layer_stack`] by itself (`layer.compile(dynamic=True)`). Where
    rows leave the graph breaks, since the size of the next layer's batch is known only when it has run so far.
    """

    config: EarlyExitConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # what `forward` does not know goes to the encoder
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    reads_positions = False
    """Whether a head reads every token or frame, or one vector a row."""
    reduction = "least"
    """Which of the certainties of its tokens or frames is a row's, see [`over_positions`]."""

    def __init__(self, config: EarlyExitConfig) -> None:
        super().__init__(config)
        assert isinstance(config.encoder_config, PreTrainedConfig)
        self._check_encoder(config.encoder_config)
        self.backbone = build_encoder(config.encoder_config, with_pooler=False)
        layer_stack(self.backbone)  # refuses an encoder whose layers are not to be found
        self.main_input_name = self.backbone.main_input_name
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.exit_layers = config.exits
        widths = [width_after(config.encoder_config, layer) for layer in self.exit_layers]
        self.exits = nn.ModuleList(
            ExitHead(
                width,
                self.num_classes,
                pooling=self._pooling(),
                with_pooler=config.exit_head == "pooler",
                dropout=config.classifier_dropout,
                with_norm=layer != self.exit_layers[-1],
            )
            for layer, width in zip(self.exit_layers, widths, strict=True)
        )
        if config.learn_to_exit and len(set(widths)) > 1:
            raise InputError(f"One module cannot learn to exit at layers of widths {widths}; leave learn_to_exit out.")
        self.wrongness = LearningToExit(widths[-1]) if config.learn_to_exit else None
        self._argument_sizes: Sizes = {}
        self.post_init()

    @property
    def num_classes(self) -> int:
        """C."""
        return self.config.num_labels

    def mask_of(self, hidden: Tensor, inputs: Inputs) -> Tensor | None:
        """The real positions (B, T) of hidden states of the whole batch or some of it; `None` without padding."""
        return None

    def exit_loss(self, logits: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
        """The loss of one exit, as transformers' models of the task have it."""
        return self.loss_function(labels, logits, self.config)

    def run(self, inputs: Inputs, labels: Tensor | None) -> EarlyExitOutput:
        """Through all layers, or as far as each row needs.

        Args:
            inputs (`dict[str, Any]`): of the encoder; `None` stands for what is not given.
            labels (`Tensor`, *optional*): as transformers' models of the task take them.
        """
        inputs = {name: value for name, value in inputs.items() if value is not None}
        if self.training or labels is not None or self.config.exit_policy == NEVER:
            return self._run_to_the_end(inputs, labels)
        return self._run_until_certain(inputs)

    def _run_to_the_end(self, inputs: Inputs, labels: Tensor | None) -> EarlyExitOutput:
        def read(place: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            mask = self.mask_of(hidden, inputs)
            return *self.exits[place](hidden, mask), mask

        readings, outputs = run_to_the_end(self.backbone, self.exit_layers, inputs, read)
        logits, masks = [of_exit for _, of_exit, _ in readings], [mask for _, _, mask in readings]
        errors = None if self.wrongness is None else [self.wrongness(features) for features, _, _ in readings]
        loss = None
        if labels is not None:
            weighted = zip(self.config.weights, logits, strict=True)
            losses = [weight * self.exit_loss(given, labels, inputs) for weight, given in weighted if weight > 0]
            loss = torch.stack(losses).sum()
            if errors is not None:
                loss = loss + _error_of_wrongness(errors, logits, labels)
        if errors is not None and self.reads_positions:
            errors = [
                1 - over_positions(1 - wrong, mask, self.reduction) for wrong, mask in zip(errors, masks, strict=True)
            ]
        return EarlyExitOutput(
            loss=loss,
            logits=logits[-1],
            exit_logits=tuple(logits),
            exit_errors=None if errors is None else tuple(errors),
            exit_layer=torch.full((len(logits[-1]),), self.exit_layers[-1], device=logits[-1].device),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _run_until_certain(self, inputs: Inputs) -> EarlyExitOutput:
        self.config.check_policy()
        for name in ("output_hidden_states", "output_attentions"):
            if inputs.get(name):
                raise InputError(f"{name} needs rows that go through all layers; set exit_policy to 'never'.")

        def begin() -> Leaving:
            return Leaving(
                self.exits,
                self.exit_layers,
                policy=self.config.exit_policy,
                thresholds=self.config.thresholds,
                wrongness=self.wrongness,
                reduction=self.reduction,
                mask_of=lambda hidden: self.mask_of(hidden, inputs),
            )

        leaving = run_until_all_have_left(self.backbone, begin, self._argument_sizes, inputs)
        return EarlyExitOutput(logits=leaving.logits, exit_layer=leaving.exit_layer)

    def _check_encoder(self, encoder_config: PreTrainedConfig) -> None:
        if vars(encoder_config).get("add_adapter"):
            raise InputError(
                "The encoder has an adapter after its last layer, which earlier exits lack; set add_adapter to False."
            )

    def _pooling(self) -> str | None:
        if self.reads_positions:
            return None
        if self.config.pooling == "cls":
            check_class_token(self.backbone)
        return self.config.pooling or ("cls" if has_class_token(self.backbone) else "mean")


def _error_of_wrongness(errors: list[Tensor], logits: list[Tensor], labels: Tensor) -> Tensor:
    """The squared error of the predicted wrongness, 1 where an exit's class is not the label; a mean over exits.

    BERxiT, section 3.3: what is right is not learned from here, so no gradient goes into the logits.
    """
    counted = labels != IGNORED
    squares = [
        (predicted - (given.argmax(dim=-1) != labels).to(predicted.dtype)).square() * counted
        for predicted, given in zip(errors, logits, strict=True)
    ]
    return torch.stack(squares).sum() / (counted.sum() * len(squares))
