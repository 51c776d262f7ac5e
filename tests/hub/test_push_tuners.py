"""What each tuner leaves goes to the Hub, and is loaded from there with the same logits, head and labels."""

import pytest
import torch

from hf_ssl.hub.push import push_run
from hf_ssl.trainers import load_finetuned
from hf_ssl.tuners.methods import TUNERS
from tests.hub_server import HubServer
from tests.trainers.tuner_cases import FAMILY_LABELS, Workshop

FAMILIES = ("vit", "wav2vec2", "bert")
ENCODER, TUNED = "tester/encoder", "tester/tuned"
SAID = {
    "dora": "An adapter (LORA, DoRA, rank 8, alpha 16) for",
    "prefix": "An adapter (ENCODER_PREFIX, tokens 10) for",
    "houlsby": "An adapter (BOTTLENECK, variant houlsby, bottleneck 8) for",
    "deep_prompt": "An adapter (SOFT_PROMPT, deep, tokens 20) for",
    "bitfit": "all of whose weights are in this repository",
}
"""A sentence of the card."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.parametrize(
    ("tuner", "family"), [(tuner, FAMILIES[row % len(FAMILIES)]) for row, tuner in enumerate(TUNERS)]
)
def test_a_push_of_what_a_tuner_leaves(client: HubServer, workshop: Workshop, tuner: str, family: str) -> None:
    tuned = workshop.tuned(tuner, family)
    is_adapter = TUNERS[tuner].config_class is not None
    if is_adapter:
        push_run(workshop.encoder(family), ENCODER)
    push_run(tuned.folder, TUNED, encoder=ENCODER if is_adapter else None)
    files = client.model(TUNED).head.files
    assert ("adapter_model.safetensors" in files) == is_adapter
    assert SAID.get(tuner, "load_finetuned") in files["README.md"].data.decode()
    restored, _ = load_finetuned(TUNED)
    assert restored.config.id2label == FAMILY_LABELS
    with torch.no_grad():
        torch.testing.assert_close(restored(**tuned.inputs).logits, tuned.logits, rtol=0, atol=1e-6)
