import subprocess
import sys

import pytest
from peft import get_peft_model
from torch import nn
from transformers import AutoModel, PreTrainedModel, ViTConfig

from hf_ssl.errors import InputError
from hf_ssl.tuners.adapting import adapter_config, check_tuner_config
from hf_ssl.tuners.methods import TUNERS
from tests.families import VIT, classifier

ADAPTERS = [name for name, tuner in TUNERS.items() if tuner.config_class is not None]
SETTINGS = {"fourierft": {"n_frequency": 20}}


class StudentAndTeacher(PreTrainedModel):
    config_class = ViTConfig
    base_model_prefix = "encoder"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config, add_pooling_layer=False)
        self.teacher = AutoModel.from_config(config, add_pooling_layer=False)
        self.head = nn.ModuleDict({"q_proj": nn.Linear(config.hidden_size, 2)})
        self.post_init()


@pytest.mark.parametrize("tuner", ADAPTERS)
def test_a_teacher_and_a_head_are_left_alone(tuner):
    model = StudentAndTeacher(ViTConfig(**VIT))
    adapted = get_peft_model(model, adapter_config(model, tuner, SETTINGS.get(tuner, {}), []))
    untouched = StudentAndTeacher(ViTConfig(**VIT))
    for name in ("teacher", "head"):
        assert str(getattr(adapted.get_base_model(), name)) == str(getattr(untouched, name))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert not any("teacher" in name or "head" in name for name in trained)


def test_the_defaults_and_what_is_changed_of_them():
    model = classifier("vit")[0]
    lora = adapter_config(model, "lora", {}, ["classifier"])
    assert (lora.r, lora.lora_alpha, lora.modules_to_save) == (8, 16, ["classifier"])
    assert adapter_config(model, "rslora", {"r": 2}, []).use_rslora
    dora = adapter_config(model, "dora", {"r": 2, "lora_dropout": 0.1}, [])
    assert (dora.r, dora.lora_dropout, dora.use_dora) == (2, 0.1, True)
    assert adapter_config(model, "parallel", {"bottleneck_size": 4}, []).variant == "parallel"
    assert adapter_config(model, "deep_prompt", {"num_tokens": 3}, []).deep


def test_one_layer_or_several_can_be_named():
    model = classifier("vit")[0]
    for names in ("fc1", ["fc1"]):
        adapted = get_peft_model(classifier("vit")[0], adapter_config(model, "lora", {"target_modules": names}, []))
        found = [name for name, p in adapted.named_parameters() if p.requires_grad]
        assert len(found) == 4
        assert all(".fc1.lora_" in name for name in found)


@pytest.mark.parametrize(
    ("tuner", "values", "message"),
    [
        ("lor", {}, r"There is no tuner \(model.tuner\) 'lor'; did you mean 'lora'"),
        ("lora", {"modules_to_save": ["x"]}, "section model.tuner_config 'modules_to_save'"),
        ("houlsby", {"variant": "pfeiffer"}, "section model.tuner_config 'variant'"),
        ("pfeiffer", {"reduction_facter": 2}, "did you mean 'reduction_factor'"),
        ("prompt", {"init": "nonsense"}, "of the tuner prompt cannot be used: There is no start"),
        ("head", {"r": 1}, "the tuner head takes no settings"),
        ("lora", {"r": 2.5}, r"model\.tuner_config\.r is 2\.5"),
    ],
)
def test_settings_that_cannot_be(tuner, values, message):
    with pytest.raises(InputError, match=message):
        check_tuner_config(tuner, values)


@pytest.mark.parametrize("tuner", ["houlsby", "parallel", "prefix", "deep_prompt"])
def test_an_unknown_module_of_our_own_methods(tuner):
    with pytest.raises(InputError, match="no module in the bert encoder 'querry'; did you mean 'query'"):
        adapter_config(classifier("bert")[0], tuner, {"target_modules": ["querry"]}, [])


def test_an_unknown_layer_and_a_family_without_a_place():
    with pytest.raises(InputError, match="'q_prj'; did you mean 'q_proj'"):
        adapter_config(classifier("vit")[0], "vera", {"target_modules": ["q_prj"]}, [])
    with pytest.raises(InputError, match=r"hra adapts linear layers, and resnet\..* is a convolution; choose another"):
        adapter_config(classifier("resnet")[0], "hra", {}, [])
    with pytest.raises(InputError, match="The tuner oft does not work in a convnext encoder"):
        adapter_config(classifier("convnext")[0], "oft", {}, [])


def test_importing_the_package_makes_our_methods_known_to_peft():
    script = "import hf_ssl; from peft import PeftType; print(*(PeftType[n].value for n in {names}))"
    names = ["BOTTLENECK", "ENCODER_PREFIX", "SOFT_PROMPT"]
    done = subprocess.run([sys.executable, "-c", script.format(names=names)], capture_output=True, text=True)
    assert done.stdout.split() == names, done.stderr
