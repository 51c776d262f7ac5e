import copy
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.evaluation.collapse import accuracy
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.positions import NOWHERE
from hf_ssl.modeling.blocks.waveform import masked_frames
from hf_ssl.modeling.speech.wav2vec2 import Wav2Vec2PreTrainingModel
from hf_ssl.modeling.speech.wav2vec2_config import Wav2Vec2PreTrainingConfig
from tests.modeling.no_waiting import NoWaiting

ENCODER = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],  # 320 samples a frame, as the published stack
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}
VARIANTS = {  # BASE and LARGE
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}
SIZES = {
    "num_codevectors_per_group": 6,
    "codevector_dim": 12,
    "proj_codevector_dim": 10,
    "num_negatives": 7,
    "feat_quantizer_dropout": 0.0,
    "mask_time_length": 4,
}
ABLATIONS = [(inputs, targets) for inputs in (False, True) for targets in (False, True)]


def make_config(encoder=None, **values):
    encoder = {**ENCODER, **VARIANTS["layer"], **(encoder or {})}
    return Wav2Vec2PreTrainingConfig(encoder_config=encoder, **{**SIZES, **values})


def make_model(encoder=None, **values):
    torch.manual_seed(0)
    return Wav2Vec2PreTrainingModel(make_config(encoder, **values))


def generators(num_rows):
    return [item_generator(0, 0, row) for row in range(num_rows)]


def make_batch(config, lengths=(8000, 8000, 8000)):
    """Random waveforms, padded to the longest, with everything drawn for them."""
    random = torch.Generator().manual_seed(1)
    waveforms = torch.randn(len(lengths), max(lengths), generator=random)
    is_sample = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    batch = {"input_values": waveforms * is_sample}
    if min(lengths) < max(lengths):
        batch["attention_mask"] = is_sample.long()
    return Wav2Vec2PreTrainingModel.draw_inputs(config, batch, generators(len(lengths)))


def quantise(quantizer, vector, noise, config):
    """Sections 2 and 3.2, one vector: its codes side by side, and the distribution of each group."""
    num_codes = config.num_codevectors_per_group
    scores = quantizer.weight_proj(vector).view(-1, num_codes)
    codebooks = quantizer.codevectors.view(len(scores), num_codes, -1)
    codes = [(scores[g] + noise.view_as(scores)[g]).argmax() for g in range(len(scores))]
    return torch.cat([codebooks[g][code] for g, code in enumerate(codes)]), scores.softmax(dim=-1)


def encode(model, batch):
    """The encoder's output for the masked and, where they are to be, quantised inputs, and its CNN's output."""
    encoder, config = model.encoder, model.config
    features = encoder.feature_extractor(batch["input_values"]).transpose(1, 2)
    normalised = encoder.feature_projection.layer_norm(features)
    inputs, distributions = normalised.clone(), []
    if config.quantize_inputs:
        for b, num_frames in enumerate(batch["num_frames"].tolist()):
            for t in range(num_frames):
                noise = batch["input_gumbel_noise"][b, t] if model.training else torch.zeros(())
                noise = noise.expand(config.num_codevector_groups * config.num_codevectors_per_group)
                inputs[b, t], distribution = quantise(model.input_quantizer, normalised[b, t], noise, config)
                distributions.append(distribution)
    handle = encoder.feature_projection.projection.register_forward_pre_hook(lambda module, args: (inputs,))
    with masked_frames(encoder, batch["mask_time_indices"]):
        hidden = encoder(batch["input_values"], attention_mask=batch.get("attention_mask")).last_hidden_state
    handle.remove()
    return hidden, normalised, features, distributions


@torch.no_grad()
def terms_of_the_paper(model, batch):
    """The contrastive loss, the diversity and the penalty; frame by frame, negative by negative."""
    config = model.config
    hidden, normalised, features, of_inputs = encode(model, batch)
    losses, energy, of_targets = [], [], []
    for b, num_frames in enumerate(batch["num_frames"].tolist()):
        energy += [features[b, t].square().mean().item() for t in range(num_frames)]
        frames = [t for t in range(num_frames) if batch["mask_time_indices"][b, t]]
        vectors = []
        for m, t in enumerate(frames):
            vectors.append(normalised[b, t])
            if config.quantize_targets:
                noise = batch["gumbel_noise"][b, m] * model.training
                vectors[m], distribution = quantise(model.quantizer, normalised[b, t], noise, config)
                of_targets.append(distribution)
        for m, t in enumerate(frames):
            candidates = [vectors[m]]
            for index in batch["negatives"][b, m].tolist():
                assert index != m
                if not torch.equal(vectors[index], vectors[m]):
                    candidates.append(vectors[index])
            c_t = model.project_hid(hidden[b, t])
            scores = [F.cosine_similarity(c_t, model.project_q(q), dim=0).item() / 0.1 for q in candidates]
            losses.append(-scores[0] + math.log(sum(math.exp(score) for score in scores)))
    terms = {"contrastive": sum(losses) / len(losses), "features": sum(energy) / len(energy)}
    if distributions := of_targets or of_inputs:
        mean = sum(distributions) / len(distributions)  # (G, V)
        perplexity = sum(math.exp(-sum(p.item() * math.log(p.item()) for p in group)) for group in mean)
        terms["diversity"] = (mean.numel() - perplexity) / mean.numel()
    return terms


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("inputs", "targets"), ABLATIONS)
def test_loss_is_the_papers_equation(inputs, targets, training):
    model = make_model(quantize_inputs=inputs, quantize_targets=targets).train(training)
    batch = make_batch(model.config, (8000, 5000, 6543))
    expected = terms_of_the_paper(model, batch)
    output = model(**batch)
    assert output.loss_terms.keys() == expected.keys()
    for name, value in expected.items():
        assert output.loss_terms[name].item() == pytest.approx(value, rel=1e-5), name
    total = expected["contrastive"] + 10 * expected["features"] + 0.1 * expected.get("diversity", 0)
    assert output.loss.item() == pytest.approx(total, rel=1e-5)
    assert ("diversity" in expected) == (inputs or targets)


@pytest.mark.parametrize("norm", VARIANTS)
def test_a_fresh_model_knows_nothing(norm):
    encoder = {**VARIANTS[norm], "hidden_size": 64, "conv_dim": [64, 64, 64], "num_attention_heads": 4}
    published = {"num_codevectors_per_group": 320, "codevector_dim": 256, "proj_codevector_dim": 256}
    model = make_model(encoder, **published, num_negatives=100, mask_time_length=10)
    batch = make_batch(model.config, [160_000] * 2)
    output = model(**batch)
    assert output.loss_terms["contrastive"].item() == pytest.approx(math.log(101), rel=0.03)
    assert 0 <= model.quantizer.codevectors.min() < 0.01 < 0.99 < model.quantizer.codevectors.max() <= 1
    assert model.quantizer.weight_proj.weight.std().item() == pytest.approx(1, rel=0.05)
    assert model.project_hid.weight.abs().max().item() == pytest.approx(64**-0.5, rel=0.05)


def test_mask_covers_49_percent():
    config = make_config(mask_time_prob=0.65, mask_time_length=10)
    batch = {"input_values": torch.zeros(20, 320_000)}
    drawn = Wav2Vec2PreTrainingModel.draw_inputs(config, batch, generators(20))
    assert drawn["mask_time_indices"].float().mean().item() == pytest.approx(0.49, abs=0.01)


def test_output():
    model = make_model()
    batch = make_batch(model.config, (8000, 4000))
    output = model(**batch)
    counts = model.count_predictions(batch)
    is_masked = batch["masked_positions"] != NOWHERE
    assert counts["contrastive"] == counts["diversity"] == batch["mask_time_indices"].sum() == is_masked.sum()
    assert counts["features"] == 25 + 12
    assert output.logits.shape == (is_masked.numel(), 8)
    assert torch.equal(output.targets, torch.where(is_masked.flatten(), 0, IGNORED))
    mean = F.cross_entropy(output.logits, output.targets).item()
    assert mean == pytest.approx(output.loss_terms["contrastive"].item())
    assert 1 <= output.diagnostics["codebook_perplexity"] <= 6
    assert 1 <= output.diagnostics["probability_perplexity"] <= 6
    assert output.diagnostics["gumbel_temperature"] == 2
    assert all(not value.requires_grad for value in output.diagnostics.values())
    assert output.features.shape == (2, 16)


def test_negatives_are_of_the_same_recording():
    model = make_model().eval()
    batch = make_batch(model.config, [8000] * 2)
    other = {**batch, "input_values": batch["input_values"].clone()}
    other["input_values"][1] = torch.randn(8000)
    ours, theirs = model(**batch).logits.view(2, -1, 8), model(**other).logits.view(2, -1, 8)
    torch.testing.assert_close(ours[0], theirs[0])
    assert not torch.allclose(ours[1], theirs[1])


@pytest.mark.parametrize(("inputs", "targets"), ABLATIONS)
def test_rows_are_drawn_from_their_own_generators(inputs, targets):
    config = make_config(quantize_inputs=inputs, quantize_targets=targets)
    lengths = (16_000, 9000, 12_000)
    together = make_batch(config, lengths)
    for row, length in enumerate(lengths):
        drawn = Wav2Vec2PreTrainingModel.draw_inputs(
            config, {"input_values": torch.zeros(1, length)}, [generators(3)[row]]
        )
        num_masked, num_frames = int(drawn["mask_time_indices"].sum()), int(drawn["num_frames"])
        for name, size in {
            "mask_time_indices": num_frames,
            "masked_positions": num_masked,
            "negatives": num_masked,
            "gumbel_noise": num_masked,
            "input_gumbel_noise": num_frames,
        }.items():
            assert (name in drawn) == (name in together)
            if name in drawn:
                assert torch.equal(drawn[name][0], together[name][row, :size]), name
    assert ("gumbel_noise" in together, "input_gumbel_noise" in together) == (targets, inputs)
    assert not together["mask_time_indices"][1, 28:].any()


def gradients(model, batch, term, **kwargs):
    """Of one term of the loss."""
    model = copy.deepcopy(model)
    for name in ("diversity_loss_weight", "feature_penalty_weight"):
        setattr(model.config, name, float(term in name))
    output = model(**batch, **kwargs)
    loss = output.loss if term == "contrastive" else output.loss - F.cross_entropy(output.logits, output.targets)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.norm() > 1e-6}


@pytest.mark.parametrize(("inputs", "targets"), ABLATIONS)
def test_what_the_contrastive_loss_trains(inputs, targets):
    model = make_model(quantize_inputs=inputs, quantize_targets=targets)
    trained = gradients(model, make_batch(model.config), "contrastive")
    untrained = {name for name, _ in model.named_parameters()} - set(trained)
    assert all(name.endswith("k_proj.bias") for name in untrained)  # attention does not depend on it
    parts = {"quantizer": targets, "input_quantizer": inputs}
    for part, is_there in parts.items():
        assert (f"{part}.weight_proj.weight" in trained) == (f"{part}.codevectors" in trained) == is_there


def test_quantised_inputs_stand_between_the_cnn_and_the_transformer():
    """With codes that are chosen without noise on both sides, no gradient passes: the CNN learns nothing."""
    model = make_model(quantize_inputs=True, quantize_targets=True).eval()
    trained = gradients(model, make_batch(model.config), "contrastive")
    assert not any("feature_extractor" in name for name in trained)
    assert "encoder.feature_projection.projection.weight" in trained
    continuous = make_model(quantize_inputs=False, quantize_targets=True).eval()
    assert any("feature_extractor" in name for name in gradients(continuous, make_batch(model.config), "contrastive"))


def test_continuous_targets_reach_the_cnn_by_both_ways():
    model = make_model(quantize_inputs=True, quantize_targets=False).eval()
    trained = gradients(model, make_batch(model.config), "contrastive")  # by the targets alone
    assert "encoder.feature_extractor.conv_layers.0.conv.weight" in trained


def test_diversity_trains_the_scores_alone():
    model = make_model()
    trained = gradients(model, make_batch(model.config), "diversity")
    assert "quantizer.weight_proj.weight" in trained
    assert "quantizer.codevectors" not in trained
    assert "project_q.weight" not in trained


def test_diversity_is_of_a_micro_batch_and_weighed_by_its_masked_frames():
    """What the class says of it: Σ n_i D_i / N, which is not D of the whole batch."""
    model = make_model(feature_penalty_weight=0.0).eval()
    batch = make_batch(model.config, [8000] * 4)
    counts = model.count_predictions(batch)
    parts = [{name: value[i : i + 2] for name, value in batch.items()} for i in (0, 2)]
    total = sum(model(**part, num_items_in_batch=counts).loss_terms["diversity"] for part in parts)
    shares = [model.count_predictions(part)["diversity"] / counts["diversity"] for part in parts]
    own = [model(**part).loss_terms["diversity"] for part in parts]
    assert total.item() == pytest.approx(sum(share * d for share, d in zip(shares, own, strict=True)).item())
    assert abs(total - model(**batch).loss_terms["diversity"]) > 1e-3


def test_padding_enters_no_mean():
    model = make_model().eval()
    batch = make_batch(model.config, (8000, 4000))
    terms = model(**batch).loss_terms
    assert terms["features"].item() == pytest.approx(terms_of_the_paper(model, batch)["features"], rel=1e-5)


def test_gradient_of_the_cnn_is_scaled():
    full, tenth = make_model(feature_grad_mult=1.0), make_model(feature_grad_mult=0.1)
    batch = make_batch(full.config)
    full(**batch).loss.backward()
    tenth(**batch).loss.backward()
    for (name, one), (_, other) in zip(full.named_parameters(), tenth.named_parameters(), strict=True):
        scale = 0.1 if "feature_extractor" in name else 1.0
        torch.testing.assert_close(other.grad, scale * one.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_collapsed_codebook_is_noticed():
    model = make_model()
    with torch.no_grad():
        model.quantizer.weight_proj.weight.zero_()
        model.quantizer.weight_proj.bias[[2, 8]] = 1000.0  # one code of each group
    output = model(**make_batch(model.config))
    assert output.diagnostics["codebook_perplexity"] == 1
    assert output.diagnostics["probability_perplexity"].item() == pytest.approx(1)
    assert output.loss_terms["contrastive"] == 0  # every negative is the target: there is nothing to tell apart
    assert accuracy(output.logits, output.targets) == 0
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_recording_with_one_masked_frame_predicts_nothing():
    model = make_model(mask_time_length=1, mask_time_min_masks=1, mask_time_prob=0.01)
    batch = make_batch(model.config, [900])
    assert batch["masked_positions"].shape == (1, 1)
    output = model(**batch)
    assert output.targets.tolist() == [IGNORED]
    assert output.loss_terms["contrastive"] == 0
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_softmax_cools():
    """The released BASE: max(2 · .999995^t, .5) over 400,000 updates."""
    model = make_model()
    for update in (0, 100_000, 250_000, 300_000, 400_000):
        model.after_optimizer_step(update / 400_000)
        assert model.gumbel_temperature.item() == pytest.approx(max(2 * 0.999995**update, 0.5), rel=5e-3)
    assert model.gumbel_temperature == 0.5
    batch = make_batch(model.config)
    assert model(**batch).diagnostics["gumbel_temperature"] == 0.5


def test_temperature_changes_the_gradient_and_not_the_choice():
    model = make_model()
    batch = make_batch(model.config)
    warm, warm_gradients = model(**batch).loss, gradients(model, batch, "contrastive")
    model.after_optimizer_step(1.0)
    assert torch.equal(model(**batch).loss, warm)
    cold_gradients = gradients(model, batch, "contrastive")
    assert not torch.allclose(
        warm_gradients["quantizer.weight_proj.weight"], cold_gradients["quantizer.weight_proj.weight"]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temperature_is_saved_and_stays_in_fp32(dtype, tmp_path):
    model = make_model()
    model.after_optimizer_step(0.3)
    model.save_pretrained(tmp_path)
    loaded = Wav2Vec2PreTrainingModel.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.gumbel_temperature.dtype == torch.float32
    assert torch.equal(loaded.gumbel_temperature, model.gumbel_temperature)
    assert loaded.project_q.weight.dtype == dtype
    batch = make_batch(model.config)
    batch["input_values"] = batch["input_values"].to(dtype)
    assert loaded.train()(**batch).loss.isfinite()


def test_missing_heads_and_temperature_are_initialised_as_new_ones(tmp_path):
    model = make_model()
    encoder = {name: weight for name, weight in model.state_dict().items() if name.startswith("encoder.")}
    model.save_pretrained(tmp_path, state_dict=encoder)
    loaded = Wav2Vec2PreTrainingModel.from_pretrained(tmp_path)
    assert loaded.gumbel_temperature == 2
    assert 0 <= loaded.quantizer.codevectors.min() < 0.1 < 0.9 < loaded.quantizer.codevectors.max() <= 1
    assert loaded.quantizer.weight_proj.weight.std().item() == pytest.approx(1, rel=0.2)
    assert loaded.project_q.weight.abs().max() <= 12**-0.5
    assert loaded.project_q.bias.abs().max() > 0


@pytest.mark.parametrize(("inputs", "targets"), ABLATIONS)
def test_forward_never_waits_for_an_accelerator(inputs, targets):
    model = make_model(quantize_inputs=inputs, quantize_targets=targets)
    batch = make_batch(model.config)
    with NoWaiting():
        loss = model(**batch).loss
        loss.backward()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        loss.item()


@pytest.mark.parametrize("targets", [True, False])
def test_what_follows_the_encoder_compiles_without_a_break(targets):
    model = make_model(quantize_targets=targets)
    batch = make_batch(model.config)
    inputs = [batch["masked_positions"], batch["negatives"], batch.get("gumbel_noise")]
    hidden, features = torch.randn(3, 25, 16), torch.randn(3, 25, 16)

    def loss(hidden, features):
        logits, scores = model.contrast(hidden, features, *inputs)
        total = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        return total if scores is None else total + model.diversity(scores, inputs[0] != NOWHERE)[0]

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        value = function(hidden, features)
        value.backward()
        results.append([value.detach(), model.project_q.weight.grad.clone()])
    torch.testing.assert_close(*results)


def test_bf16_is_compared_in_fp32():
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**make_batch(model.config))
    assert output.logits.dtype == output.loss.dtype == torch.float32
    assert output.loss.isfinite()


@pytest.mark.parametrize("family", ["hubert", "wavlm", "unispeech-sat", "data2vec-audio", "sew"])
def test_every_encoder_of_the_family(family):
    special = {
        "data2vec-audio": {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
        "sew": {"conv_dim": [16, 16, 8]},
    }
    model = make_model({"model_type": family, **special.get(family, {})}, quantize_inputs=True)
    model(**make_batch(model.config)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_encoder_of_quantised_inputs_is_exported_with_a_warning(tmp_path, caplog):
    make_model().export_encoder(tmp_path / "continuous")
    assert not caplog.messages
    make_model(quantize_inputs=True).export_encoder(tmp_path / "quantised")
    assert "has no quantiser for its inputs" in caplog.text
    _, report = AutoModel.from_pretrained(tmp_path / "quantised", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_config": {"model_type": "bert"}}, "'bert' does not read waveforms"),
        ({"num_negatives": 0}, "num_negatives is 0"),
        ({"contrastive_logits_temperature": 0}, "contrastive_logits_temperature is 0"),
        ({"gumbel_temperature_decay": 1.2}, "gumbel_temperature_decay is 1.2"),
        ({"gumbel_temperature_end": 0}, "gumbel_temperature_end is 0"),
        ({"mask_time_prob": 1.2}, "mask_time_prob is 1.2"),
        ({"feature_grad_mult": 0}, "feature_grad_mult is 0"),
        ({"diversity_loss_weight": -1}, "diversity_loss_weight is -1"),
        ({"num_codevector_groups": 3}, "codevector_dim is 256, which 3 groups do not divide"),
        ({"num_codevector_groups": 3, "codevector_dim": 255, "quantize_inputs": True}, "conv_dim is 512, which 3"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(InputError, match=message):
        Wav2Vec2PreTrainingConfig(**values)


def test_training_needs_noise():
    model = make_model()
    batch = make_batch(model.config)
    del batch["gumbel_noise"]
    assert model.eval()(**batch).loss.isfinite()
    with pytest.raises(InputError, match="needs Gumbel noise in training"):
        model.train()(**batch)


def test_a_waveform_without_a_frame():
    with pytest.raises(InputError, match="100 samples is shorter than the"):
        make_batch(make_config(), [100])
