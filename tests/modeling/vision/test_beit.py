import pytest
import torch
from transformers import AutoModel, BeitConfig, BeitForMaskedImageModeling

from hf_ssl.errors import InputError
from hf_ssl.modeling.vision.beit import BeitForPreTraining, BeitPreTrainingConfig
from hf_ssl.modeling.vision.patch_codebook import PatchCodebook, PatchCodebookConfig
from tests.modeling.no_waiting import NoWaiting
from tests.tiny_vision import NUM_ROWS, generators, images, vit

SIZES = vit().to_diff_dict() | {"image_size": 16, "patch_size": 4, "model_type": "vit"}
TINY_ENCODERS = {
    "vit": SIZES,
    "vit_mae": SIZES | {"model_type": "vit_mae"},
    "deit": SIZES | {"model_type": "deit"},
    "dinov2": SIZES | {"model_type": "dinov2"},
    "dinov3_vit": SIZES | {"model_type": "dinov3_vit", "num_register_tokens": 2},
    "beit": SIZES | {"model_type": "beit", "use_shared_relative_position_bias": True},
    "data2vec-vision": SIZES | {"model_type": "data2vec-vision", "use_absolute_position_embeddings": True},
    "ijepa": SIZES | {"model_type": "ijepa"},
}
CODEBOOK = {"model_type": "patch-codebook", "patch_size": 4, "num_embeddings": 16}


def build(encoder="vit", **fields):
    torch.manual_seed(0)
    sizes = {"tokenizer_config": CODEBOOK, "max_masked_patches": 6, "min_block_patches": 2}
    return BeitForPreTraining(BeitPreTrainingConfig(encoder_config=TINY_ENCODERS[encoder], **{**sizes, **fields}))


def drawn(model, side=16):
    return model.draw_inputs(model.config, {"pixel_values": 0.5 * images(3, side, side)}, generators())


def naive_loss(model, batch):
    """Eq. 2 of arXiv:2106.08254, image by image and patch by patch."""
    total, number = 0.0, 0
    vit_, embeddings = model.encoder, model.encoder.embeddings
    for row, image in enumerate(batch["pixel_values"]):
        mask = batch["bool_masked_pos"][row]
        patches = [image[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] for r in range(4) for c in range(4)]
        tokens = [embeddings.cls_token[0, 0]]
        for i in range(16):
            embedded = embeddings.patch_embeddings.projection(patches[i][None]).flatten()
            tokens.append(model.mask_token if mask[i] else embedded)
        hidden = torch.stack(tokens)[None] + embeddings.position_embeddings
        for layer in vit_.layers:
            hidden = layer(hidden)
        scores = model.lm_head(model.layernorm(vit_.layernorm(hidden)))[0, 1:].log_softmax(dim=-1)
        for i in range(16):
            if mask[i]:
                distances = (model.tokenizer.codebook - patches[i].permute(1, 2, 0).flatten()).norm(dim=1)
                total -= float(scores[i, distances.argmin()])
                number += 1
    return total / number


def test_loss_is_equation_2():
    model = build().eval()
    batch = drawn(model)
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(naive_loss(model, batch), rel=1e-5)


def test_loss_and_gradient_are_those_of_transformers():
    model = build("beit").eval()
    fields = {name: value for name, value in TINY_ENCODERS["beit"].items() if name != "model_type"}
    theirs = BeitForMaskedImageModeling(BeitConfig(**fields, use_mask_token=True, vocab_size=16)).eval()
    state = {f"beit.{name}": value for name, value in model.encoder.state_dict().items()}
    state["beit.embeddings.mask_token"] = model.mask_token[None, None]
    for name in ("layernorm.weight", "layernorm.bias", "lm_head.weight", "lm_head.bias"):
        state[name] = model.state_dict()[name]
    theirs.load_state_dict(state)
    theirs.layernorm.eps = model.layernorm.eps
    batch = drawn(model)
    mask = batch["bool_masked_pos"]
    labels = model.tokens(batch["pixel_values"])[mask]
    expected = theirs(batch["pixel_values"], bool_masked_pos=mask, labels=labels).loss
    loss = model(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    of_theirs = dict(theirs.named_parameters())
    torch.testing.assert_close(model.mask_token.grad, of_theirs["beit.embeddings.mask_token"].grad[0, 0])
    for name, parameter in model.encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, of_theirs[f"beit.{name}"].grad, msg=name)


@pytest.mark.parametrize("encoder", TINY_ENCODERS)
def test_encoders(encoder, tmp_path):
    model = build(encoder)
    batch = drawn(model)
    model(**batch).loss.backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()
    model.eval().export_encoder(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    noise = {"noise": torch.arange(16).expand(NUM_ROWS, -1)} if encoder == "vit_mae" else {}
    expected = plain(batch["pixel_values"], **noise).last_hidden_state
    assert torch.equal(model.encoder(batch["pixel_values"]).last_hidden_state, expected)


def test_masked_pixels_are_not_seen_by_the_encoder():
    model = build().eval()
    batch = drawn(model)
    pixels = batch["bool_masked_pos"].view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    others = torch.where(pixels, images(3, 16, 16, seed=1), batch["pixel_values"])
    first, second = model(**batch), model(**{**batch, "pixel_values": others})
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.targets, second.targets)


def test_the_tokenizer_reads_colours():
    mean, scale = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    plain, other = build(), build(pixel_mean=mean, pixel_scale=scale)
    colours = torch.rand(2, 3, 16, 16)
    normalised = (colours - torch.tensor(mean)[:, None, None]) / torch.tensor(scale)[:, None, None]
    assert torch.equal(other.tokens(normalised), plain.tokens(2 * colours - 1))


def test_the_tokenizer_is_frozen():
    model = build().train()
    assert not any(p.requires_grad for p in model.tokenizer.parameters())
    assert not model.tokenizer.training
    assert model.encoder.training


def test_a_tokenizer_is_given_by_name_and_kept_in_the_checkpoint(tmp_path):
    given = PatchCodebook(PatchCodebookConfig(patch_size=4, num_embeddings=9))
    given.save_pretrained(tmp_path / "tokenizer")
    model = build(tokenizer=str(tmp_path / "tokenizer"), tokenizer_config=None)
    assert model.lm_head.out_features == 9
    model.load_given_parts()
    assert torch.equal(model.tokenizer.codebook, given.codebook)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "tokenizer").rename(tmp_path / "gone")
    loaded = BeitForPreTraining.from_pretrained(tmp_path / "model")
    assert loaded.config.tokenizer is None
    assert torch.equal(loaded.tokenizer.codebook, given.codebook)
    assert not any(p.requires_grad for p in loaded.tokenizer.parameters())


@pytest.mark.parametrize(("model_type", "stride"), [("chameleon_vqgan", 4), ("janus_vqgan", 4)])
def test_tokenizers_of_transformers(model_type, stride):
    sizes = {"embed_dim": 4, "num_embeddings": 11, "latent_channels": 32, "base_channels": 32, "num_res_blocks": 1}
    tokenizer = {"model_type": model_type, **sizes, "channel_multiplier": [1, 1, 1]}
    model = build(tokenizer_config=tokenizer)
    output = model(**drawn(model))
    assert output.logits.shape[1] == 11
    assert torch.isfinite(output.loss)


def test_forward_never_waits():
    model = build()
    batch = drawn(model)
    with NoWaiting():
        model(**batch).loss.backward()


def test_output():
    model = build()
    batch = drawn(model)
    output = model(**batch)
    assert (batch["bool_masked_pos"].sum(dim=1) <= 6).all()
    assert output.num_predictions["token"] == batch["bool_masked_pos"].sum() == (output.targets != -100).sum()
    assert output.logits.shape == (batch["masked_positions"].numel(), 16)
    assert output.features.shape == (NUM_ROWS, 32)
    assert 1 <= output.diagnostics["codebook_perplexity"] <= 16
    torch.testing.assert_close(torch.nn.functional.cross_entropy(output.logits, output.targets), output.loss.detach())


def test_images_of_another_size_than_the_encoders():
    assert torch.isfinite(build()(**drawn(build(), side=24)).loss)


def test_defaults_are_the_papers():
    config = BeitPreTrainingConfig()
    assert (config.encoder_config.model_type, config.encoder_config.patch_size) == ("beit", 16)
    assert (config.max_masked_patches, config.min_block_patches) == (75, 16)
    assert config.tokenizer_config.num_embeddings == 8192


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_masked_patches": 0}, "max_masked_patches is 0"),
        ({"min_block_patches": 0}, "min_block_patches is 0"),
        ({"pixel_scale": [0.5]}, r"pixel_scale \[0.5\]"),
        ({"tokenizer_config": {"model_type": "resnet"}}, "There is no image tokenizer"),
        ({"tokenizer": "/nowhere"}, "/nowhere cannot be loaded"),
    ],
)
def test_values_that_do_not_fit(fields, message):
    with pytest.raises(InputError, match=message):
        BeitPreTrainingConfig(**fields)


def test_more_masked_patches_than_there_are():
    with pytest.raises(InputError, match="max_masked_patches is 75, but an image has 16 patches"):
        drawn(build(max_masked_patches=75))
