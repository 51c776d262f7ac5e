"""Tiny models with soft prompts, whose weights are large enough for a prompt to show."""

import torch
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from hf_ssl.tuners.soft_prompt import SoftPromptConfig
from tests.families import IMAGES, SPEECH, TEXT, classifier

WITHOUT_A_PLACE = {"convnext", "convnextv2", "resnet", "swin", "swinv2"}
VARIANTS = {
    "beit: relative positions": ("beit", {"use_relative_position_bias": True}),
    "beit: shared relative positions": ("beit", {"use_shared_relative_position_bias": True}),
    "data2vec-vision: relative positions": (
        "data2vec-vision",
        {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
    ),
    "deberta: relative positions": ("deberta", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2: relative positions, convolution": (
        "deberta-v2",
        {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 4,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "conv_kernel_size": 3,
        },
    ),
    "modernbert: windows": ("modernbert", {"local_attention": 4, "num_hidden_layers": 4}),
    "wav2vec2-bert: relative positions": ("wav2vec2-bert", {"position_embeddings_type": "relative"}),
    "wav2vec2-conformer: rotary positions": ("wav2vec2-conformer", {"position_embeddings_type": "rotary"}),
}
ENCODERS = sorted((IMAGES.keys() | SPEECH.keys() | TEXT.keys()) - WITHOUT_A_PLACE) + sorted(VARIANTS)


def tiny(name: str, padded: bool = False, **changes: object) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A classifier of a family or a variant of one, all frozen, and inputs; `changes` are of its config."""
    family, variant = VARIANTS.get(name, (name, {}))
    table = next(table for table in (IMAGES, SPEECH, TEXT) if family in table)
    fields = table[family]
    # Else a group norm over the whole recording would carry padding into every frame.
    layer_norm = {"feat_extract_norm": "layer"} if "conv_dim" in fields else {}
    table[family] = fields | layer_norm | variant | changes
    try:
        model, inputs = classifier(family, padded)
    finally:
        table[family] = fields
    for parameter in model.requires_grad_(False).parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.3)
    return model, inputs


def with_prompts(model: PreTrainedModel, **fields: object) -> PeftModel:
    """In evaluation mode, with prompts as large as the other weights."""
    prompted = get_peft_model(model, SoftPromptConfig(**{"num_tokens": 3, **fields})).eval()
    for name, parameter in prompted.named_parameters():
        if "soft_prompt" in name:
            parameter.data.normal_(std=0.5)
    return prompted


def prompts_of(model: torch.nn.Module, adapter_name: str = "default") -> list[torch.Tensor]:
    """The learned vectors, in the order of the layers."""
    return [p for n, p in model.named_parameters() if n.endswith(f"soft_prompt_embeddings.{adapter_name}")]
