"""Checkpoints as fairseq's trainer writes them: settings, and weights of the right names and shapes."""

import sys
import types
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LETTERS = "|ETAO'"

ENCODER = {
    "extractor_mode": "default",
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "dropout_input": 0.1,
    "dropout_features": 0.1,
    "layer_norm_first": False,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 2",
    "conv_bias": False,
    "logit_temp": 0.1,
    "feature_grad_mult": 0.1,
    "mask_length": 10,
    "mask_prob": 0.65,
    "mask_channel_length": 10,
    "mask_channel_prob": 0.0,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "pos_conv_depth": 1,
}
LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "feature_grad_mult": 1.0}

WAV2VEC2 = {
    "_name": "wav2vec2",
    **ENCODER,
    "quantize_targets": True,
    "quantize_input": False,
    "final_dim": 12,
    "latent_vars": 5,
    "latent_groups": 2,
    "latent_dim": 0,
    "latent_temp": [2.0, 0.5, 0.999995],
    "num_negatives": 100,
}
HUBERT = {
    "_name": "hubert",
    **ENCODER,
    "mask_prob": 0.8,
    "final_dim": 12,
    "label_rate": 50.0,
    "untie_final_proj": True,
}
DATA2VEC = {
    "_name": "data2vec_audio",
    **ENCODER,
    "extractor_mode": "layer_norm",
    "feature_grad_mult": 1.0,
    "pos_conv_depth": 3,
    "conv_pos": 15,
    "average_top_k_layers": 2,
    "instance_norm_target_layer": True,
    "ema_decay": 0.999,
    "ema_end_decay": 0.9999,
    "ema_anneal_end_step": 30_000,
    "loss_beta": 0,
    "loss_scale": None,
}
MODELS = {
    "wav2vec2": WAV2VEC2,
    "wav2vec2 large": WAV2VEC2 | LARGE,
    "hubert": HUBERT,
    "hubert large": HUBERT | LARGE,
    "data2vec": DATA2VEC,
}
"""All that fairseq pretrains: group norm and post-LN, layer norm and pre-LN."""

NUM_CLUSTERS = 7
CNN = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
BASE_SIZES = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "conv_feature_layers": CNN,
    "conv_pos": 128,
    "conv_pos_groups": 16,
}
LARGE_SIZES = BASE_SIZES | {
    **LARGE,
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}
PUBLISHED = {
    "wav2vec2": WAV2VEC2 | BASE_SIZES | {"final_dim": 256, "latent_vars": 320},
    "wav2vec2 large": WAV2VEC2 | LARGE_SIZES | {"final_dim": 768, "latent_vars": 320},
    "hubert": HUBERT | BASE_SIZES | {"final_dim": 256},
    "hubert large": HUBERT | LARGE_SIZES | {"final_dim": 768, "conv_bias": False},
    "data2vec": DATA2VEC | BASE_SIZES | {"conv_pos": 95, "pos_conv_depth": 5, "average_top_k_layers": 8},
}
"""At the sizes of the released checkpoints."""


def cfg(model: dict[str, Any], *, normalize: bool = False, **task: Any) -> dict[str, Any]:
    """The settings of a pretraining."""
    hubert = model["_name"] == "hubert"
    criteria = {
        "wav2vec2": {"_name": "wav2vec", "infonce": True, "loss_weights": [0.1, 10]},
        "hubert": {"_name": "hubert", "pred_masked_weight": 1.0, "pred_nomask_weight": 0.0, "loss_weights": [10]},
        "data2vec_audio": {"_name": "model", "loss_weights": {}},
    }
    names = {"_name": "hubert_pretraining", "labels": ["km"], "label_rate": 50.0} if hubert else {}
    return {
        "_name": None,
        "common": {"_name": None, "seed": 1, "fp16": True},
        "optimization": {"_name": None, "max_update": 400_000, "lr": [0.0005]},
        "model": model,
        "task": {"_name": "audio_pretraining", "data": "/data", "normalize": normalize, "sample_rate": 16_000}
        | names
        | task,
        "criterion": criteria[model["_name"]],
        "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)"},
    }


def fine_tuned_cfg(model: dict[str, Any], *, normalize: bool = False, **settings: Any) -> dict[str, Any]:
    """The settings of a fine-tuning with CTC, which hold those of the pretraining."""
    pretraining = cfg(model, normalize=normalize)
    hubert = model["_name"] == "hubert"
    ctc = {
        "_name": "hubert_ctc" if hubert else "wav2vec_ctc",
        "apply_mask": True,
        "mask_prob": 0.65,
        "mask_length": 10,
        "mask_channel_prob": 0.25,
        "mask_channel_length": 4,
        "layerdrop": 0.1,
        "activation_dropout": 0.1,
        "dropout": 0.0,
        "final_dropout": 0.0,
        "feature_grad_mult": 0.0,
        "normalize": "${task.normalize}",
        "w2v_args": pretraining,
    }
    names = {"_name": "hubert_pretraining", "labels": ["ltr"], "fine_tuning": True} if hubert else {}
    return pretraining | {
        "model": ctc | settings,
        "task": {"_name": "audio_finetuning", "data": "/data", "labels": "ltr", "normalize": normalize} | names,
        "criterion": {"_name": "ctc", "zero_infinity": True},
    }


def layers_of(model: dict[str, Any]) -> list[tuple[int, int, int]]:
    """The layers of the CNN; only here is the expression evaluated, as fairseq does."""
    return eval(model["conv_feature_layers"])


def encoder_shapes(model: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every parameter of an encoder."""
    width, channels = model["encoder_embed_dim"], 1
    shapes: dict[str, tuple[int, ...]] = {"mask_emb": (width,)}
    for i, (out, kernel, _) in enumerate(layers_of(model)):
        name = f"feature_extractor.conv_layers.{i}"
        shapes[f"{name}.0.weight"] = (out, channels, kernel)
        if model["conv_bias"]:
            shapes[f"{name}.0.bias"] = (out,)
        normed = ".2.1" if model["extractor_mode"] == "layer_norm" else ".2" if i == 0 else None
        if normed is not None:
            shapes |= {f"{name}{normed}.weight": (out,), f"{name}{normed}.bias": (out,)}
        channels = out
    shapes |= {"post_extract_proj.weight": (width, channels), "post_extract_proj.bias": (width,)}
    shapes |= {f"encoder.{name}": shape for name, shape in transformer_shapes(model).items()}
    return shapes | {"layer_norm.weight": (channels,), "layer_norm.bias": (channels,)}


def transformer_shapes(model: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner = model["encoder_embed_dim"], model["encoder_ffn_embed_dim"]
    kernel, depth = model["conv_pos"], model["pos_conv_depth"]
    shapes: dict[str, tuple[int, ...]] = {}
    if depth == 1:
        shapes["pos_conv.0.bias"] = (width,)
        shapes["pos_conv.0.weight_g"] = (1, 1, kernel)
        shapes["pos_conv.0.weight_v"] = (width, width // model["conv_pos_groups"], kernel)
    else:
        for i in range(depth):
            shapes[f"pos_conv.{i}.0.weight"] = (width, width // model["conv_pos_groups"], max(3, kernel // depth))
            shapes[f"pos_conv.{i}.0.bias"] = (width,)
    for i in range(model["encoder_layers"]):
        for name in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"):
            shapes |= {f"layers.{i}.{name}.weight": (width, width), f"layers.{i}.{name}.bias": (width,)}
        shapes |= {f"layers.{i}.fc1.weight": (inner, width), f"layers.{i}.fc1.bias": (inner,)}
        shapes |= {f"layers.{i}.fc2.weight": (width, inner), f"layers.{i}.fc2.bias": (width,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"layers.{i}.{name}.weight": (width,), f"layers.{i}.{name}.bias": (width,)}
    return shapes | {"layer_norm.weight": (width,), "layer_norm.bias": (width,)}


def shapes_of(model: dict[str, Any], num_clusters: int = NUM_CLUSTERS) -> dict[str, tuple[int, ...]]:
    """Every parameter of a pretraining model; those of data2vec's nested teacher as `_ema.<name>`."""
    width, channels, shapes = model["encoder_embed_dim"], layers_of(model)[-1][0], encoder_shapes(model)
    dim = width if model["_name"] == "data2vec_audio" else model["final_dim"]
    shapes |= {"final_proj.weight": (dim, width), "final_proj.bias": (dim,)}
    if model["_name"] == "wav2vec2":
        codes = model["latent_groups"] * model["latent_vars"]
        shapes |= {"quantizer.vars": (1, codes, dim // model["latent_groups"])}
        shapes |= {"quantizer.weight_proj.weight": (codes, channels), "quantizer.weight_proj.bias": (codes,)}
        shapes |= {"project_q.weight": (dim, dim), "project_q.bias": (dim,)}
    if model["_name"] == "hubert":
        shapes |= {"label_embs_concat": (4 + num_clusters, dim)}
    if model["_name"] == "data2vec_audio":
        shapes |= {f"_ema.{name}": shape for name, shape in transformer_shapes(model).items()}
    return shapes


def fine_tuned_shapes(model: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every parameter of a model fine-tuned with CTC; fairseq leaves HuBERT's codewords in."""
    inside = "w2v_encoder.w2v_model."
    shapes = {inside + name: shape for name, shape in encoder_shapes(model).items()}
    if model["_name"] == "hubert":
        shapes[f"{inside}label_embs_concat"] = (4 + NUM_CLUSTERS, model["final_dim"])
    outputs = 4 + len(LETTERS)
    return shapes | {
        "w2v_encoder.proj.weight": (outputs, model["encoder_embed_dim"]),
        "w2v_encoder.proj.bias": (outputs,),
    }


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights of which no two are alike, none as fresh ones are, and that let the frames differ."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scaled(name, torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def scaled(name: str, weight: Tensor) -> Tensor:
    """Around 1 for norms, small for biases, kept in size by matrices."""
    if weight.ndim > 1:
        return weight * weight[0].numel() ** -0.5
    return 1 + 0.3 * weight if name.endswith("weight") else 0.5 * weight


@contextmanager
def class_of_fairseq(module: str, name: str) -> Iterator[type]:
    """A class that pickle finds under a name of fairseq's, as long as the context lasts."""
    made = type(name, (), {"__module__": module})
    parents = ["fairseq", module.rpartition(".")[0]]
    sys.modules |= {parent: types.ModuleType(parent) for parent in parents}
    sys.modules[module] = types.ModuleType(module)
    setattr(sys.modules[module], name, made)
    try:
        yield made
    finally:
        for loaded in {*parents, module}:
            del sys.modules[loaded]


def make_dictionary(dictionary_class: type, symbols: str) -> Any:
    """One of fairseq's dictionaries: four special symbols, and others, each counted more often than the last."""
    made = dictionary_class()
    made.symbols = ["<s>", "<pad>", "</s>", "<unk>", *symbols]
    made.count = [1, 1, 1, 1, *range(5, 5 + len(symbols))]
    made.indices = {symbol: i for i, symbol in enumerate(made.symbols)}
    made.nspecial = 4
    return made


def save(path: Path, settings: dict[str, Any], weights: dict[str, Tensor], **parts: Any) -> Path:
    """Write a checkpoint as fairseq's trainer does."""
    teacher = {name.removeprefix("_ema."): weight for name, weight in weights.items() if name.startswith("_ema.")}
    model: dict[str, Any] = {name: weight for name, weight in weights.items() if not name.startswith("_ema.")}
    state = {
        "args": None,
        "cfg": settings,
        "model": model | ({"_ema": teacher} if teacher else {}),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "X", "lr_scheduler_state": {"best": None}, "num_updates": 25_000}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 3}},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    torch.save(state | parts, path)
    return path


def save_pretrained(path: Path, name: str, *, normalize: bool = False) -> Path:
    """One of [`MODELS`], with random weights."""
    return save(path, cfg(MODELS[name], normalize=normalize), random_weights(shapes_of(MODELS[name])))


def save_fine_tuned(path: Path, name: str) -> Path:
    """One of [`MODELS`], fine-tuned; the dictionary of its letters is written beside it."""
    lines = "".join(f"{letter} {count}\n" for count, letter in enumerate(LETTERS, start=5))
    (path.parent / "dict.ltr.txt").write_text(lines, encoding="utf-8")
    return save(path, fine_tuned_cfg(MODELS[name]), random_weights(fine_tuned_shapes(MODELS[name])))


def as_args(settings: dict[str, Any]) -> Namespace:
    """Settings as fairseq had them before 2021: all side by side."""
    sections = {key: value for section in ("task", "model", "criterion") for key, value in settings[section].items()}
    flat = {key: value for key, value in sections.items() if key != "_name"}
    names = {"arch": settings["model"]["_name"], "task": settings["task"]["_name"]}
    return Namespace(**flat, **names, criterion=settings["criterion"]["_name"], max_update=400_000)
