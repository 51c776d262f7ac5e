"""The teacher of a distillation: a published encoder, frozen."""

import hashlib
from pathlib import Path

import torch
from torch import nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.pretrained import OPTIONAL, SSLConfig, SSLPreTrainedModel, load_published
from hf_ssl.modeling.blocks.teacher import freeze
from hf_ssl.modeling.distillation.vocabulary_head import take_head


class Teacher(nn.Module):
    """A frozen encoder and, where a loss reads its predictions, its head.

    Args:
        encoder (`PreTrainedModel`): the encoder.
        head (`nn.Module`, *optional*): hidden states (N, D) to the vocabulary's scores (N, V).
        checkpoint_config (`PreTrainedConfig`): of the checkpoint: the encoder's, or that of a whole objective.
    """

    def __init__(self, checkpoint: PreTrainedModel, *, with_head: bool) -> None:
        super().__init__()
        self.checkpoint_config = checkpoint.config
        self.encoder = checkpoint.base_model
        self.head = take_head(checkpoint) if with_head else None
        freeze(self)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 over names and values of all weights that states depend on."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            if any(part in name for part in OPTIONAL):
                continue  # of a checkpoint without them, they are random
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


def load_teacher(name_or_path: str | Path, *, with_head: bool) -> Teacher:
    """Load a teacher in fp32.

    Args:
        name_or_path (`str` or `Path`): an encoder, a masked language model, or the whole objective of a pretraining
            run (`<out>/pretraining`), whose own encoder is taken.
        with_head (`bool`): also the head of its masked language modelling.

    Raises:
        InputError: when there is none, its weights are not all there, or it has no such head.
    """
    config = load_published(AutoConfig, name_or_path)
    is_objective = isinstance(config, SSLConfig)
    headless = InputError(
        f"{name_or_path} ({config.model_type}) has no head of masked language modelling, which the losses logits and "
        "mlm read; give a model that has one (AutoModelForMaskedLM, or <out>/pretraining of a BERT run), or leave "
        "them out."
    )
    if with_head and not is_objective and type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise headless
    loader = AutoModelForMaskedLM if with_head and not is_objective else AutoModel
    checkpoint, found = load_published(_WithReport(loader), name_or_path)
    missing = [name for name in found["missing_keys"] if not any(part in name for part in OPTIONAL)]
    of_encoder = [name for name in missing if not with_head or name.startswith(f"{checkpoint.base_model_prefix}.")]
    if of_encoder:
        raise InputError(
            f"{name_or_path} lacks weights of a {type(checkpoint).__name__}, such as {sorted(of_encoder)[0]}; give a "
            "checkpoint of that architecture."
        )
    if with_head and (missing or (is_objective and not _predicts_tokens(checkpoint))):
        raise headless
    return Teacher(checkpoint, with_head=with_head)


def _predicts_tokens(checkpoint: SSLPreTrainedModel) -> bool:
    return checkpoint.main_input_name == "input_ids" and checkpoint.get_output_embeddings() is not None


class _WithReport:
    """A loader that also says which weights a checkpoint lacks."""

    def __init__(self, loader: type) -> None:
        self._loader = loader

    def from_pretrained(self, name_or_path: str | Path, **kwargs: object) -> object:
        return self._loader.from_pretrained(name_or_path, output_loading_info=True, **kwargs)  # type: ignore[attr-defined]
