import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, ViTModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.data2vec_vision import Data2VecVisionForPreTraining, Data2VecVisionPreTrainingConfig
from tests.modeling.no_waiting import NoWaiting

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 24,
    "patch_size": 4,
}
OWN_POSITIONS = {
    "data2vec-vision": {"use_shared_relative_position_bias": True, "use_mean_pooling": False},
    "beit": {"use_relative_position_bias": True, "use_mean_pooling": False},
}
ENCODERS = [
    *OWN_POSITIONS,
    "vit",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "ijepa",
    "vit_mae",
    "vit_msn",
]


def config_of(encoder="vit", **fields):
    encoder_config = AutoConfig.for_model(encoder, **SIZES, **OWN_POSITIONS.get(encoder, {}))
    return Data2VecVisionPreTrainingConfig(
        encoder_config=encoder_config, **{"average_top_k_layers": 2, "min_mask_block": 4, **fields}
    )


def build(encoder="vit", **fields):
    """A model whose teacher and student differ."""
    torch.manual_seed(0)
    model = Data2VecVisionForPreTraining(config_of(encoder, **fields))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.eval()


def batch_of(model, num_images=3, side=24):
    generator = torch.Generator().manual_seed(1)
    batch = {"pixel_values": torch.randn(num_images, 3, side, side, generator=generator)}
    return model.draw_inputs(model.config, batch, [item_generator(0, 0, index) for index in range(num_images)])


def smooth_l1(x, y, beta):
    errors = [abs(a - b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    return sum(0.5 * e * e / beta if e < beta else e - 0.5 * beta for e in errors) / len(errors)


def normalised(vector):
    mean = vector.mean()
    return (vector - mean) / ((vector - mean).square().mean() + 1e-5).sqrt()


@torch.no_grad()
@pytest.mark.parametrize("beta", [2.0, 0.1])
def test_loss_is_the_mean_over_masked_patches(beta):
    model = build(loss_beta=beta)
    batch = batch_of(model)
    student = ViTModel(model.encoder.config, use_mask_token=True, add_pooling_layer=False).eval()
    student.load_state_dict(model.encoder.state_dict(), strict=False)
    student.embeddings.mask_token.copy_(model.mask_token.view(1, 1, -1))
    errors = []
    for image, mask in zip(batch["pixel_values"], batch["bool_masked_pos"], strict=True):
        blocks = model.teacher(image[None], output_hidden_states=True).hidden_states[-2:]  # before the last norm
        hidden = student(image[None], bool_masked_pos=mask.view(1, -1)).last_hidden_state[0]
        for patch in range(36):
            if mask.flatten()[patch]:
                layers = [normalised(block[0, 1 + patch]) for block in blocks]  # after the class token
                target = normalised((layers[0] + layers[1]) / 2)
                errors.append(smooth_l1(model.projection_head(hidden[1 + patch]), target, beta))
    output = model(**batch)
    assert output.loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    assert output.num_predictions["regression"] == len(errors)


@torch.no_grad()
def test_targets_are_of_whole_blocks_before_the_last_norm():
    """data2vec's own encoder, whose layers return tuples."""
    model = build("data2vec-vision")
    images = batch_of(model)["pixel_values"]
    states = model.teacher(images, output_hidden_states=True).hidden_states[-2:]
    layers = [torch.nn.functional.layer_norm(state[:, 1:], (16,)) for state in states]
    expected = torch.nn.functional.layer_norm((layers[0] + layers[1]) / 2, (16,))
    torch.testing.assert_close(model.targets(images), expected)


@torch.no_grad()
def test_the_student_does_not_see_masked_patches_and_the_teacher_does():
    model = build()
    batch = batch_of(model)
    other = copy.deepcopy(batch)
    squares = other["pixel_values"].unfold(2, 4, 4).unfold(3, 4, 4)  # (B, C, 6, 6, 4, 4), a view
    for row, column in batch["bool_masked_pos"][0].nonzero().tolist():
        squares[0, :, row, column] += 1.0
    before, after = (model(**inputs).features for inputs in (batch, other))
    assert torch.equal(before, after)
    assert not torch.allclose(model.targets(batch["pixel_values"])[0], model.targets(other["pixel_values"])[0])


def test_masks_of_the_paper():
    config = Data2VecVisionPreTrainingConfig()
    images = {"pixel_values": torch.zeros(20, 3, 224, 224)}
    generators = [item_generator(0, 0, index) for index in range(20)]
    batch = Data2VecVisionForPreTraining.draw_inputs(config, images, generators)
    counts = batch["bool_masked_pos"].flatten(1).sum(dim=1)
    assert batch["bool_masked_pos"].shape == (20, 14, 14)
    assert counts.max() <= 120
    assert counts.float().mean() > 112
    alone = Data2VecVisionForPreTraining.draw_inputs(
        config, {"pixel_values": images["pixel_values"][:1]}, [item_generator(0, 0, 7)]
    )
    assert torch.equal(alone["bool_masked_pos"][0], batch["bool_masked_pos"][7])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders(encoder, tmp_path):
    model = Data2VecVisionForPreTraining(config_of(encoder))
    batch = batch_of(model)
    model.train()(**batch).loss.backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()
    assert all(not p.requires_grad for p in model.teacher.parameters())
    model.export_encoder(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).config.model_type == model.encoder.config.model_type


@torch.no_grad()
def test_images_of_another_size_than_the_encoders():
    model = build()
    batch = batch_of(model, side=32)
    assert batch["bool_masked_pos"].shape == (3, 8, 8)
    assert torch.isfinite(model(**batch).loss)


def test_the_teacher_follows_the_student():
    model = build(ema_decay=0.5, ema_end_decay=0.9, ema_rise_share=0.5)
    name = "layers.0.attention.q_proj.weight"
    student, before = model.encoder.state_dict()[name], model.teacher.state_dict()[name].clone()
    model.after_optimizer_step(0.25)
    torch.testing.assert_close(model.teacher.state_dict()[name], 0.7 * before + 0.3 * student)
    before = model.teacher.state_dict()[name].clone()
    model.after_optimizer_step(0.8)
    torch.testing.assert_close(model.teacher.state_dict()[name], 0.9 * before + 0.1 * student)
    model.synchronise_teacher()
    assert torch.equal(model.teacher.state_dict()[name], student)


@pytest.mark.parametrize("encoder", ["vit", "data2vec-vision"])
def test_the_host_never_waits(encoder):
    model = build(encoder).train()
    batch = batch_of(model)
    counts = model.count_predictions(batch)
    with NoWaiting():
        model(**batch, num_items_in_batch=counts).loss.backward()
        model.after_optimizer_step(0.5)


def test_diagnostics_tell_a_collapse():
    model = build()
    batch = batch_of(model)
    healthy = model(**batch).diagnostics
    with torch.no_grad():
        model.projection_head.weight.zero_()
    collapsed = model(**batch).diagnostics
    assert healthy["prediction_std"] > 10 * collapsed["prediction_std"]
    assert healthy["target_std"] > 0.1


def test_defaults_are_the_papers():
    config = Data2VecVisionPreTrainingConfig()
    assert config.encoder_config.model_type == "data2vec-vision"
    assert config.encoder_config.use_shared_relative_position_bias
    assert (config.average_top_k_layers, config.loss_beta, config.min_mask_block) == (6, 2.0, 16)
    assert round(14 * 14 * config.mask_ratio) == 120
    assert config.ema_end_decay == 0.9998


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"average_top_k_layers": 0}, "average_top_k_layers is 0"),
        ({"average_top_k_layers": 13}, "average_top_k_layers is 13 but the encoder has 12 layers"),
        ({"min_mask_block": 0}, "min_mask_block is 0"),
        ({"mask_ratio": 0.0}, "mask_ratio is 0.0"),
        ({"loss_beta": 0}, "loss_beta is 0"),
        ({"ema_decay": 2.0}, "ema_decay is 2.0"),
        ({"encoder_config": {"model_type": "data2vec-vision"}}, "'data2vec-vision' has no positions"),
        ({"encoder_config": {"model_type": "beit"}}, "'beit' has no positions"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        Data2VecVisionPreTrainingConfig(**fields)


def test_an_encoder_without_patches():
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    with pytest.raises(InputError, match="data2vec needs another"):
        Data2VecVisionForPreTraining(Data2VecVisionPreTrainingConfig(encoder_config=resnet))
