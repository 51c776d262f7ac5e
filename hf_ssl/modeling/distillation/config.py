"""The configuration of a distillation."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling.blocks.pretrained import SSLConfig
from hf_ssl.modeling.distillation.layers import chosen_layers, num_layers_of
from hf_ssl.modeling.distillation.losses import LOSSES


@strict
class DistillationConfig(SSLConfig):
    """A student, its teacher and the losses by which it learns.

    Layers of the teacher are counted from 1, as the papers do; those that the student starts from, from 0, as they lie
    in the encoder's list.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): the student's.
        teacher_config (`dict` or `PreTrainedConfig`, *optional*): of the teacher's checkpoint: an encoder, or a whole
            objective of hf_ssl.
        teacher (`str`, *optional*): the teacher's folder or name on the Hub.
        teacher_fingerprint (`str`, *optional*): of its weights, see [`Teacher`]; another teacher is refused.
        initial_layers (`str` or `list[int]`): the teacher's layers that the student starts from: `"every_other"`,
            `"first"`, or the layers themselves.
        losses (`dict[str, float]`, *optional*): the weights, above 0, of the losses by their names in
            [`hf_ssl.modeling.distillation.losses.LOSSES`]; by default `cosine` alone.
        temperature (`float`): above 0, of `logits`.
        mlm_probability (`float`): share in [0, 1) of a text's tokens that student and teacher see corrupted; the
            student predicts them where there is a loss `mlm`.
        mask_token_id (`int`, *optional*): the tokenizer's, where tokens are masked.
        predicted_layers (`list[int]`, *optional*): the teacher's layers that `layer_prediction` predicts; by default
            the thirds of its depth (4, 8 and 12 of 12).
        cosine_weight (`float`): λ of `layer_prediction`.
        layer_map (`list[int]`, *optional*): the teacher's layer g(m) for each layer m of the student, in
            `hidden_states` and `attention_scores`; by default g(m) = ⌊m · N/M⌋.
        attention_layer (`int`, *optional*): the teacher's layer of `attention`, `value_relation` and `relations`; by
            default its last.
        num_relation_heads (`int`, *optional*): of `relations`; by default as many as the teacher has attention heads.

    Raises:
        InputError: for unknown losses, values out of range, or a student and a teacher that the losses cannot compare.
    """

    model_type = "distillation"
    sub_configs_defaults = {
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "teacher_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    teacher_config: dict | PreTrainedConfig | None = None
    teacher: str | None = None
    teacher_fingerprint: str | None = None
    initial_layers: str | list[int] = "every_other"
    losses: dict[str, float | int] | None = None
    temperature: float | int = 2.0
    mlm_probability: float | int = 0.0
    mask_token_id: int | None = None
    predicted_layers: list[int] | None = None
    cosine_weight: float | int = 1.0
    layer_map: list[int] | None = None
    attention_layer: int | None = None
    num_relation_heads: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.losses = {"cosine": 1.0} if self.losses is None else dict(self.losses)
        self._check_values()
        self._check_student()
        if any(LOSSES[name].reads_layers for name in self.losses):
            self._set_layers()
        for name in self.losses:
            LOSSES[name].check(self)
        self.tie_word_embeddings = self.reads_logits and self.teacher_config.tie_word_embeddings  # type: ignore[union-attr]
        self._draw_nothing_inside()

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Where transformers looks for the vocabulary, and the trainer for the special tokens."""
        return self.encoder_config

    @property
    def teacher_encoder_config(self) -> PreTrainedConfig:
        """The config of the teacher's encoder."""
        teacher = self.teacher_config
        assert isinstance(teacher, PreTrainedConfig)
        return teacher.encoder_config if isinstance(teacher, SSLConfig) else teacher

    @property
    def reads_logits(self) -> bool:
        """Whether a loss reads the scores of a vocabulary."""
        return any(LOSSES[name].reads_logits for name in self.losses or ())

    @property
    def reads_attention(self) -> bool:
        """Whether a loss reads queries, keys or values."""
        return any(LOSSES[name].reads_attention for name in self.losses or ())

    def _check_values(self) -> None:
        if not self.losses:
            raise InputError(f"model.losses is {self.losses}; give at least one of: {', '.join(LOSSES)}.")
        for name, weight in self.losses.items():
            if name not in LOSSES:
                raise unknown_name("loss (model.losses)", name, LOSSES)
            if weight <= 0:
                raise InputError(f"model.losses.{name} is {weight}; give a weight above 0, or leave the loss out.")
        if self.temperature <= 0:
            raise InputError(f"model.temperature is {self.temperature}; scores are divided by it: give one above 0.")
        if not 0 <= self.mlm_probability < 1:
            raise InputError(f"model.mlm_probability is {self.mlm_probability}; give a share from 0 to below 1.")
        if self.mlm_probability > 0 and self.mask_token_id is None:
            raise InputError("Tokens are to be masked, but the mask token is not known; give model.mask_token_id.")
        if self.reads_logits and type(self.teacher_encoder_config) not in MODEL_FOR_MASKED_LM_MAPPING:
            raise InputError(
                f"The losses logits and mlm are for texts read from both sides, but the teacher is a "
                f"{self.teacher_encoder_config.model_type!r} encoder; leave them out."
            )

    def _check_student(self) -> None:
        student, teacher = self.encoder_config, self.teacher_encoder_config
        assert isinstance(student, PreTrainedConfig)
        if student.model_type != teacher.model_type:
            raise InputError(
                f"The student is a {student.model_type!r} encoder, but the teacher a {teacher.model_type!r}; a "
                "student is of its teacher's family: leave model_type out of model.student."
            )
        if "depths" not in teacher.to_dict():
            chosen_layers(self.initial_layers, num_layers_of(student), num_layers_of(teacher))

    def _set_layers(self) -> None:
        if "squeeze_factor" in self.teacher_encoder_config.to_dict():
            raise InputError(
                f"A {self.teacher_encoder_config.model_type!r} encoder has fewer frames inside than at its end, so "
                "that its layers cannot be compared frame by frame; of the losses take cosine."
            )
        ours, theirs = num_layers_of(self.encoder_config), num_layers_of(self.teacher_encoder_config)
        if self.predicted_layers is None:
            self.predicted_layers = sorted({-(-theirs * third // 3) for third in (1, 2, 3)})
        if self.layer_map is None:
            self.layer_map = [layer * theirs // ours for layer in range(1, ours + 1)]
        if len(self.layer_map) != ours:
            raise InputError(
                f"model.layer_map names {len(self.layer_map)} layers of the teacher, but the student has {ours}; name "
                "one for each of them."
            )
        if self.attention_layer is None:
            self.attention_layer = theirs
        if self.num_relation_heads is None:
            self.num_relation_heads = self.teacher_encoder_config.num_attention_heads

    def _draw_nothing_inside(self) -> None:
        """Student and teacher shall see the same: the student's own SpecAugment or patch masking is switched off, and
        LayerDrop, by which layers to compare would be missing.
        """
        student = self.encoder_config
        assert isinstance(student, PreTrainedConfig)
        fields = student.to_dict()
        if "apply_spec_augment" in fields:
            student.apply_spec_augment = False
        if "mask_ratio" in fields:
            student.mask_ratio = 0.0
        if "layerdrop" in fields:
            student.layerdrop = 0.0
