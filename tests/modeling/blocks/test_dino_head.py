import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hf_ssl.modeling.blocks.dino_head import DINOHead, WeightNormLinear


def test_weight_normalisation_is_torchs() -> None:
    torch.manual_seed(0)
    ours = WeightNormLinear(5, 7, learn_length=True)
    with torch.no_grad():
        ours.length.uniform_(0.5, 2)
    theirs = weight_norm(nn.Linear(5, 7, bias=False))
    theirs.load_state_dict(
        {"parametrizations.weight.original0": ours.length, "parametrizations.weight.original1": ours.direction}
    )
    vectors = torch.randn(3, 2, 5)
    outputs = [layer(vectors) for layer in (ours, theirs)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(ours.length.grad, theirs.parametrizations.weight.original0.grad)
    torch.testing.assert_close(ours.direction.grad, theirs.parametrizations.weight.original1.grad)


def test_prototypes_whose_length_is_not_learned_give_cosines() -> None:
    torch.manual_seed(0)
    head = DINOHead(4, 6, hidden_size=8, bottleneck_size=5)
    assert [name for name, _ in head.last_layer.named_parameters()] == ["direction"]
    features = torch.randn(3, 4)
    hidden = F.gelu(head.mlp[2](F.gelu(head.mlp[0](features))))
    z = head.mlp[4](hidden)
    for i in range(3):
        for k in range(6):
            cosine = F.cosine_similarity(z[i], head.last_layer.direction[k], dim=0)
            torch.testing.assert_close(head(features)[i, k], cosine)
    torch.testing.assert_close(head.bottleneck(features) @ head.prototypes.T, head(features))


def test_lengths_start_at_one() -> None:
    head = DINOHead(4, 6, hidden_size=8, bottleneck_size=5, norm_last_layer=False)
    assert torch.equal(head.last_layer.length, torch.ones(6, 1))
    torch.testing.assert_close(head.prototypes.norm(dim=1), torch.ones(6))


def test_scores_are_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    head = DINOHead(4, 6, hidden_size=8, bottleneck_size=5)
    z = head.bottleneck(torch.randn(3, 4))
    exact = head.last_layer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.last_layer(z), exact)


def test_a_copy_is_one_of_its_own_and_compiles() -> None:
    torch.manual_seed(0)
    head = DINOHead(4, 6, hidden_size=8, bottleneck_size=5, norm_last_layer=False)
    twin = copy.deepcopy(head)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    features = torch.randn(3, 4)
    with torch.no_grad():
        head.last_layer.length.mul_(2)
    torch.testing.assert_close(head(features), 2 * compiled(features))
    compiled(features).sum().backward()
    assert twin.last_layer.direction.grad is not None
    assert head.last_layer.direction.grad is None
