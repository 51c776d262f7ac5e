"""A student that learns from its frozen teacher, by any of the named losses."""

# B rows, T positions, D hidden size

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pretrained import OPTIONAL, SSLPreTrainedModel
from hf_ssl.modeling.blocks.token_masking import mask_tokens
from hf_ssl.modeling.distillation.config import DistillationConfig
from hf_ssl.modeling.distillation.layers import inherit, layers_of_student, smaller_config, sources_of_layers
from hf_ssl.modeling.distillation.losses import LOSSES
from hf_ssl.modeling.distillation.positions import Batch, Positions
from hf_ssl.modeling.distillation.recorded_attention import record_attention
from hf_ssl.modeling.distillation.states import read
from hf_ssl.modeling.distillation.teacher import Teacher, load_teacher
from hf_ssl.modeling.distillation.term import Term
from hf_ssl.modeling.distillation.vocabulary_head import fresh_head, tied_weights

logger = logging.getLogger(__name__)

INPUTS = ("input_ids", "input_values", "input_features", "pixel_values", "attention_mask")
"""What of a batch the encoders read."""


class DistillationModel(SSLPreTrainedModel):
    """An encoder that learns to represent data as a larger one of its family does.

    `L = Σ_n w_n L_n`, the losses of `config.losses` ([`LOSSES`]), of the states of student and teacher on the same
    unlabelled batch: tokens, of which a share may be masked for both; recordings; or each of the views of an image.

    The teacher is no part of the weights: [`from_teacher`] gives the student one, or [`attach`] with what
    [`load_teacher`] has loaded; what is saved is its address and its fingerprint. It is frozen, in evaluation mode and
    in fp32 (under autocast in its precision).

    Deviations from the papers' code: tokens are masked uniformly, where DistilBERT's prefers rare ones (count^−.7);
    its student has no token types, where here it has the teacher's architecture; DistilHuBERT scales the CNN's
    gradient by .1, here it is as any other.
    """

    config: DistillationConfig

    def __init__(self, config: DistillationConfig) -> None:
        super().__init__(config)
        assert config.losses is not None
        self.main_input_name = self.encoder.main_input_name
        self.terms: Mapping[str, Term] = nn.ModuleDict({name: LOSSES[name](config) for name in config.losses})  # type: ignore[assignment]
        self.head: nn.Module | None = None
        if config.reads_logits:
            self.head = fresh_head(config.teacher_config, self.encoder.config)
            embeddings = self.get_input_embeddings()
            name = next(name for name, module in self.named_modules() if module is embeddings)
            self._tied_weights_keys = tied_weights(self.head, "head", f"{name}.weight")
        if config.reads_attention:
            record_attention(self.encoder)
        self._teachers: tuple[Teacher, ...] = ()  # in a tuple, so that it is no submodule
        self.post_init()
        for name, parameter in self.encoder.named_parameters():
            if any(part in name for part in OPTIONAL):
                parameter.requires_grad = False  # what masked input alone trains

    @classmethod
    def from_teacher(cls, address: str | Path, student: Mapping[str, Any], **config: Any) -> Self:
        """A student that starts from its teacher's layers, with its teacher.

        Args:
            address (`str` or `Path`): the teacher, see [`load_teacher`].
            student (`Mapping[str, Any]`): the fields in which its config differs from the teacher's.
            config: fields of [`DistillationConfig`], except those of student and teacher.

        Returns:
            the model in training mode, in fp32. Weights whose shapes differ from the teacher's start at random.

        Raises:
            InputError: for a teacher that cannot be used, or a student that does not fit it.
        """
        with_head = any(LOSSES[name].reads_logits for name in config.get("losses") or () if name in LOSSES)
        teacher = load_teacher(address, with_head=with_head)
        theirs = teacher.encoder.config
        layers = layers_of_student(theirs, student, config.get("initial_layers", "every_other"))
        # Copies of the teacher's config, since models write into the configs that they hold.
        model = cls(
            cls.config_class(
                encoder_config=smaller_config(theirs, student, layers),
                teacher_config=copy.deepcopy(teacher.checkpoint_config),
                teacher=str(address),
                teacher_fingerprint=teacher.fingerprint,
                **config,
            )
        )
        fresh = model.start_from(teacher, layers)
        logger.info(
            "The student starts from the teacher's layers %s; %d of its %d weights do not fit and start at random.",
            layers or "as they are",
            len(fresh),
            len(model.encoder.state_dict()) + (0 if model.head is None else len(model.head.state_dict())),
        )
        model.attach(teacher)
        return model.train()

    def start_from(self, teacher: Teacher, layers: list[int]) -> list[str]:
        """Take over the teacher's weights that fit.

        Args:
            teacher ([`Teacher`]): of the same family.
            layers (`list[int]`): its layer for each of the student's; empty for an encoder of stages.

        Returns:
            `list[str]`: the names of the weights that stay as they were.
        """
        weights = teacher.encoder.state_dict()
        alike = {name: name for name in weights}
        sources = sources_of_layers(self.encoder, teacher.encoder, layers) if layers else alike
        fresh = [f"encoder.{name}" for name in inherit(self.encoder, weights, sources)]
        if self.head is not None:
            assert teacher.head is not None
            of_head = teacher.head.state_dict()
            fresh += [f"head.{name}" for name in inherit(self.head, of_head, {name: name for name in of_head})]
            self.tie_weights()
        return fresh

    def attach(self, teacher: Teacher) -> None:
        """Give the student its teacher.

        Raises:
            InputError: for another teacher than the one that the student began with.
        """
        if self.config.teacher_fingerprint not in (None, teacher.fingerprint):
            raise InputError(
                f"The weights of {self.config.teacher} are not those that this student has learned from (fingerprint "
                f"{teacher.fingerprint}, then {self.config.teacher_fingerprint}); give it the same teacher."
            )
        if self.config.reads_attention:
            record_attention(teacher.encoder)
        self._teachers = (teacher.to(self.device),)

    def _apply(self, fn: Callable, recurse: bool = True) -> Self:
        """The teacher goes where the student goes."""
        for teacher in self._teachers:
            teacher._apply(fn)
        return super()._apply(fn, recurse)

    @staticmethod
    def draw_inputs(config: Any, batch: Batch, generators: list[torch.Generator]) -> Batch:
        """Mask a share of the tokens of texts; recordings and images stay as they are.

        Args:
            config ([`DistillationConfig`]): its `mlm_probability` and `mask_token_id`.
            batch (`dict[str, Tensor]`): collated data of B rows.
            generators (`list[torch.Generator]`): one a row.

        Returns:
            `dict[str, Tensor]`: what [`forward`] takes, and of images what their transform on the device does.
        """
        if "input_ids" not in batch:
            return batch
        columns = ("input_ids", "attention_mask", "special_tokens_mask", "word_starts")
        batch = {name: batch[name] for name in columns}
        if config.mlm_probability == 0:
            return {name: batch[name] for name in columns[:2]}
        return mask_tokens(
            batch,
            generators,
            share=config.mlm_probability,
            mask_token_id=config.mask_token_id,
            vocab_size=config.encoder_config.vocab_size,
        )

    def count_predictions(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        """Over how much each loss is a mean: real positions, pairs of them, masked tokens; of images, views."""
        positions, labels = Positions(as_rows(batch), self.encoder.config), batch.get("labels")
        return {name: term.count(positions, labels) for name, term in self.terms.items()}

    @can_return_tuple
    def forward(
        self,
        labels: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **inputs: Tensor,
    ) -> SSLOutput:
        """The loss of a batch.

        Args:
            labels (`Tensor` of shape `(B, T)`, *optional*): the hidden tokens, −100 elsewhere.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): the divisors of the losses; by default those of this
                batch ([`count_predictions`]).
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            inputs: what the encoders read ([`INPUTS`]); `pixel_values` (B, C, H, W), or (B, V, C, H, W) of V views.

        Returns:
            [`SSLOutput`]: the losses by their names, unweighted; `features` (B, D), the mean of the student's output.

        Raises:
            InputError: without a teacher.
        """
        if not self._teachers:
            raise InputError(
                f"This student has no teacher; give it its own: model.attach(load_teacher({self.config.teacher!r}, "
                f"with_head={self.config.reads_logits}))."
            )
        (teacher,) = self._teachers
        inputs = as_rows({name: value for name, value in inputs.items() if name in INPUTS})
        positions = Positions(inputs, self.encoder.config)
        with torch.no_grad():
            theirs = read(teacher.encoder, teacher.head, inputs)
        ours = read(self.encoder, self.head, inputs)

        counts = {name: term.count(positions, labels) for name, term in self.terms.items()}
        divisors = num_items_in_batch or {name: count.clamp(min=1) for name, count in counts.items()}
        terms = {name: term(ours, theirs, positions, labels) / divisors[name] for name, term in self.terms.items()}
        weights = self.config.losses
        assert weights is not None
        return SSLOutput(
            loss=torch.stack([weights[name] * term for name, term in terms.items()]).sum(),
            loss_terms={name: term.detach() for name, term in terms.items()},
            num_predictions=counts,
            features=positions.mean(ours.last.detach()),
        )


def as_rows(batch: Batch) -> Batch:
    """The views (B, V, C, H, W) of images as rows (BV, C, H, W); other batches as they are."""
    if "pixel_values" not in batch or batch["pixel_values"].dim() == 4:
        return batch
    return {**batch, "pixel_values": batch["pixel_values"].flatten(0, 1)}
