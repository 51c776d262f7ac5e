import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.simclr import SimCLRConfig, SimCLRForPreTraining
from tests.modeling.vision.simclr_ranks import ENCODERS, build, joint_batch, loss_and_gradients
from tests.two_processes import run_two_processes

TINY_ENCODERS = {
    **ENCODERS,
    "dinov2": {**ENCODERS["vit"], "model_type": "dinov2"},
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "swin": {
        "model_type": "swin",
        "image_size": 16,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
}


def eq_1(z, temperature):
    """Eq. 1 of arXiv:2002.05709 with the paper's indices: views 2k and 2k + 1 (from 0) belong together."""
    total = 0.0
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        similarity = [F.cosine_similarity(z[i], z[k], dim=0).item() / temperature for k in range(len(z))]
        denominator = sum(math.exp(similarity[k]) for k in range(len(z)) if k != i)
        total -= math.log(math.exp(similarity[j]) / denominator)
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_is_equation_1(temperature):
    model = build("vit")
    model.config.temperature = temperature
    pixel_values = joint_batch()
    hidden = model.encoder(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state.mean(1)  # views side by side
    z = model.projection_head(hidden)
    assert model(pixel_values).loss.item() == pytest.approx(eq_1(z, temperature), rel=1e-4)


def test_order_of_images_and_of_views_does_not_matter():
    model, pixel_values = build("resnet"), joint_batch()
    loss = model(pixel_values).loss
    torch.testing.assert_close(model(pixel_values[[2, 0, 3, 1]]).loss, loss)
    torch.testing.assert_close(model(pixel_values.flip(1)).loss, loss)


def test_output():
    model, pixel_values = build("resnet"), joint_batch()
    output = model(pixel_values)
    assert output.logits.shape == (8, 8)
    assert output.targets.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert output.features.shape == (8, 16)
    assert not output.features.requires_grad
    assert not output.logits.requires_grad
    assert output.num_predictions == {}
    torch.testing.assert_close(output.loss_terms["nt_xent"], output.loss.detach())
    torch.testing.assert_close(F.cross_entropy(output.logits, output.targets), output.loss.detach())


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=TINY_ENCODERS[encoder], projection_size=8))
    model(joint_batch()).loss.backward()
    # ConvNext's last norm belongs to its own pooling, of which the encoder's last layer is not a part
    idle = {"encoder.layernorm.weight", "encoder.layernorm.bias"} if encoder == "convnext" else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == idle
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    images = joint_batch()[:, 0]
    assert torch.equal(plain(images).last_hidden_state, model.encoder(images).last_hidden_state)


def test_class_token_pooling():
    torch.manual_seed(0)
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=ENCODERS["vit"], pooling="cls")).eval()
    pixel_values = joint_batch()
    expected = model.encoder(pixel_values=pixel_values[:, 0]).last_hidden_state[:, 0]
    torch.testing.assert_close(model(pixel_values).features[:4], expected)


@pytest.mark.parametrize("encoder", ["resnet", "swin", "convnext"])
def test_encoders_without_a_class_token(encoder):
    with pytest.raises(InputError, match=f"'{encoder}' has no class token"):
        SimCLRForPreTraining(SimCLRConfig(encoder_config=TINY_ENCODERS[encoder], pooling="cls"))


def test_a_masked_autoencoder_sees_all_patches():
    encoder = {**ENCODERS["vit"], "model_type": "vit_mae", "decoder_hidden_size": 8, "decoder_num_attention_heads": 1}
    model = SimCLRForPreTraining(SimCLRConfig(encoder_config=encoder)).eval()
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(model(joint_batch()).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_adapter_is_no_encoder(tmp_path):
    AutoModel.from_config(build("vit").encoder.config).save_pretrained(tmp_path / "encoder")
    adapted = get_peft_model(AutoModel.from_pretrained(tmp_path / "encoder"), LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="merge it into its encoder first"):
        SimCLRForPreTraining.from_encoder(tmp_path / "adapter")


def test_defaults_are_the_papers():
    config = SimCLRConfig()
    assert config.encoder_config.model_type == "resnet"
    assert config.encoder_config.depths == (3, 4, 6, 3)
    assert config.projection_sizes == [2048, 2048, 128]
    assert config.temperature == 0.1


def test_two_processes_equal_one_on_the_joint_batch(tmp_path):
    run_two_processes(Path(__file__).parent / "simclr_ranks.py", tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for encoder in ENCODERS:
        joint = loss_and_gradients(build(encoder), joint_batch())
        first, second = (rank[encoder] for rank in ranks)
        torch.testing.assert_close((first["loss"] + second["loss"]) / 2, joint["loss"])
        # of the whole gradient: a bias before a batch norm has none but rounding errors
        gradient = torch.cat([g.flatten() for g in joint["gradients"].values()])
        for rank in (first, second):
            error = torch.cat([g.flatten() for g in rank["gradients"].values()]) - gradient
            assert error.norm() <= 1e-5 * gradient.norm()
        for name, buffer in joint["buffers"].items():
            torch.testing.assert_close(first["buffers"][name], buffer)
            torch.testing.assert_close(second["buffers"][name], buffer)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"pooling": "max"}, "There is no pooling 'max'"),
        ({"num_projection_layers": 0}, "num_projection_layers is 0"),
        ({"num_projection_layers": 1, "projection_hidden_size": 8}, "no hidden layer"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        SimCLRConfig(**fields)


def test_one_view_instead_of_two():
    with pytest.raises(InputError, match=r"\(4, 3, 16, 16\)"):
        build("vit")(joint_batch()[:, 0])


def test_encoder_that_reads_no_images():
    encoder = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with pytest.raises(InputError, match="'bert' reads input_ids"):
        SimCLRForPreTraining(SimCLRConfig(encoder_config=encoder))
