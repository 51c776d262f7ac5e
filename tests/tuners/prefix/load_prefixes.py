"""A process of its own: loads each saved adapter and compares what it gives with what its model gave.

`python load_prefixes.py CASES`, where CASES is a JSON file with a list of
`{"auto_model", "base", "adapter", "native", "inputs"}`.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

importlib.import_module("hf_ssl.tuners.prefix")  # PEFT knows the method from then on

for case in json.loads(Path(sys.argv[1]).read_text()):
    inputs = load_file(case["inputs"])
    expected = inputs.pop("expected")
    model = getattr(transformers, case["auto_model"]).from_pretrained(case["base"])
    if case["native"]:
        model.load_adapter(case["adapter"])
    else:
        model = PeftModel.from_pretrained(model, case["adapter"])
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "prefix" in name)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, expected, rtol=0, atol=1e-6)
    print("equal", case["adapter"])
