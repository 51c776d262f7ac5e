import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED, num_frames
from hf_ssl.modeling.blocks.positions import positions_of
from hf_ssl.modeling.blocks.waveform import masked_frames
from hf_ssl.modeling.speech.hubert import HubertForPreTraining, HubertPreTrainingConfig

ENCODER = {
    "model_type": "hubert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],  # 320 samples a frame, as the published stack
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "layerdrop": 0.0,
}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}


def make_config(encoder=None, **values):
    encoder = {**ENCODER, **NO_DROPOUT, **(encoder or {})}
    return HubertPreTrainingConfig(**{"encoder_config": encoder, "num_clusters": 7, "final_dim": 12, **values})


def make_model(encoder=None, **values):
    torch.manual_seed(0)
    return HubertForPreTraining(make_config(encoder, **values))


def generators(num_rows, epoch=0):
    return [item_generator(0, epoch, row) for row in range(num_rows)]


def make_batch(config, num_rows=3, num_samples=8000, seed=1):
    """Random waveforms and units, with the masks and frame labels drawn for them."""
    random = torch.Generator().manual_seed(seed)
    num_units = round(num_samples * config.label_rate / config.sampling_rate)
    batch = {
        "input_values": torch.randn(num_rows, num_samples, generator=random),
        "units": torch.randint(config.num_clusters, (num_rows, num_units), generator=random),
    }
    return HubertForPreTraining.draw_inputs(config, batch, generators(num_rows))


def padded_batch(config, lengths):
    """As `make_batch`, with rows of `lengths` samples that are padded to the longest."""
    rows = [make_batch(config, 1, length, seed) for seed, length in enumerate(lengths)]
    frames = num_frames(config.encoder_config, max(lengths))
    waveforms = [
        F.pad(row["input_values"][0], (0, max(lengths) - length)) for row, length in zip(rows, lengths, strict=True)
    ]
    batch = {
        "input_values": torch.stack(waveforms),
        "attention_mask": torch.stack([(torch.arange(max(lengths)) < length).long() for length in lengths]),
        "labels": torch.stack(
            [F.pad(r["labels"][0], (0, frames - r["labels"].shape[1]), value=IGNORED) for r in rows]
        ),
        "mask_time_indices": torch.stack(
            [F.pad(r["mask_time_indices"][0], (0, frames - r["mask_time_indices"].shape[1])) for r in rows]
        ),
    }
    return with_positions(batch)


def with_positions(batch):
    labelled, masked = batch["labels"] != IGNORED, batch["mask_time_indices"]
    positions = {
        "masked_positions": positions_of(labelled & masked),
        "unmasked_positions": positions_of(labelled & ~masked),
    }
    return {**batch, **positions}


def terms_of_the_paper(model, batch):
    """L_m, L_u and the penalty, frame by frame: section II, and the noise-contrastive form of the authors' code."""
    config = model.config
    with masked_frames(model.encoder, batch["mask_time_indices"]):
        hidden = model.encoder(batch["input_values"]).last_hidden_state
    features = model.encoder.feature_extractor(batch["input_values"])  # (B, C, T)
    masked, unmasked, energy = [], [], []
    for b in range(len(hidden)):
        for t in range(hidden.shape[1]):
            target = batch["labels"][b, t].item()
            if target == IGNORED:
                continue
            a_o = model.projection_head(hidden[b, t])
            similarity = [
                F.cosine_similarity(a_o, model.codebook[c], dim=0).item() / config.temperature
                for c in range(config.num_clusters)
            ]
            p = math.exp(similarity[target]) / sum(math.exp(s) for s in similarity)
            # One positive, and all codewords with the positive's own similarity set to -inf as negatives.
            contrast = [similarity[target]] + [s if c != target else -math.inf for c, s in enumerate(similarity)]
            assert math.exp(contrast[0]) / sum(math.exp(s) for s in contrast) == pytest.approx(p)
            (masked if batch["mask_time_indices"][b, t] else unmasked).append(-math.log(p))
            energy.append(features[b, :, t].square().mean().item())
    return [sum(values) / len(values) for values in (masked, unmasked, energy)]


@pytest.mark.parametrize("alpha", [1.0, 0.7, 0.0])
def test_loss_is_the_papers_equation(alpha):
    model = make_model(alpha=alpha)
    batch = make_batch(model.config)
    batch["labels"][1, 20:] = IGNORED
    masked, unmasked, penalty = terms_of_the_paper(model, batch)
    output = model(**batch)
    expected = alpha * masked + (1 - alpha) * unmasked + 10 * penalty
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.loss_terms["masked"].item() == pytest.approx(masked, rel=1e-5)
    assert output.loss_terms["features"].item() == pytest.approx(penalty, rel=1e-5)
    assert ("unmasked" in output.loss_terms) == (alpha < 1)


def test_a_fresh_model_knows_nothing():
    model = make_model(num_clusters=504, final_dim=256, encoder={"hidden_size": 64})
    output = model(**make_batch(model.config, num_rows=4, num_samples=32_000))
    assert output.loss_terms["masked"].item() == pytest.approx(math.log(504), rel=0.03)
    assert 0 <= model.codebook.min() < 0.01 < 0.99 < model.codebook.max() <= 1


def test_output():
    model = make_model()
    batch = make_batch(model.config)
    output = model(**batch)
    counts = model.count_predictions(batch)
    masked = batch["mask_time_indices"]
    predicted = output.targets != IGNORED
    assert counts["masked"] == masked.sum() == predicted.sum()
    assert len(output.logits) == len(output.targets) == 3 * masked.sum(dim=1).max()
    assert counts["features"] == counts["masked"] + counts["unmasked"] == masked.numel()
    assert torch.equal(output.targets[predicted], batch["labels"][masked])
    assert F.cross_entropy(output.logits, output.targets).item() == pytest.approx(output.loss_terms["masked"].item())
    assert output.features.shape == (3, 16)
    assert not output.features.requires_grad


def gradients(model, batches, counts):
    model = copy.deepcopy(model)
    for batch in batches:
        model(**batch, num_items_in_batch=counts).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("lengths", [[8000] * 8, [8000, 4000, 7000, 5000, 3000, 8000, 6543, 2500]])
def test_gradient_does_not_depend_on_micro_batches(lengths):
    model = make_model(alpha=0.7)
    batch = padded_batch(model.config, lengths)
    counts = model.count_predictions(batch)
    whole = gradients(model, [batch], counts)
    # Each row alone: a short one without the padding that it has among the others.
    rows = [
        with_positions(
            {
                "input_values": batch["input_values"][i : i + 1, :length],
                "labels": batch["labels"][i : i + 1, : num_frames(model.config.encoder_config, length)],
                "mask_time_indices": batch["mask_time_indices"][
                    i : i + 1, : num_frames(model.config.encoder_config, length)
                ],
            }
        )
        for i, length in enumerate(lengths)
    ]
    parts = gradients(model, rows, counts)
    for name, gradient in whole.items():
        assert (gradient - parts[name]).norm() <= 1e-5 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("strides", [(5, 8, 8), (5, 8, 4), (10, 8, 8)])  # frames of 20, 10 and 40 ms
@pytest.mark.parametrize("label_rate", [50, 100, 25])
def test_labels_are_those_of_the_frames_time(label_rate, strides):
    config = make_config(num_clusters=1000, label_rate=label_rate, encoder={"conv_stride": list(strides)})
    num_units = 2 * label_rate
    batch = {"input_values": torch.zeros(1, 32_000), "units": torch.arange(num_units)[None]}
    labels = HubertForPreTraining.draw_inputs(config, batch, generators(1))["labels"][0]
    assert len(labels) == num_frames(config.encoder_config, 32_000)
    assert labels.tolist() == [frame * math.prod(strides) * label_rate // 16_000 for frame in range(len(labels))]


def test_rows_are_drawn_from_their_own_generators():
    config = make_config()
    batch = {"input_values": torch.zeros(4, 16_000), "units": torch.zeros(4, 50, dtype=torch.long)}
    together = HubertForPreTraining.draw_inputs(config, batch, generators(4))["mask_time_indices"]
    for row in range(4):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        drawn = HubertForPreTraining.draw_inputs(config, alone, generators(4)[row : row + 1])
        assert torch.equal(drawn["mask_time_indices"][0], together[row])
    assert not torch.equal(together[0], together[1])
    assert "units" in batch  # what was given is left as it was


def test_padding_is_neither_masked_nor_predicted():
    config = make_config()
    batch = {
        "input_values": torch.zeros(2, 16_000),
        "attention_mask": (torch.arange(16_000) < torch.tensor([[16_000], [6000]])).long(),
        "units": torch.zeros(2, 50, dtype=torch.long),
    }
    batch["units"][1, 19:] = IGNORED
    drawn = HubertForPreTraining.draw_inputs(config, batch, generators(2))
    frames = num_frames(config.encoder_config, 6000)
    assert not drawn["mask_time_indices"][1, frames:].any()
    assert (drawn["labels"][1, frames:] == IGNORED).all()
    assert (drawn["labels"][1, :frames] == 0).all()


def test_gradient_of_the_cnn_is_scaled():
    full, tenth = make_model(feature_grad_mult=1.0), make_model(feature_grad_mult=0.1)
    batch = make_batch(full.config)
    full(**batch).loss.backward()
    tenth(**batch).loss.backward()
    for (name, one), (_, other) in zip(full.named_parameters(), tenth.named_parameters(), strict=True):
        scale = 0.1 if "feature_extractor" in name else 1.0
        torch.testing.assert_close(other.grad, scale * one.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_the_mask_decides_what_is_seen():
    model = make_model().eval()
    batch = make_batch(model.config, num_rows=1)
    batch["mask_time_indices"][:] = True
    other = {**batch, "input_values": torch.randn_like(batch["input_values"])}
    assert torch.equal(model(**batch).logits, model(**other).logits)


def test_bf16_scores_are_compared_in_fp32():
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**make_batch(model.config))
    assert output.logits.dtype == output.loss.dtype == torch.float32
    assert torch.isfinite(output.loss)


def test_export_is_a_plain_encoder(tmp_path):
    model = make_model().eval()
    waveforms = make_batch(model.config)["input_values"]
    model.export_encoder(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    assert type(encoder) is HubertModel
    assert torch.equal(encoder(waveforms).last_hidden_state, model.encoder(waveforms).last_hidden_state)


def test_save_and_load(tmp_path):
    model = make_model().eval()
    batch = make_batch(model.config)
    model.save_pretrained(tmp_path)
    loaded = HubertForPreTraining.from_pretrained(tmp_path).eval()
    assert loaded.config.num_clusters == model.config.num_clusters
    assert loaded.config.encoder_config.conv_stride == model.config.encoder_config.conv_stride
    assert torch.equal(loaded(**batch).loss, model(**batch).loss)


def fairseq_logits(hidden, final_proj, label_embeddings, temperature=0.1):
    """Scores of clusters 0, 1, ...: each compared by its row in the dictionary, where four symbols come first."""
    rows = [label_embeddings[4 + cluster] for cluster in range(len(label_embeddings) - 4)]
    projected = hidden @ final_proj["weight"].T + final_proj["bias"]
    return torch.stack([F.cosine_similarity(projected, row[None], dim=-1) for row in rows], dim=1) / temperature


def test_released_label_embeddings_load():
    model = make_model(num_clusters=500)
    embeddings, final_proj = torch.rand(504, 12), {"weight": torch.randn(12, 16), "bias": torch.randn(12)}
    model.load_labels(embeddings, final_proj)
    batch = make_batch(model.config, num_rows=1)
    with masked_frames(model.encoder, batch["mask_time_indices"]):
        hidden = model.encoder(batch["input_values"]).last_hidden_state[0]
    masked = batch["mask_time_indices"][0]
    output = model(**batch)
    torch.testing.assert_close(output.logits, fairseq_logits(hidden[masked], final_proj, embeddings))
    assert model.codebook.requires_grad
    with pytest.raises(InputError, match=r"504 label embeddings, not 4 special ones and 7"):
        make_model().load_labels(embeddings, final_proj)
    with pytest.raises(InputError, match=r"projection \(12, 16\) and codewords of 9 dimensions do not fit \(12, 16\)"):
        model.load_labels(torch.rand(504, 9), final_proj)
    with pytest.raises(InputError, match=r"projection \(12, 99\) and codewords of 12"):
        model.load_labels(embeddings, {**final_proj, "weight": torch.randn(12, 99)})


def test_missing_heads_are_initialised_as_new_ones(tmp_path):
    model = make_model()
    weights = {name: w for name, w in model.state_dict().items() if name != "codebook"}
    model.save_pretrained(tmp_path, state_dict=weights)
    codebook = HubertForPreTraining.from_pretrained(tmp_path).codebook
    assert 0 <= codebook.min() < 0.1 < 0.9 < codebook.max() <= 1


@pytest.mark.parametrize(
    ("config_class", "model_class"), [(HubertConfig, HubertModel), (Wav2Vec2Config, Wav2Vec2Model)]
)
def test_starts_from_a_published_encoder(config_class, model_class, tmp_path):
    settings = {name: value for name, value in ENCODER.items() if name != "model_type"}
    # Fine-tuned checkpoints carry SpecAugment settings of their own, some without any mask embedding.
    encoder = model_class(config_class(**settings, mask_feature_prob=0.0, mask_time_prob=0.0)).eval()
    encoder.save_pretrained(tmp_path)
    model = HubertForPreTraining.from_encoder(tmp_path, num_clusters=7).eval()
    batch = make_batch(model.config)
    with torch.no_grad():
        expected = encoder(batch["input_values"]).last_hidden_state
        assert torch.equal(model.encoder(batch["input_values"]).last_hidden_state, expected)
        with masked_frames(model.encoder, batch["mask_time_indices"]):
            assert not torch.equal(model.encoder(batch["input_values"]).last_hidden_state, expected)


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "unispeech-sat", "unispeech", "data2vec-audio", "sew"])
def test_every_encoder_of_the_family(family):
    special = {"data2vec-audio": {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2}}
    model = make_model({"model_type": family, **special.get(family, {})}).train()
    output = model(**make_batch(model.config))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_config": {"model_type": "bert"}}, "'bert' does not read waveforms"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"mask_time_prob": 1.2}, "mask_time_prob is 1.2"),
        ({"feature_grad_mult": 0}, "feature_grad_mult is 0"),
        ({"num_clusters": 0}, "num_clusters is 0"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(InputError, match=message):
        HubertPreTrainingConfig(**values)


@pytest.mark.parametrize(
    ("num_samples", "units", "message"),
    [
        (16_000, [7] * 50, "A unit is 7 but num_clusters is 7"),
        (16_000, [0] * 100, "100 units, about 100 Hz, but label_rate is 50 Hz"),
        (16_000, [0] * 30, "30 units, about 30 Hz"),
        (100, [0], "100 samples is shorter than the"),
        (1000, [IGNORED], "3 frames has no units"),
        (16_000, [-5] * 50, "has the unit -5"),
    ],
)
def test_draw_refuses_units_of_something_else(num_samples, units, message):
    batch = {"input_values": torch.zeros(1, num_samples), "units": torch.tensor([units])}
    with pytest.raises(InputError, match=message):
        HubertForPreTraining.draw_inputs(make_config(), batch, generators(1))


def test_forward_refuses_labels_of_another_rate():
    model = make_model()
    batch = make_batch(model.config)
    batch["labels"] = torch.zeros(3, 50, dtype=torch.long)
    with pytest.raises(InputError, match=r"labels have shape \(3, 50\) but the encoder has \(3, 25\) frames"):
        model(**batch)
