"""PEFT's interface and transformers' own, on models with bottleneck adapters."""

import copy
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_ssl.errors import InputError
from hf_ssl.tuners.bottleneck import VARIANTS, BottleneckConfig
from tests.families import classifier


def config(variant: str = "houlsby", **fields) -> BottleneckConfig:
    return BottleneckConfig(variant=variant, **{"bottleneck_size": 3, "modules_to_save": ["classifier"]} | fields)


def shake(model: nn.Module, seed: int = 1) -> None:
    """As if trained: what trains moves."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))


def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["bert", "vit", "wavlm", "albert"])
def test_saved_and_loaded_alike(family, variant, tmp_path):
    model, inputs = classifier(family)
    adapted = get_peft_model(model, config(variant, train_layer_norms=variant == "parallel"))
    shake(adapted)
    adapted.save_pretrained(tmp_path)
    base, _ = classifier(family)
    loaded = PeftModel.from_pretrained(base, tmp_path, adapter_name="under_another_name")
    assert torch.equal(logits(loaded, inputs), logits(adapted, inputs))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.peft_config["under_another_name"].bottleneck_size == 3


LOAD = """
import sys, torch
import hf_ssl.tuners.bottleneck
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

folder = sys.argv[1]
base = AutoModelForSequenceClassification.from_pretrained(f"{folder}/base")
adapted = PeftModel.from_pretrained(base, f"{folder}/adapter").eval()
saved = load_file(f"{folder}/batch.safetensors")
with torch.no_grad():
    assert torch.equal(adapted(input_ids=saved["input_ids"]).logits, saved["logits"])
"""


def test_a_fresh_process_loads_it(tmp_path):
    model, inputs = classifier("bert")
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, config("parallel"))
    shake(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    save_file(inputs | {"logits": logits(adapted, inputs)}, tmp_path / "batch.safetensors")
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True)


def test_several_adapters_are_set_disabled_and_deleted():
    model, inputs = classifier("bert")
    before = logits(model, inputs)
    adapted = get_peft_model(model, config("houlsby"), adapter_name="first")
    shake(adapted)
    first = logits(adapted, inputs)
    adapted.add_adapter("second", config("pfeiffer"))
    adapted.set_adapter("second")
    assert {n.split(".")[-3] for n, p in adapted.named_parameters() if p.requires_grad and "bottleneck_" in n} == {
        "second"
    }
    shake(adapted)
    second = logits(adapted, inputs)
    assert not torch.allclose(first, second)
    adapted.set_adapter("first")
    assert torch.equal(logits(adapted, inputs), first)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, inputs), before)
    adapted.set_adapter("second")
    adapted.delete_adapter("first")
    assert torch.equal(logits(adapted, inputs), second)
    assert not any(".first." in n for n in adapted.state_dict())


def test_each_adapter_has_its_own_layer_norms(tmp_path):
    model, inputs = classifier("bert")
    before = logits(model, inputs)
    adapted = get_peft_model(model, config("houlsby", train_layer_norms=True), adapter_name="first")
    shake(adapted)
    first = logits(adapted, inputs)
    adapted.add_adapter("second", config("parallel", train_layer_norms=True))
    names = [adapted.peft_config[name].modules_to_save for name in ("first", "second")]
    assert names[0] == names[1]
    adapted.set_adapter("second")
    torch.testing.assert_close(logits(adapted, inputs), before, rtol=0, atol=1e-6)
    shake(adapted, seed=2)
    second = logits(adapted, inputs)
    adapted.set_adapter("first")
    assert torch.equal(logits(adapted, inputs), first)
    adapted.save_pretrained(tmp_path, selected_adapters=["second"])
    native, _ = classifier("bert")
    native.load_adapter(str(tmp_path / "second"))
    assert torch.equal(logits(native, inputs), second)


def test_layer_norms_that_carry_adapters_do_not_train():
    model, _ = classifier("bert")
    adapted = get_peft_model(model, config("pfeiffer"))
    with pytest.raises(InputError, match=r"LayerNorm bert\.encoder\.layer\.0\.output\.LayerNorm carries.*pfeiffer"):
        adapted.add_adapter("other", config("houlsby", train_layer_norms=True))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["bert", "wavlm"])
def test_unloading_gives_the_model_back(family, variant):
    model, inputs = classifier(family)
    before, names = logits(model, inputs), list(model.state_dict())
    adapted = get_peft_model(model, BottleneckConfig(variant=variant))
    shake(adapted)
    unloaded = adapted.unload()
    assert type(unloaded) is type(model)
    assert list(unloaded.state_dict()) == names
    torch.testing.assert_close(logits(unloaded, inputs), before, rtol=0, atol=1e-7)
    assert not any(module._forward_pre_hooks for module in unloaded.modules())


@pytest.mark.parametrize("method", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused(method):
    model, inputs = classifier("bert")
    adapted = get_peft_model(model, config())
    shake(adapted)
    before = logits(adapted, inputs)
    with pytest.raises(InputError, match=r"non-linearity.*cannot be merged.*unload\(\)"):
        getattr(adapted, method)()
    assert torch.equal(logits(adapted, inputs), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_interface_of_transformers(variant, tmp_path):
    model, inputs = classifier("bert")
    before = logits(model, inputs)
    model.add_adapter(config(variant), adapter_name="task")
    shake(model)
    after = logits(model, inputs)
    assert not torch.allclose(before, after)
    model.disable_adapters()
    assert torch.equal(logits(model, inputs), before)
    model.enable_adapters()
    model.save_pretrained(tmp_path)

    fresh, _ = classifier("bert")
    fresh.load_adapter(str(tmp_path), adapter_name="loaded")
    assert torch.equal(logits(fresh, inputs), after)
    fresh.delete_adapter("loaded")
    base, _ = classifier("bert")
    through_peft = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(logits(through_peft, inputs), after)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing(variant, use_reentrant):
    model, inputs = classifier("bert")
    adapted = get_peft_model(model, config(variant))
    shake(adapted)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        adapted.zero_grad()
        adapted(**inputs).logits.square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in adapted.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fused", [False, True])
def test_distributed_training_finds_no_unused_parameter(variant, fused, process_group):
    model, inputs = classifier("bert")
    adapted = get_peft_model(model, config(variant))
    if fused:
        adapted.add_adapter("other", config(variant))
        adapted.fuse_adapters(["default", "other"])
        adapted.set_adapter("fusion")
    parallel = DistributedDataParallel(adapted)
    for _ in range(2):  # the second forward complains of what the first backward has not reached
        parallel(**inputs).logits.sum().backward()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["bert", "wavlm"])
def test_half_precision(family, variant):
    model, inputs = classifier(family)
    single = get_peft_model(copy.deepcopy(model), config(variant))
    half = get_peft_model(model.to(torch.bfloat16), config(variant))
    assert all(p.dtype == torch.float32 for n, p in half.named_parameters() if "bottleneck_" in n)
    half.load_state_dict({n: p.bfloat16() for n, p in single.state_dict().items()})
    shake(single)
    shake(half)
    values = {n: v.bfloat16() if v.is_floating_point() else v for n, v in inputs.items()}
    result = logits(half, values)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), logits(single, inputs), atol=0.1, rtol=0.1)


def test_weights_on_no_device_until_they_are_loaded(tmp_path):
    model, inputs = classifier("wavlm")
    adapted = get_peft_model(model, config())
    shake(adapted)
    adapted.save_pretrained(tmp_path)
    base, _ = classifier("wavlm")
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(loaded, inputs), logits(adapted, inputs))


def test_replicas_in_threads_read_their_own_block_input():
    """`nn.DataParallel` shares hooks between the replicas that it runs in threads."""
    model, _ = classifier("bert")
    adapted = get_peft_model(model, config("parallel"))
    shake(adapted)
    batches = [{"input_ids": torch.randint(5, 40, (2, 7))} for _ in range(2)]
    alone = [logits(adapted, batch) for batch in batches]
    both_are_within_the_block = threading.Barrier(2, timeout=20)

    def wait_for_the_other(*_):
        both_are_within_the_block.wait()

    for layer in model.bert.encoder.layer:
        layer.intermediate.register_forward_hook(wait_for_the_other)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: logits(adapted, batch), batches))
    for result, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(result, expected)


def test_a_copy_reads_its_own_block_input():
    model, inputs = classifier("bert")
    adapted = get_peft_model(model, config("parallel"))
    shake(adapted)
    twin = copy.deepcopy(adapted)
    assert torch.equal(logits(twin, inputs), logits(adapted, inputs))
    with torch.no_grad():
        twin.get_submodule("base_model.model.bert.embeddings.word_embeddings").weight.neg_()
    before = logits(adapted, inputs)
    assert not torch.equal(logits(twin, inputs), before)
    assert torch.equal(logits(adapted, inputs), before)


@pytest.mark.slow
def test_it_compiles_into_one_graph():
    model, inputs = classifier("bert")
    adapted = get_peft_model(model, config("parallel"))
    shake(adapted)
    compiled = torch.compile(model.eval(), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, logits(adapted, inputs))
    torch._dynamo.reset()
