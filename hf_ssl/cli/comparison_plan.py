"""From the command line of `hf-ssl compare` to what is trained."""

import argparse
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from transformers import CONFIG_MAPPING

from hf_ssl.cli.options import listed, settings_among
from hf_ssl.cli.pretrain import SECTIONS, make_run
from hf_ssl.cli.run_file import build, merged, read_run
from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.data.decoding import decode_image
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError, unknown_name
from hf_ssl.modeling import OBJECTIVES, objective
from hf_ssl.trainers.build import make_encoder_config, own_fields
from hf_ssl.trainers.comparison import Comparison, reason_against
from hf_ssl.trainers.run import PreTrainingRun
from hf_ssl.trainers.training_budget import Budget

IMAGE_OBJECTIVES = [name for name, row in OBJECTIVES.items() if row.modality == "vision"]
ENCODER_RECIPES = {"vit": "mae_emoji", "resnet": "simclr_emoji", "imagegpt": "igpt_emoji"}
"""Whose encoders are the small ones."""
PATCHES_A_SIDE = 8
"""Of the small ViT, whatever the size of the images."""
MAX_DEFAULT_SIDE = 64
NUM_MEASURED_IMAGES = 100
OF_THE_OPTIONS = {
    "training.max_steps": "--budget",
    "training.num_train_epochs": "--budget",
    "training.seed": "--seeds",
    "training.output_dir": "--output",
    "training.per_device_train_batch_size": "--batch-size",
    "model.encoder_config": "--encoder",
    "model.from_encoder": "--encoder",
    "model.from_pretraining": "--encoder",
    "data.path": "--data",
    "data.label_column": "--label",
    "data.image_size": "--image-size",
}
"""Settings that are the same for all objectives, and what chooses them."""
OF_THE_BUDGET = ("output_dir", "max_steps", "save_steps", "logging_steps")
"""Settings of the recipes that a comparison chooses."""
IN_ALL = ("model", "data", "training")
"""Sections of which a setting is for all objectives, unless it names one first."""
IN_PIXELS = {"data": ("local_image_size",), "model": ("patch_size", "patch_jitter", "mask_patch_size")}
"""Settings of the recipes that are as long as a part of their images."""
IN_PATCHES = ("max_masked_patches", "min_block_patches", "min_mask_block")
"""Settings of the recipes' models that count patches."""


def read_comparison(args: argparse.Namespace) -> Comparison:
    """Make the comparison that the options describe.

    Raises:
        InputError: for unknown names, data or values that cannot be used.
    """
    overrides = [*args.overrides, *settings_among([*(args.objectives or []), *args.seeds])]
    named = None if args.objectives is None else list(dict.fromkeys(listed(args.objectives, "--objectives", str)))
    for name in named or []:
        if name not in IMAGE_OBJECTIVES:
            raise unknown_name("objective of images", name, IMAGE_OBJECTIVES)
    names = IMAGE_OBJECTIVES if named is None else named
    settings, budget = sort_settings(overrides, names), read_budget(args.budget)
    data = {"path": args.data, "label_column": args.label}
    side = args.image_size or default_side(data, settings.get("common", []))
    encoder = read_encoder(args.encoder, side, settings.get("encoder", []))
    shared = {
        "data": {**data, "image_size": side},
        "training": {"per_device_train_batch_size": args.batch_size, "report_to": "none", "save_total_limit": 1},
    }
    runs = {
        name: read_objective(name, encoder, shared, [*settings.get("common", []), *settings.get(name, [])])
        for name in names
    }
    left_out: dict[str, str] = {}
    if named is None:
        reasons = {name: reason_against(run) for name, run in runs.items()}
        left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    return Comparison(
        runs={name: run for name, run in runs.items() if name not in left_out},
        recipes={name: objective(name).recipes[-1] for name in names},
        seeds=listed(args.seeds, "--seeds", int),
        budget=budget,
        output=args.output,
        left_out=left_out,
        shared={
            **{"data": args.data, "label": args.label, "image_size": side, "encoder": encoder},
            **{"batch_size": args.batch_size, "budget": str(budget)},
        },
        overrides=overrides,
    )


def read_budget(text: str) -> Budget:
    """`300` (optimiser steps) or `10m` (minutes).

    Raises:
        InputError: for anything else.
    """
    number, is_minutes = text.removesuffix("m"), text.endswith("m")
    try:
        value = float(number) if is_minutes else int(number)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise InputError(
            f"--budget {text} cannot be used; give optimiser steps, such as 300, or minutes of training, such as 10m."
        )
    return Budget(minutes=value) if is_minutes else Budget(steps=int(value))


def sort_settings(overrides: Sequence[str], objectives: Sequence[str]) -> dict[str, list[str]]:
    """Settings by what they are for: `encoder`, `common`, or the name of an objective; without that first part.

    Raises:
        InputError: for a setting of nothing that is compared, or one that an option chooses.
    """
    found: dict[str, list[str]] = {}
    for override in overrides:
        first, _, rest = override.partition(".")
        of_one = first in ("encoder", *objectives)
        if not of_one and first not in IN_ALL:
            raise unknown_name("place for a setting", first, ["encoder", *objectives, *IN_ALL])
        setting = rest if of_one else override
        for key, option in OF_THE_OPTIONS.items():
            if first != "encoder" and f"{setting.partition('=')[0]}.".startswith(f"{key}."):
                raise InputError(f"{override.partition('=')[0]} is the same for all objectives; use {option}.")
        found.setdefault(first if of_one else "common", []).append(setting)
    return found


def default_side(data: Mapping[str, Any], overrides: Sequence[str]) -> int:
    """The side of the images that the encoder sees: the data's own, at most 64 pixels, for the sake of time.

    Of the first images it is the median shorter side, rounded down to a multiple of 8, at least 16.
    """
    of_data = [override for override in overrides if override.startswith("data.")]
    arguments = build(ImageDataArguments, merged({"data": dict(data)}, {}, of_data)["data"], "data")
    train = load_splits(arguments, "vision")["train"]
    side = median(min(decode_image(row["image"]).size) for row in train.take(NUM_MEASURED_IMAGES))
    return max(2 * PATCHES_A_SIDE, int(min(side, MAX_DEFAULT_SIDE)) // PATCHES_A_SIDE * PATCHES_A_SIDE)


def read_encoder(name: str, side: int, overrides: Sequence[str]) -> dict[str, Any]:
    """The config values of the encoder, `model_type` included.

    Args:
        name (`str`): `vit` or `resnet`, the small ones of the recipes; another `model_type`, with the small ViT's
            sizes as far as it has them; or a run file, whose `model.encoder_config` is taken.
        side (`int`): of the images, in pixels.
        overrides (`Sequence[str]`): `key=value`, which win.

    Raises:
        InputError: for an unknown name, a file without an encoder, or malformed overrides.
    """
    if name.endswith((".yaml", ".yml")):
        values = (read_run(name, sections=SECTIONS).get("model") or {}).get("encoder_config") or {}
        if "model_type" not in values:
            raise InputError(f"The run file {name} has no model.encoder_config.model_type; say which encoder it is.")
    elif name in CONFIG_MAPPING:
        values = {"model_type": name, **small_sizes(name, side)}
    else:
        raise unknown_name("encoder (--encoder)", name, CONFIG_MAPPING.keys())
    values = merged(values, {}, overrides)
    make_encoder_config(values, {"image_size": side})  # whether there can be one
    return values


def small_sizes(model_type: str, side: int) -> dict[str, Any]:
    """The sizes of a small encoder for images of `side` pixels; none for one that is built of stages of its own."""
    recipe = ENCODER_RECIPES.get(model_type, ENCODER_RECIPES["vit"])
    values = read_run(recipe, sections=SECTIONS)["model"]["encoder_config"]
    config_class = CONFIG_MAPPING[model_type]
    known = {*own_fields(config_class), *config_class.attribute_map}
    if model_type not in ENCODER_RECIPES and ("hidden_size" not in known or "depths" in known):
        return {}
    if "patch_size" in values:
        values["patch_size"] = max(1, side // PATCHES_A_SIDE)
    return {key: value for key, value in values.items() if key in known and key != "model_type"}


def num_patches(encoder: Mapping[str, Any], side: int) -> int:
    """How many patches an image of `side` pixels has; 1 for an encoder without them."""
    return (side // encoder.get("patch_size", side)) ** 2


def read_objective(
    name: str, encoder: Mapping[str, Any], shared: Mapping[str, Any], overrides: Sequence[str]
) -> PreTrainingRun:
    """The run of an objective: its own settings from its small recipe, the others those of all.

    Args:
        name (`str`): of the objective.
        encoder (`Mapping[str, Any]`): values of its config.
        shared (`Mapping[str, Any]`): values by section.
        overrides (`Sequence[str]`): `section.key=value`, which win.

    Raises:
        InputError: for unknown keys and values that cannot be used.
    """
    row = objective(name)
    values = read_run(row.recipes[-1], sections=SECTIONS)
    patch_scale = num_patches(encoder, shared["data"]["image_size"]) / num_patches(
        values["model"]["encoder_config"], values["data"]["image_size"]
    )
    values["model"] = {**values["model"], "encoder_config": dict(encoder)}
    values["training"] = {key: value for key, value in values["training"].items() if key not in OF_THE_BUDGET}
    scale = shared["data"]["image_size"] / values["data"]["image_size"]
    for section, keys in IN_PIXELS.items():
        for key in keys:
            if key in values[section]:
                values[section][key] = max(1, int(values[section][key] * scale))
    for key in [key for key in IN_PATCHES if key in values["model"]]:
        values["model"][key] = max(1, round(values["model"][key] * patch_scale))
    values = merged(values, shared, overrides)
    known = own_fields(row.config_class)
    for key in values["model"]:
        if key not in known:
            raise unknown_name(f"key in section model of {name}", key, known)
    return make_run(row.recipes[-1], values, [])
