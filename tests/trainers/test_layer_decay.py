"""Layer-wise learning rates: which layer a parameter is in, and what its steps and its weight decay are."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForAudioClassification, Wav2Vec2Config, set_seed

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import layer_stack, layer_stack_name
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.layer_decay import decays, learning_rate_scales, scale_learning_rates
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import encoder_of, make_task_model
from tests.families import IMAGES, SPEECH, TEXT, WAVEFORM, WITHOUT_CLASSIFIER, classifier
from tests.trainers.fine_tuning_cases import Cases, training

SHARED = {"mpnet": "encoder.relative_attention_bias.weight"}
"""What all layers of an encoder share, and is registered after them."""

DEPTHS = {
    "vit": {
        r"vit\.embeddings\.": 0,
        r"vit\.layers\.0\.": 1,
        r"vit\.layers\.1\.": 2,
        r"vit\.layernorm\.": 3,
        r"classifier\.": 3,
    },
    "resnet": {
        r"resnet\.embedder\.": 0,
        r"resnet\.encoder\.stages\.0\.": 1,
        r"resnet\.encoder\.stages\.1\.": 2,
        r"classifier\.": 3,
    },
    "bert": {
        r"bert\.embeddings\.": 0,
        r"bert\.encoder\.layer\.0\.": 1,
        r"bert\.encoder\.layer\.1\.": 2,
        r"bert\.pooler\.": 3,
        r"classifier\.": 3,
    },
    "wav2vec2": {
        r"wav2vec2\.(masked_spec_embed|feature_|encoder\.pos_conv_embed|encoder\.layer_norm)": 0,
        r"wav2vec2\.encoder\.layers\.0\.": 1,
        r"wav2vec2\.encoder\.layers\.1\.": 2,
        r"(projector|classifier)\.": 3,
    },
}


@pytest.mark.parametrize("family", DEPTHS)
def test_each_layer_has_its_power_of_the_decay(family: str) -> None:
    model, _ = classifier(family)
    scales = learning_rate_scales(model, model.base_model, 0.65)
    for name, parameter in model.named_parameters():
        (depth,) = [depth for pattern, depth in DEPTHS[family].items() if re.match(pattern, name)]
        assert scales[parameter] == pytest.approx(0.65 ** (3 - depth)), name


@pytest.mark.parametrize("family", sorted({*IMAGES, *SPEECH, *TEXT} - WITHOUT_CLASSIFIER))
def test_what_is_not_in_a_layer_is_below_them_if_it_runs_before_them(family: str) -> None:
    check_against_a_run(*classifier(family), unless=SHARED.get(family))


def test_a_last_normalisation_that_is_registered_before_the_layers() -> None:
    config = Wav2Vec2Config(**WAVEFORM, do_stable_layer_norm=True, feat_extract_norm="layer")
    model = AutoModelForAudioClassification.from_config(config).eval()
    check_against_a_run(model, {"input_values": torch.randn(2, 1600)})
    scales = learning_rate_scales(model, model.base_model, 0.5)
    assert scales[model.base_model.encoder.layer_norm.weight] == 1


def check_against_a_run(model: nn.Module, inputs: dict, unless: str | None = None) -> None:
    """Naively: run the model, and see which modules are called before the first layer is."""
    encoder, called, begun = model.base_model, {}, []

    def note(name: str, module: nn.Module, args: tuple) -> None:
        called.setdefault(name, bool(begun))

    for name, module in encoder.named_modules():
        module.register_forward_pre_hook(partial(note, name))
    layer_stack(encoder)[0].register_forward_pre_hook(lambda module, args: begun.append(True))
    with torch.no_grad():
        model(**inputs)
    scales = learning_rate_scales(model, encoder, 0.5)
    top, seen = len(layer_stack(encoder)) + 1, 0
    for name, parameter in encoder.named_parameters():
        module = name.split(".parametrizations")[0] if "parametrizations" in name else name.rpartition(".")[0]
        # What is not called is a parameter of the encoder itself, or of a part that this config switches off.
        if not name.startswith(layer_stack_name(encoder) + ".") and module in called and name != unless and module:
            assert scales[parameter] == (1.0 if called[module] else 0.5**top), name
            seen += 1
    assert seen > 0


def test_tokens_positions_and_vectors_do_not_decay() -> None:
    vit, bert = dict(classifier("vit")[0].named_parameters()), dict(classifier("bert")[0].named_parameters())
    beit = dict(classifier("dinov2_with_registers")[0].named_parameters())
    kept = {name for name, p in vit.items() if not decays(name, p) and p.ndim > 1}
    assert kept == {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    assert {name.rpartition(".")[2] for name, p in beit.items() if not decays(name, p) and p.ndim > 1} == {
        "cls_token",
        "mask_token",
        "register_tokens",
        "position_embeddings",
    }
    assert all(decays(name, p) == (p.ndim > 1) for name, p in bert.items())  # a table of embeddings decays, as BERT's


def test_groups_are_divided_and_the_peak_is_first() -> None:
    first, second, third = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    groups = [{"params": [first, second], "weight_decay": 0.1}, {"params": [third], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2.0, betas=(0.8, 0.9))
    scale_learning_rates(optimizer, {first: 0.25, second: 1.0, third: 0.25})
    found = [(group["lr"], group["weight_decay"], group["betas"], group["params"]) for group in optimizer.param_groups]
    assert [lr for lr, *_ in found] == [2.0, 0.5, 0.5]
    assert [id(of[0]) for *_, of in found] == [id(second), id(first), id(third)]
    assert [(decay, betas) for _, decay, betas, _ in found] == [
        (0.1, (0.8, 0.9)),
        (0.1, (0.8, 0.9)),
        (0.0, (0.8, 0.9)),
    ]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def make_trainer(cases: Cases, folder: Path, task: str, model: dict | None = None, **changes) -> FineTuningTrainer:
    arguments = FineTuningModelArguments(**{"encoder": cases.encoder(task), "task": task, **(model or {})})
    prepared = prepare_task(arguments, cases.data(task))
    set_seed(0)
    model = make_task_model(arguments, prepared.config_updates)
    return FineTuningTrainer(model, training(folder, **changes), task, prepared)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("image-classification", {}),
        ("image-classification", {"tuner": "lora"}),
        ("image-classification", {"exits": {"layers": "all"}}),
        ("text-classification", {"tuner": "deep_prompt"}),
        ("ctc", {}),
    ],
)
def test_every_step_is_its_share_of_the_step_without_decay(cases, tmp_path, task, model) -> None:
    """Of plain SGD a step is lr · g, so after one step from the same weights the shares can be seen."""
    moved = []
    for decay in (1.0, 0.5):
        settings = {"max_steps": 1, "optim": "sgd", "layer_decay": decay, "max_grad_norm": 1e9, "learning_rate": 1.0}
        trainer = make_trainer(cases, tmp_path, task, model, **settings)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        trainer.train()
        after = dict(trainer.model.named_parameters())
        moved.append({name: after[name].detach() - value for name, value in before.items()})
        assert len({id(p) for group in trainer.optimizer.param_groups for p in group["params"]}) == len(before)
    encoder, depths = encoder_of(trainer.model), set()
    scales = learning_rate_scales(trainer.model, encoder, 0.5)
    for name, parameter in trainer.model.named_parameters():
        if name in moved[0] and moved[0][name].abs().max() > 1e-5:
            share = moved[1][name].norm() / moved[0][name].norm()
            assert share.item() == pytest.approx(scales[parameter], rel=0.02), name
            depths.add(scales[parameter])
    assert max(depths) == 1.0
    assert len(depths) > 1 or model.get("tuner") == "deep_prompt"  # which belongs to no layer


def test_schedule_and_weight_decay_hold_for_every_layer(cases, tmp_path) -> None:
    settings = {"schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.05, "layer_decay": 0.5}
    trainer = make_trainer(cases, tmp_path, "image-classification", learning_rate=0.8, **settings)
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    names = {p: name for name, p in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1])
    assert all(group["lr"] == 0 for group in groups)
    for _ in range(6):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert {round(group["lr"] / group["initial_lr"], 6) for group in groups} == {0.5}  # half a cosine, half done
    for group in groups:
        assert all((group["weight_decay"] == 0.05) == decays(names[p], p) for p in group["params"])


@pytest.mark.parametrize("decay", [0.0, 1.5, -0.5])
def test_a_decay_that_cannot_be(decay: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.layer_decay is .*; give a factor in \(0, 1\]"):
        training(tmp_path, layer_decay=decay)
