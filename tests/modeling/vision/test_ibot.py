import math

import pytest
import torch
from transformers import AutoModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.patch_masking import masked_patches, num_prefix_tokens
from hf_ssl.modeling.vision.dino import DINOForPreTraining
from hf_ssl.modeling.vision.ibot import IBOTConfig, IBOTForPreTraining
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.vision.dino_ranks import FINE_VIT, SIZES, build_ibot, masked_batch
from tests.modeling.vision.test_dino import head_of, unlike_its_student
from tests.modeling.vision.test_simclr import TINY_ENCODERS

PATCH_ENCODERS = {
    "vit": FINE_VIT,
    "deit": {**FINE_VIT, "model_type": "deit"},
    "dinov2": {**FINE_VIT, "model_type": "dinov2"},
    "dinov2_with_registers": {**FINE_VIT, "model_type": "dinov2_with_registers", "num_register_tokens": 2},
    "beit": {**FINE_VIT, "model_type": "beit", "use_mean_pooling": False},
    "vit_mae": {**FINE_VIT, "model_type": "vit_mae", "decoder_hidden_size": 8, "decoder_num_attention_heads": 1},
}


def algorithm_1(model, batch):
    """The paper's algorithm 1 without local views, image by image, view by view and patch by patch.

    Returns L_[CLS], L_MIM and the mean of the teacher's scores for patches.
    """
    cls_loss, patch_loss, teacher_scores = 0.0, 0.0, []
    num_images = len(batch["pixel_values"])
    student_head, teacher_head = model.projection_head, model.teacher["projection_head"]
    for i in range(num_images):
        student, teacher = [], []
        for view in range(2):
            image, mask = batch["pixel_values"][i, view][None], batch["bool_masked_pos"][i, view]
            with masked_patches(model.encoder, mask[None], model.mask_token):
                student.append(model.encoder(image).last_hidden_state[0])  # (1 + P, D)
            teacher.append(model.teacher["encoder"](image).last_hidden_state[0])
            scores = [head_of(teacher_head, patch) for patch in teacher[view][1:]]
            teacher_scores += scores
            masked = mask.nonzero()[:, 0].tolist()
            for patch in masked:
                target = torch.softmax((scores[patch] - model.sharpen_patches.centre) / 0.05, dim=0)
                log_p = torch.log(torch.softmax(head_of(student_head, student[view][1 + patch]) / 0.1, dim=0))
                patch_loss -= (target * log_p).sum() / len(masked) / 2 / num_images
        for t, s in ((0, 1), (1, 0)):
            target = torch.softmax((head_of(teacher_head, teacher[t][0]) - model.sharpen.centre) / 0.04, dim=0)
            log_p = torch.log(torch.softmax(head_of(student_head, student[s][0]) / 0.1, dim=0))
            cls_loss -= (target * log_p).sum() / 2 / num_images
    return cls_loss, patch_loss, torch.stack(teacher_scores).mean(0)


def test_losses_and_centres_are_those_of_algorithm_1():
    model, batch = unlike_its_student(build_ibot(patch_temperature=0.05)), masked_batch()
    del batch["local_pixel_values"]
    counts = batch["bool_masked_pos"].sum(2).flatten().tolist()
    assert 0 in counts
    assert len(set(counts)) > 2  # views with different weights, and without any masked patch
    with torch.no_grad():
        torch.nn.init.normal_(model.mask_token)
        model.sharpen_patches.centre.copy_(0.1 * torch.randn(SIZES["num_prototypes"]))
        centre = model.sharpen_patches.centre.clone()
        cls_loss, patch_loss, mean = algorithm_1(model, batch)
    output = model(**batch)
    torch.testing.assert_close(output.loss_terms["cross_view"], cls_loss)
    torch.testing.assert_close(output.loss_terms["masked_patches"], patch_loss)
    torch.testing.assert_close(output.loss.detach(), cls_loss + patch_loss)
    assert torch.equal(model.sharpen_patches.centre, centre)  # it moves after its use
    model.after_optimizer_step(0.0)
    torch.testing.assert_close(model.sharpen_patches.centre, 0.9 * centre + 0.1 * mean)


def test_without_masked_patches_it_is_dino():
    model, batch = unlike_its_student(build_ibot()), masked_batch()
    batch["bool_masked_pos"].fill_(False)
    batch["masked_positions"] = torch.full((4, 1), -1)
    output = model(**batch)
    views = {name: batch[name] for name in ("pixel_values", "local_pixel_values")}
    as_dino = DINOForPreTraining.compare(model, DINOForPreTraining.embed(model, **views))
    torch.testing.assert_close(output.loss, as_dino.loss)
    assert output.loss_terms["masked_patches"] == 0
    assert all(torch.isfinite(value) for value in output.diagnostics.values())


def test_the_mask_hides_patches_from_the_student_alone():
    model, batch = build_ibot().eval(), masked_batch()
    other = {name: value.clone() for name, value in batch.items()}
    mask = batch["bool_masked_pos"]  # (4, 2, 16), patches of 4 pixels
    pixel_mask = mask.view(4, 2, 1, 4, 4).repeat_interleave(4, 3).repeat_interleave(4, 4)
    other["pixel_values"] = torch.where(pixel_mask, 1.0, other["pixel_values"])
    inputs = ("bool_masked_pos", "masked_positions")
    first, second = (
        model.embed(values["pixel_values"], **{name: values[name] for name in inputs}) for values in (batch, other)
    )
    torch.testing.assert_close(first.features, second.features)
    torch.testing.assert_close(first.patches, second.patches)
    assert not torch.allclose(first.teacher_patches, second.teacher_patches)


@pytest.mark.parametrize("encoder", PATCH_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = IBOTForPreTraining(IBOTConfig(encoder_config=PATCH_ENCODERS[encoder], **SIZES))
    batch = masked_batch()
    output = model(**{name: value for name, value in batch.items() if name != "local_pixel_values"})
    output.loss.backward()
    # the poolers of no encoder are trained, and a mask token of its own is frozen
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()
    assert model.mask_token.grad.norm() > 0
    model.eval().export_encoder(tmp_path)
    plain, images = AutoModel.from_pretrained(tmp_path).eval(), batch["pixel_values"][:, 0]
    with torch.no_grad():
        hidden = plain(images).last_hidden_state
    assert hidden.shape[1] == 16 + num_prefix_tokens(model.encoder)
    if encoder != "vit_mae":  # which shuffles its patches outside of this package
        with torch.no_grad():
            assert torch.equal(hidden, model.teacher["encoder"](images).last_hidden_state)


def test_an_items_mask_does_not_depend_on_its_neighbours():
    config = IBOTConfig(encoder_config=FINE_VIT, mask_probability=1.0)
    views = {"pixel_values": torch.zeros(3, 2, 3, 16, 16)}
    batch = IBOTForPreTraining.draw_inputs(config, views, [item_generator(0, 0, i) for i in range(3)])
    alone = IBOTForPreTraining.draw_inputs(
        config, {"pixel_values": torch.zeros(1, 2, 3, 16, 16)}, [item_generator(0, 0, 2)]
    )
    assert torch.equal(batch["bool_masked_pos"][2], alone["bool_masked_pos"][0])
    assert batch["masked_positions"].shape == (3, int(batch["bool_masked_pos"].flatten(1).sum(1).max()))


def test_output():
    model, batch = build_ibot(), masked_batch()
    output = model(**batch)
    assert output.features.shape == (8, 16)
    assert {name: count.item() for name, count in output.num_predictions.items()} == {
        "cross_view": 4,
        "masked_patches": 4,
    }
    values = {name: value.item() for name, value in output.diagnostics.items()}
    assert values["patch_teacher_entropy"] + values["patch_kl_to_uniform"] == pytest.approx(math.log(12), rel=1e-5)
    assert 1 <= values["patch_prototypes_used"] <= 12


def test_uniform_students_and_teachers_have_the_loss_ln_k():
    model, batch = build_ibot(norm_last_layer=False), masked_batch(mask_ratio_spread=0.1)
    for head in (model.projection_head, model.teacher["projection_head"]):
        head.last_layer.length.data.zero_()
    output = model(**batch)
    assert output.loss_terms["cross_view"].item() == pytest.approx(math.log(12), rel=1e-6)
    share = (batch["bool_masked_pos"].any(2)).float().mean().item()  # of views that have masked patches
    assert output.loss_terms["masked_patches"].item() == pytest.approx(share * math.log(12), rel=1e-5)


def test_both_temperatures_and_centres_are_state():
    model = build_ibot(patch_temperature=0.05, temperature_warmup_share=0.5)
    state = model.state_dict()
    assert state["sharpen.temperature"].item() == pytest.approx(0.04)
    assert state["sharpen_patches.temperature"].item() == pytest.approx(0.05)
    model.after_optimizer_step(0.25)
    assert state["sharpen.temperature"].item() == pytest.approx(0.055)
    assert state["sharpen_patches.temperature"].item() == pytest.approx(0.06)
    assert "sharpen_patches.centre" in state


def test_nothing_waits_for_the_device():
    model, batch = build_ibot(), masked_batch()
    with NoWaiting():
        model(**batch).loss.backward()


def test_defaults_are_the_papers():
    config = IBOTConfig()
    assert config.encoder_config.model_type == "vit"
    assert (config.num_prototypes, config.patch_temperature, config.final_patch_temperature) == (8192, 0.04, 0.07)
    assert config.mask_probability == 0.5
    assert config.mask_ratios == pytest.approx((0.1, 0.5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_temperature": 0.0}, "patch_temperature is 0.0"),
        ({"mask_probability": 0.0}, "mask_probability is 0.0"),
        ({"mask_ratio": 0.9}, "mask_ratio is 0.9 and mask_ratio_spread 0.2"),
        ({"centre_decay": 2}, "centre_decay is 2"),
        ({"encoder_config": TINY_ENCODERS["swin"]}, "'swin' merges its patches"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        IBOTConfig(**fields)


def test_encoders_without_patches():
    with pytest.raises(InputError, match="'resnet' has no patches that can be masked"):
        IBOTForPreTraining(IBOTConfig(encoder_config=TINY_ENCODERS["resnet"], pooling="mean", **SIZES))


def test_one_view_instead_of_two():
    batch = masked_batch()
    with pytest.raises(InputError, match=r"\(4, 3, 16, 16\)"):
        build_ibot()(**{**batch, "pixel_values": batch["pixel_values"][:, 0]})
