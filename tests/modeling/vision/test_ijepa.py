import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.positions import NOWHERE
from hf_ssl.modeling.vision.ijepa import IJepaForPreTraining, IJepaPreTrainingConfig
from tests.modeling.no_waiting import NoWaiting

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 24,
    "patch_size": 4,
}
PREDICTOR = {
    "predictor_hidden_size": 8,
    "predictor_num_hidden_layers": 2,
    "predictor_num_attention_heads": 2,
    "predictor_intermediate_size": 16,
}
ENCODERS = ["ijepa", "vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_mae", "vit_msn"]


def config_of(encoder="ijepa", **fields):
    encoder_config = AutoConfig.for_model(encoder, **SIZES)
    return IJepaPreTrainingConfig(encoder_config=encoder_config, **{**PREDICTOR, **fields})


def build(encoder="ijepa", **fields):
    """A model whose teacher and student differ."""
    torch.manual_seed(0)
    model = IJepaForPreTraining(config_of(encoder, **fields))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.eval()


def batch_of(model, num_images=3, side=24):
    generator = torch.Generator().manual_seed(1)
    batch = {"pixel_values": torch.randn(num_images, 3, side, side, generator=generator)}
    return model.draw_inputs(model.config, batch, [item_generator(0, 0, index) for index in range(num_images)])


def smooth_l1(x, y):
    errors = [abs(a - b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    return sum(0.5 * e * e if e < 1 else e - 0.5 for e in errors) / len(errors)


def normalised(vector):
    mean = vector.mean()
    return (vector - mean) / ((vector - mean).square().mean() + 1e-5).sqrt()


def context_features(model, image, kept):
    """The encoder's own layers, one after the other, on the embeddings of some patches alone."""
    tokens = model.encoder.embeddings(image[None])[:, kept]
    for layer in model.encoder.layers:
        tokens = layer(tokens)
    return model.encoder.layernorm(tokens)


def predicted(model, context, kept, block):
    """One block by itself, without any padding."""
    predictor = model.predictor
    positions = two_axes(6, PREDICTOR["predictor_hidden_size"])
    asked = torch.stack([predictor.mask_token + positions[p] for p in block])
    seen = predictor.embed(context) + torch.stack([positions[p] for p in kept])
    tokens = torch.cat([seen, asked[None]], dim=1)
    for layer in predictor.layers:
        tokens = layer(tokens)
    return predictor.predict(predictor.norm(tokens[0, len(kept) :]))


def two_axes(side, dim):
    """Fixed sine-cosine positions: half of the dimensions for the column, half for the row."""
    rows = []
    for place in range(side * side):
        values = []
        for axis in (place % side, place // side):
            angles = [axis / 10000 ** (i / (dim // 4)) for i in range(dim // 4)]
            values += [torch.sin(torch.tensor(a)) for a in angles] + [torch.cos(torch.tensor(a)) for a in angles]
        rows.append(torch.stack(values))
    return torch.stack(rows)


@torch.no_grad()
def test_loss_is_the_mean_over_the_patches_of_all_blocks():
    model = build()
    batch = batch_of(model)
    total, count = 0.0, 0
    for image, kept, blocks in zip(*(batch[name] for name in batch), strict=True):
        targets = model.teacher(image[None]).last_hidden_state[0]
        context = context_features(model, image, kept)
        for block in blocks.tolist():
            patches = [patch for patch in block if patch != NOWHERE]
            for prediction, patch in zip(predicted(model, context, kept.tolist(), patches), patches, strict=True):
                total += smooth_l1(prediction, normalised(targets[patch]))
                count += 1
    assert (batch["target_positions"] == NOWHERE).any()  # blocks of different sizes
    output = model(**batch)
    assert output.loss.item() == pytest.approx(total / count, rel=1e-4)
    assert output.num_predictions["regression"] == count


@torch.no_grad()
def test_the_student_sees_the_context_alone():
    model = build()
    batch = batch_of(model)
    kept = batch["context_positions"][0]
    other = copy.deepcopy(batch)
    squares = other["pixel_values"].unfold(2, 4, 4).unfold(3, 4, 4)  # (B, C, 6, 6, 4, 4), a view
    for patch in set(range(36)) - set(kept.tolist()):
        squares[0, :, patch // 6, patch % 6] += 1.0
    before, after = (model(**inputs).features for inputs in (batch, other))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(model.targets(batch["pixel_values"])[0], model.targets(other["pixel_values"])[0])


def test_what_is_drawn_of_an_image_does_not_depend_on_the_others():
    model = build()
    batch = batch_of(model, num_images=6)
    images = {"pixel_values": batch["pixel_values"][4:5]}
    alone = model.draw_inputs(model.config, images, [item_generator(0, 0, 4)])
    assert torch.equal(alone["context_positions"], batch["context_positions"][4:5])
    size = alone["target_positions"].shape[2]
    assert torch.equal(alone["target_positions"], batch["target_positions"][4:5, :, :size])
    assert (batch["target_positions"][4, :, size:] == NOWHERE).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders(encoder, tmp_path):
    model = IJepaForPreTraining(config_of(encoder))
    batch = batch_of(model)
    model.train()(**batch).loss.backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()
    assert all(not p.requires_grad for p in model.teacher.parameters())
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    plain.config.mask_ratio = 0.0  # ViT-MAE's own masking
    features = plain(batch["pixel_values"]).last_hidden_state
    assert features.shape[0] == 3


def test_the_teacher_is_exported(tmp_path):
    model = build("vit")
    model.export_encoder(tmp_path)
    exported = AutoModel.from_pretrained(tmp_path).state_dict()
    teacher, student = model.teacher.state_dict(), model.encoder.state_dict()
    assert all(torch.equal(value, teacher[key]) for key, value in exported.items() if "pooler" not in key)
    assert not all(torch.equal(value, student[key]) for key, value in exported.items() if "pooler" not in key)


@torch.no_grad()
def test_images_of_another_size_than_the_encoders():
    model = build("vit")
    batch = batch_of(model, side=32)
    assert batch["context_positions"].shape == (3, 16)
    assert torch.isfinite(model(**batch).loss)


def test_the_teacher_follows_the_student():
    model = build(ema_decay=0.9, ema_end_decay=1.0)
    name = "layers.0.attention.q_proj.weight"
    student, before = model.encoder.state_dict()[name], model.teacher.state_dict()[name].clone()
    model.after_optimizer_step(0.5)
    torch.testing.assert_close(model.teacher.state_dict()[name], 0.95 * before + 0.05 * student)
    held = copy.deepcopy(model.teacher.state_dict())
    model.after_optimizer_step(1.0)
    assert all(torch.equal(value, held[key]) for key, value in model.teacher.state_dict().items())
    model.synchronise_teacher()
    assert torch.equal(model.teacher.state_dict()[name], student)


def test_the_host_never_waits():
    model = build().train()
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
        model.predictor.predict.weight.zero_()
        model.teacher.layernorm.weight.zero_()
    collapsed = model(**batch).diagnostics
    assert healthy["prediction_std"] > 10 * collapsed["prediction_std"]
    assert healthy["target_std"] > 10 * collapsed["target_std"]


def test_defaults_are_the_papers():
    config = IJepaPreTrainingConfig()
    assert (config.num_target_blocks, list(config.target_scale), list(config.target_aspect)) == (
        4,
        [0.15, 0.2],
        [0.75, 1.5],
    )
    assert list(config.context_scale) == [0.85, 1.0]
    assert (config.predictor_num_hidden_layers, config.predictor_hidden_size) == (12, 384)
    assert (config.ema_decay, config.ema_end_decay) == (0.996, 1.0)
    assert config.encoder_config.model_type == "ijepa"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_target_blocks": 0}, "num_target_blocks is 0"),
        ({"predictor_num_hidden_layers": 0}, "predictor_num_hidden_layers is 0"),
        ({"target_scale": [0.2, 0.15]}, r"target_scale is \[0.2, 0.15\]"),
        ({"context_scale": [0.85, 1.5]}, "context_scale is"),
        ({"target_aspect": [0.5]}, "target_aspect is"),
        ({"context_share": 0.5}, "context_share is 0.5; it must be above 0 and at most half"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5"),
        ({"predictor_hidden_size": 10}, "predictor_hidden_size is 10"),
        ({"encoder_config": {"model_type": "swin"}}, "'swin' works on windows"),
        ({"encoder_config": {"model_type": "beit", "use_relative_position_bias": True}}, "relative to the whole grid"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        IJepaPreTrainingConfig(**fields)


def test_encoders_and_images_that_do_not_fit():
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    with pytest.raises(InputError, match="I-JEPA needs another"):
        IJepaForPreTraining(IJepaPreTrainingConfig(encoder_config=resnet))
    config = config_of(context_share=0.01)
    with pytest.raises(InputError, match="none of the 36 patches"):
        IJepaForPreTraining.draw_inputs(config, {"pixel_values": torch.zeros(1, 3, 24, 24)}, [item_generator(0, 0, 0)])
    with pytest.raises(InputError, match="one square image"):
        IJepaForPreTraining.draw_inputs(config, {"pixel_values": torch.zeros(1, 2, 3, 24, 24)}, [])
