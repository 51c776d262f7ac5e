"""Every tuner on every family of encoders: from the start of the training to a fresh process that loads the result."""

import re
import subprocess
import sys

import pytest
import torch
from peft import PeftModel

from hf_ssl.errors import InputError
from hf_ssl.trainers import load_finetuned
from hf_ssl.tuners.methods import TUNERS
from tests.families import IMAGES, SPEECH, TEXT
from tests.trainers.tuner_cases import FAMILY_LABELS, Workshop

FAMILIES = [*IMAGES, *SPEECH, *TEXT]
CONVOLUTION = r"adapts linear layers, and .* of the resnet encoder is a convolution"
STAGES = "has stages of windows or of feature maps"
PROMPTS = dict.fromkeys(("swin", "swinv2", "convnext", "convnextv2", "resnet"), STAGES)
NO_ATTENTION = "encoder has no attention that a prefix can be joined to"

# tuner -> family -> why not
REFUSED: dict[str, dict[str, str]] = {
    "bitfit": {"modernbert": "The modernbert encoder has no biases to train"},
    "layer_norm": {"resnet": "The resnet encoder has no layer norms to train"},
    **{tuner: {"resnet": CONVOLUTION} for tuner in ("vera", "hra", "fourierft")},
    "oft": {"resnet": CONVOLUTION}
    | {family: f"does not work in a {family} encoder" for family in ("convnext", "convnextv2")},
    "houlsby": {"resnet": "no feed-forward block"}
    | {family: "no attention that the houlsby variant could follow" for family in ("convnext", "convnextv2")},
    "pfeiffer": {"resnet": "no feed-forward block"},
    "parallel": {"resnet": "no feed-forward block"},
    "prefix": {family: NO_ATTENTION for family in ("convnext", "convnextv2", "resnet")},
    "prompt": PROMPTS,
    "deep_prompt": PROMPTS,
}
NEAR = {"houlsby": 1e-3, "pfeiffer": 1e-3}
CHANGING = ("prefix", "prompt", "deep_prompt")
"""What attends to something new changes the output from the start."""

OWN_NAMES = {
    **dict.fromkeys(("lora", "dora", "rslora", "adalora"), "lora_"),
    **{name: f"{name}_" for name in ("vera", "oft", "hra", "fourierft", "ia3")},
    **{"loha": "hada_", "lokr": "lokr_", "prefix": "encoder_prefix_"},
    **dict.fromkeys(("houlsby", "pfeiffer", "parallel"), "bottleneck_"),
    **dict.fromkeys(("prompt", "deep_prompt"), "soft_prompt_"),
}
"""How the parameters of a tuner begin."""

CELLS = [(tuner, family) for tuner in TUNERS for family in FAMILIES if family not in REFUSED.get(tuner, {})]
FAST = {
    (tuner, family)
    for row, tuner in enumerate(TUNERS)
    for column, family in enumerate(FAMILIES)
    if (row + column) % 12 == 0 and (tuner, family) in CELLS
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def test_the_fast_cells_have_every_tuner_and_every_family():
    assert {tuner for tuner, _ in FAST} == set(TUNERS)
    assert {family for _, family in FAST} == set(FAMILIES)


@pytest.mark.parametrize(
    ("tuner", "family"),
    [pytest.param(*cell, marks=() if cell in FAST else pytest.mark.slow, id="-".join(cell)) for cell in CELLS],
)
def test_a_tuner_on_a_family(workshop, tuner, family):
    tuned = workshop.tuned(tuner, family)
    if tuner not in CHANGING:
        torch.testing.assert_close(tuned.untrained, tuned.plain, rtol=0, atol=NEAR.get(tuner, 1e-6))
    check_what_was_trained(workshop, tuner, family)
    assert tuned.losses[1] < tuned.losses[0] / 2
    restored, _ = load_finetuned(tuned.folder)
    with torch.no_grad():
        torch.testing.assert_close(restored(**tuned.inputs).logits, tuned.logits, rtol=0, atol=1e-6)
    assert restored.config.id2label == FAMILY_LABELS
    assert (tuned.folder / "adapter_model.safetensors").is_file() == (TUNERS[tuner].config_class is not None)


def check_what_was_trained(workshop, tuner, family):
    """The adapter or the parameters chosen, and the head; all of them move, and nothing else of the encoder does."""
    tuned, plain = workshop.tuned(tuner, family), workshop.make("none", family)
    own, encoder = dict(plain.named_parameters()), f"{plain.base_model_prefix}."
    head = {name for name in own if not name.startswith(encoder) or name.startswith(f"{encoder}pooler.")}
    assert head <= tuned.trained_names
    rest = tuned.trained_names - head
    if tuner in OWN_NAMES:
        norms = {name for name in rest if is_batch_norm(plain, name)}
        assert rest - norms
        assert all(re.search(rf"\.{OWN_NAMES[tuner]}", f".{name}") for name in rest - norms)
        assert not tuned.moved_encoder - norms
    else:
        assert tuned.moved_encoder <= rest
        chosen = {
            "none": lambda name: own[name].requires_grad,
            "head": lambda name: False,
            "bitfit": lambda name: name.endswith("bias") and not name.startswith(f"{encoder}feature_extractor."),
            "layer_norm": lambda name: (
                is_layer_norm(plain, name) and not name.startswith(f"{encoder}feature_extractor.")
            ),
        }[tuner]
        assert rest == {name for name in own.keys() - head if chosen(name)}
    # a bias of the keys has no gradient, and some parts are not in the path of unmasked input
    assert len(tuned.still) <= len(tuned.trained_names) / 3


def is_batch_norm(model, name: str) -> bool:
    return name in dict(model.named_parameters()) and "BatchNorm" in type(module_of(model, name)).__name__


def is_layer_norm(model, name: str) -> bool:
    return type(module_of(model, name)).__name__.endswith("LayerNorm")


def module_of(model, name: str) -> torch.nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


@pytest.mark.parametrize(
    ("tuner", "family"), [(tuner, family) for tuner, families in REFUSED.items() for family in families]
)
def test_a_tuner_that_a_family_has_no_place_for(workshop, tuner, family):
    with pytest.raises(InputError, match=REFUSED[tuner][family]) as refused:
        workshop.make(tuner, family)
    assert "\n" not in str(refused.value)


ADAPTERS = [name for name, tuner in TUNERS.items() if tuner.config_class is not None]


@pytest.mark.parametrize("family", ["bert", "wav2vec2"])
@pytest.mark.parametrize("tuner", ADAPTERS)
def test_an_adapter_is_merged_where_it_is_linear(workshop, tuner, family):
    tuned = workshop.tuned(tuner, family)
    adapted = PeftModel.from_pretrained(workshop.make("none", family), tuned.folder)
    if TUNERS[tuner].why_unmergeable is not None:
        with pytest.raises(InputError, match="cannot be merged"):
            adapted.merge_and_unload()
        return
    merged = adapted.merge_and_unload().eval()
    assert dict(merged.named_parameters()).keys() == dict(workshop.make("none", family).named_parameters()).keys()
    with torch.no_grad():
        torch.testing.assert_close(merged(**tuned.inputs).logits, tuned.logits, rtol=1e-4, atol=1e-4)


FRESH = """
import sys, torch
from hf_ssl.trainers import load_finetuned
for folder in sys.stdin.read().split():
    expected = torch.load(f"{folder}.pt")
    model, processor = load_finetuned(folder)
    with torch.no_grad():
        logits = model(**expected["inputs"]).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-6, msg=folder)
    assert model.config.id2label[2] == "owl", folder
"""


@pytest.mark.parametrize("cells", [FAST, pytest.param(set(CELLS) - FAST, marks=pytest.mark.slow)], ids=["fast", "all"])
def test_a_fresh_process_gets_the_same_logits(workshop, cells):
    folders = "\n".join(str(workshop.tuned(*cell).folder) for cell in sorted(cells))
    done = subprocess.run([sys.executable, "-c", FRESH], input=folders, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
