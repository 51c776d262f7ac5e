"""A self-supervised model is a plain transformers encoder and what its objective adds to it."""

import inspect
import math
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.over_items import OverItems
from hf_ssl.modeling.blocks.patches import sincos_positions

OPTIONAL = ("pooler.", "masked_spec_embed", "mask_token")
"""Parts that an objective may leave out of an encoder, or want where its checkpoint has none."""

Processor: TypeAlias = ProcessorMixin | PreTrainedTokenizerBase | FeatureExtractionMixin | ImageProcessingMixin


@strict
class SSLConfig(PreTrainedConfig):
    """What every objective's config holds: the config of its encoder.

    A subclass names its default architecture in `sub_configs_defaults`.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any transformers architecture of the modality, named
            by its `model_type`. `None` is the objective's default architecture with that architecture's defaults.
    """

    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    encoder_config: dict | PreTrainedConfig | None = None


class SSLPreTrainedModel(PreTrainedModel):
    """Base of the objectives: holds the encoder, starts from a published one and exports it as one.

    It knows nothing of any objective. What an objective may say of itself, beyond `forward`:

    * `draw_inputs`: the random inputs of `forward` (masks, corrupted tokens, negatives), drawn by the data loader;
    * `count_predictions`: over how many predictions each term of the loss is a mean;
    * `start_epoch`: what is made of all training items between two epochs (clusters), for `needs_item_indices`;
    * `item_repeats`: how often each training item comes in an epoch;
    * `synchronise_teacher`: makes a teacher equal to the student, whose weights have just been loaded;
    * `before_optimizer_step`: what is done to the gradient of an optimiser step (a layer that is frozen at first);
    * `after_optimizer_step`: what happens once per optimiser step (teacher, queue, centre);
    * `constant_learning_rate`: submodules whose learning rate does not decay.
    """

    config: SSLConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # A plain `Trainer` may train these models too: it then averages over micro-batches. `SSLTrainer` counts
    # predictions instead.
    accepts_loss_kwargs = False

    needs_pooler = False
    """Whether the objective trains the encoder's own pooling layer; without need it is left out, so no weight stays
    untrained.
    """

    needs_item_indices = False
    """Whether the objective keeps something of each training item (a cluster): its batches then have `item_indices`
    (B,), and its config is told the number of items as `num_items`.
    """

    needs_pixel_scale = False
    """Whether the objective needs the colours of normalised pixels: its config is then told `image_mean` and
    `image_std` of the image processor, as `pixel_mean` and `pixel_scale`.
    """

    constant_learning_rate: ClassVar[tuple[str, ...]] = ()
    """Names of submodules whose learning rate does not decay: after the warm-up it stays at its peak."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder_config, with_pooler=self.needs_pooler)
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing

    @classmethod
    def from_encoder(cls, name_or_path: str | Path, **config: Any) -> Self:
        """Start from a published encoder: its weights, and the objective's own parts freshly initialised.

        Args:
            name_or_path (`str` or `Path`): anything `AutoModel.from_pretrained` takes.
            config: fields of the objective's config, except `encoder_config`, which is the encoder's.

        Returns:
            the model in training mode, in fp32.

        Raises:
            InputError: when `name_or_path` is no encoder.
        """
        return cls._started_from(load_published(AutoModel, name_or_path), name_or_path, config)

    @classmethod
    def _started_from(cls, encoder: PreTrainedModel, name_or_path: str | Path, config: dict[str, Any]) -> Self:
        """The objective on an encoder that was loaded from `name_or_path`."""
        if isinstance(encoder, SSLPreTrainedModel):
            raise InputError(
                f"{name_or_path} is a checkpoint of the objective {encoder.config.model_type}, no encoder; give "
                "the encoder that was exported from it."
            )
        config_class: type[SSLConfig] = cls.config_class
        model = cls(config_class(encoder_config=encoder.config, **config))
        missing, unexpected = model.encoder.load_state_dict(encoder.state_dict(), strict=False)
        strange = [key for key in (*missing, *unexpected) if not any(name in key for name in OPTIONAL)]
        if strange:
            raise InputError(
                f"{name_or_path} does not hold the plain weights of a {encoder.config.model_type} encoder (see "
                f"{strange[0]}); if it is an adapter, merge it into its encoder first."
            )
        model.synchronise_teacher()
        return model.train()

    @property
    def exported_encoder(self) -> PreTrainedModel:
        """The encoder that is evaluated and used after the pretraining: the one that learned, or its teacher."""
        return self.encoder

    def export_encoder(self, path: str | Path, processor: Processor | None = None) -> None:
        """Write the encoder as a plain transformers checkpoint, which loads where hf_ssl is not installed.

        An architecture that transformers does not have is written with its code (`trust_remote_code=True` loads it).

        Args:
            path (`str` or `Path`): folder to write, loadable by `AutoModel.from_pretrained`.
            processor ([`Processor`], *optional*): the encoder's preprocessor, written beside it.
        """
        self.exported_encoder.save_pretrained(path)
        if processor is not None:
            processor.save_pretrained(path)

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's (when the vocabulary is resized)."""
        self.encoder.set_input_embeddings(value)

    @staticmethod
    def draw_inputs(config: Any, batch: dict[str, Tensor], generators: list[torch.Generator]) -> dict[str, Tensor]:
        """Draw what `forward` needs beyond the collated data.

        Args:
            config ([`SSLConfig`]): the objective's config.
            batch (`dict[str, Tensor]`): collated data of `B` rows.
            generators (`list[torch.Generator]`): one a row; row `i` uses its own only, so what is drawn for an item
                does not depend on the items beside it.

        Returns:
            `dict[str, Tensor]`: the batch as `forward` takes it.
        """
        return batch

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The number of predictions that each term of the loss is a mean of, known from the inputs alone.

        The trainer adds the counts up over the micro-batches and ranks of one optimiser step and hands the sums to
        `forward` as `num_items_in_batch`, so that the gradient does not depend on how the batch was cut.

        Returns:
            `dict[str, Tensor]`: scalar counts by name; empty for a loss that is defined over a batch of samples.
        """
        return {}

    def synchronise_teacher(self) -> None:
        """Called when the encoder has got its weights from elsewhere: a teacher becomes the student's copy again."""

    def start_epoch(self, epoch: int, over_items: OverItems, generator: torch.Generator) -> list[nn.Parameter]:
        """Called before each epoch of an objective that `needs_item_indices`, on all processes alike.

        All that it finds out is state (buffers and parameters): a run that is resumed within an epoch goes on from
        there and does not call it again.

        Args:
            epoch (`int`): from 0.
            over_items ([`OverItems`]): computes something of every training item.
            generator (`torch.Generator`): for all random draws, on the CPU; known by (seed, epoch).

        Returns:
            `list[nn.Parameter]`: parameters that have been drawn anew, so that the optimiser forgets what it knows of
            them.
        """
        return []

    def item_repeats(self) -> Tensor | None:
        """How often each training item comes in this epoch, on average: (N,), fp64, of sum N; `None` is once."""
        return None

    def load_given_parts(self) -> None:
        """Called before a training from scratch or from an encoder: parts that are never trained get their weights."""

    def before_optimizer_step(self, progress: float) -> None:
        """Called when an optimiser step's gradient is complete, with the share of the training that is done."""

    def after_optimizer_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of the training that is done, in [0, 1]."""


def load_published(loader: Any, name_or_path: str | Path) -> Any:
    """A model in fp32, or its config.

    Args:
        loader (`type`): any class of transformers that has `from_pretrained`.
        name_or_path (`str` or `Path`): a folder or a name on the Hub.

    Raises:
        InputError: when there is none.
    """
    try:
        return loader.from_pretrained(name_or_path, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The encoder {name_or_path} cannot be loaded ({str(error).splitlines()[0]}); give a folder that "
            "AutoModel.from_pretrained loads, or the name of a model on the Hub."
        ) from error


def build_encoder(config: PreTrainedConfig, *, with_pooler: bool) -> PreTrainedModel:
    """A freshly initialised transformers encoder, without a pooling layer unless asked for."""
    model_class = AutoModel._model_mapping[type(config)]
    if isinstance(model_class, tuple):  # several classes share one config: the first is the plain encoder
        model_class = model_class[0]
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    encoder = AutoModel.from_config(config, **({"add_pooling_layer": with_pooler} if takes_pooler else {}))
    if config.model_type == "vit_mae":  # whose fixed positions transformers 5.23 leaves at zero
        embeddings = encoder.embeddings
        side = math.isqrt(embeddings.patch_embeddings.num_patches)
        with torch.no_grad():
            embeddings.position_embeddings[:, 1:] = sincos_positions((side, side), config.hidden_size)
    return encoder
