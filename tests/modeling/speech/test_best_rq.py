"""BEST-RQ's equations against loops written from the paper (Chiu et al. 2022, arXiv:2202.01855), and its errors."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModel, HubertConfig, WhisperConfig, set_seed

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.speech.best_rq import BestRQConfig, BestRQForPreTraining
from tests.tiny import best_rq, generators
from tests.tiny_encoders import MEL_ENCODERS


def make(model_type="wav2vec2-bert", **fields):
    """A tiny model in evaluation mode, of mel frames of 8 bands."""
    set_seed(0)
    values = {"codebook_size": 12, "codebook_dim": 6, "mask_probability": 0.05, "mask_length": 10, **fields}
    config = BestRQConfig(encoder_config=CONFIG_MAPPING[model_type](**MEL_ENCODERS[model_type]), **values)
    return BestRQForPreTraining(config).eval()


def draw(model, num_rows=4, num_inputs=60, seed=0, **more):
    size = model.config.front_end.input_size
    features = torch.randn(num_rows, num_inputs, size, generator=item_generator(seed, 0, 0))
    return model.draw_inputs(model.config, {"input_features": features, **more}, generators(num_rows))


def mel_frames(tensor, bands=8):
    """Of (B, L, D) the mel frames one by one, in a list of lists."""
    return [[row[start : start + bands] for row in rows for start in range(0, len(row), bands)] for rows in tensor]


def naive_code(frames, projection, codebook):
    """The nearest code to frames side by side, by distance: the equation of section 3."""
    projected = projection.T @ torch.cat(frames)
    distances = [(code / code.norm() - projected / projected.norm()).norm().item() for code in codebook]
    return distances.index(min(distances))


def naive_loss(model, batch):
    """The mean negative log-probability of the codes of clean frames, given what the encoder makes of masked ones."""
    config, clean = model.config, mel_frames(batch["input_features"])
    noise, mask = mel_frames(batch["noise"]), batch["mask_time_indices"].tolist()
    read = [[n if m else c for c, n, m in zip(*rows, strict=True)] for rows in zip(clean, noise, mask, strict=True)]
    inputs = torch.stack([torch.cat(rows).reshape(batch["input_features"].shape[1:]) for rows in read])
    hidden = model.encoder(inputs).last_hidden_state
    losses = []
    for row, row_mask in enumerate(mask):
        for n in range(hidden.shape[1]):
            start = n * config.front_end.stride
            stop = start + config.stack
            if stop > len(row_mask) or sum(row_mask[start:stop]) < config.mask_threshold * config.stack:
                continue
            scores = model.prediction_head(hidden[row, n]).reshape(config.num_codebooks, -1)
            for c in range(config.num_codebooks):
                code = naive_code(clean[row][start:stop], model.quantizer.projection[c], model.quantizer.codebook[c])
                losses.append(-math.log(scores[c].exp()[code].item() / scores[c].exp().sum().item()))
    return sum(losses) / len(losses), len(losses) // config.num_codebooks


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("wav2vec2-bert", {}),
        ("wav2vec2-bert", {"quantizer_stack": 4, "num_codebooks": 3, "mask_threshold": 0.5}),
        ("wav2vec2-bert", {"quantizer_stack": 1}),
        ("parakeet_encoder", {}),
        ("parakeet_encoder", {"quantizer_stack": 7}),
        ("nemotron_asr_streaming_encoder", {}),
        ("lasr_encoder", {}),
    ],
)
@torch.no_grad()
def test_loss_is_the_papers(model_type, fields):
    model = make(model_type, **fields)
    batch = draw(model)
    expected, num_predictions = naive_loss(model, batch)
    output = model(**batch)
    assert num_predictions > 10
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.loss_terms["masked"].item() == output.loss.item()
    assert output.num_predictions["masked"].item() == num_predictions
    assert (output.targets >= 0).sum() == num_predictions * model.config.num_codebooks
    assert len(output.logits) == len(output.targets)


@torch.no_grad()
def test_loss_of_several_codebooks_is_their_mean():
    model = make(num_codebooks=3)
    batch = draw(model)
    output = model(**batch)
    logits, targets = output.logits.unflatten(0, (-1, 3)), output.targets.unflatten(0, (-1, 3))
    losses = [F.cross_entropy(logits[:, c], targets[:, c]) for c in range(3)]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())


@torch.no_grad()
def test_random_model_guesses():
    set_seed(0)
    values = {**MEL_ENCODERS["wav2vec2-bert"], "feature_projection_input_dim": 160, "hidden_size": 256}
    model = BestRQForPreTraining(BestRQConfig(encoder_config=CONFIG_MAPPING["wav2vec2-bert"](**values)))
    output = model.eval()(**draw(model, num_rows=4, num_inputs=500))
    assert output.loss.item() == pytest.approx(math.log(8192), rel=0.03)  # 9.01
    # White noise has most of the codes; there are fewer frames than codes.
    assert output.diagnostics["codebook_perplexity"] > 0.7 * output.num_predictions["masked"]


def test_a_third_is_masked_by_default():
    config = BestRQConfig()
    features = torch.zeros(50, 500, 160)
    batch = BestRQForPreTraining.draw_inputs(config, {"input_features": features}, generators(50))
    masked = batch["mask_time_indices"]
    assert masked.shape == (50, 1000)
    assert masked[:, 40:].float().mean().item() == pytest.approx(1 - 0.99**40, abs=0.03)  # .33
    assert config.stack == 2
    assert BestRQForPreTraining(make().config).quantizer.projection.shape == (1, 16, 6)


def test_predicted_are_frames_of_which_enough_is_masked():
    model = make("parakeet_encoder", mask_threshold=0.75)  # of 4 mel frames, 3
    batch = draw(model, num_rows=8, num_inputs=101)
    masked = batch["mask_time_indices"].tolist()
    for row, positions in enumerate(batch["masked_positions"].tolist()):
        expected = [n for n in range(25) if sum(masked[row][4 * n : 4 * n + 4]) >= 3]  # 101 inputs: the 26th has one
        assert [n for n in positions if n >= 0] == expected


def test_noise_is_drawn_for_every_row_and_has_its_deviation():
    model = make(noise_std=0.1)
    noise = draw(model, num_rows=8, num_inputs=200)["noise"]
    assert noise.std().item() == pytest.approx(0.1, rel=0.03)
    assert noise.mean().abs() < 0.005
    assert not torch.equal(noise[0], noise[1])


def test_rows_do_not_depend_on_their_neighbours():
    model = make()
    features = torch.randn(3, 60, 16)
    lengths = torch.tensor([60, 41, 60])
    attention_mask = (torch.arange(60) < lengths[:, None]).long()
    rows = [item_generator(0, 0, index) for index in range(3)]
    together = model.draw_inputs(model.config, {"input_features": features, "attention_mask": attention_mask}, rows)
    alone = model.draw_inputs(model.config, {"input_features": features[1:2, :41]}, [item_generator(0, 0, 1)])
    assert torch.equal(together["mask_time_indices"][1, :82], alone["mask_time_indices"][0])
    assert not together["mask_time_indices"][1, 82:].any()
    assert torch.equal(together["noise"][1, :41], alone["noise"][0])
    assert not together["noise"][1, 41:].any()
    found = [n for n in together["masked_positions"][1].tolist() if n >= 0]
    assert found == [n for n in alone["masked_positions"][0].tolist() if n >= 0]


def test_without_a_masked_frame_there_is_nothing_to_learn():
    model = make(mask_probability=1e-9)
    batch = draw(model)
    assert batch["masked_positions"].tolist() == [[-1]] * 4
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_recordings_shorter_than_a_stack():
    model = make("parakeet_encoder", quantizer_stack=8)
    batch = draw(model, num_inputs=5)
    assert model(**batch).loss.item() == 0


def test_the_encoder_draws_nothing_itself():
    model = make().train()
    assert not model.config.encoder_config.apply_spec_augment
    assert not any("masked_spec_embed" in name for name, _ in model.named_parameters())
    batch = draw(model)
    assert torch.equal(model(**batch).loss, model(**batch).loss)


def test_quantiser_is_state_that_the_seed_decides():
    model = make(quantizer_seed=3)
    torch.manual_seed(99)
    again, other = make(quantizer_seed=3), make(quantizer_seed=4)
    assert torch.equal(model.quantizer.codebook, again.quantizer.codebook)
    assert not torch.equal(model.quantizer.projection, other.quantizer.projection)
    assert {"quantizer.projection", "quantizer.codebook"} <= set(model.state_dict())
    assert not any("quantizer" in name for name, _ in model.named_parameters())


def test_quantiser_stays_in_fp32_and_has_the_same_codes(tmp_path):
    model = make(codebook_size=500)
    model.save_pretrained(tmp_path)
    loaded = BestRQForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.prediction_head.weight.dtype == torch.bfloat16
    assert loaded.quantizer.codebook.dtype == loaded.quantizer.projection.dtype == torch.float32
    vectors = torch.randn(100, 16)
    assert torch.equal(loaded.quantizer(vectors), model.quantizer(vectors))
    batch = draw(model)
    halves = {name: batch[name].bfloat16() for name in ("input_features", "noise")}
    assert torch.isfinite(loaded(**batch | halves).loss)


def test_a_quantiser_that_a_checkpoint_lacks_is_drawn_again(tmp_path):
    model = make(quantizer_seed=5)
    state = {key: value for key, value in model.state_dict().items() if "quantizer" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = BestRQForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(loaded.quantizer.codebook, model.quantizer.codebook)
    assert torch.equal(loaded.quantizer.projection, model.quantizer.projection)


def test_starts_from_an_encoder_that_was_masked_otherwise(tmp_path):
    config = CONFIG_MAPPING["wav2vec2-bert"](**MEL_ENCODERS["wav2vec2-bert"], mask_feature_prob=0.05)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    model = BestRQForPreTraining.from_encoder(tmp_path, codebook_size=12)
    assert torch.isfinite(model(**draw(model)).loss)
    assert not any("masked_spec_embed" in name for name in model.state_dict())


def test_loss_and_targets_compile_into_one_graph():
    model, _ = best_rq()
    batch = draw(model)
    expected = model.eval()(**batch)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**batch)
    torch.testing.assert_close(compiled.loss, expected.loss)
    assert torch.equal(compiled.targets, expected.targets)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codebook_size": 0}, "codebook_size is 0; it must be at least 1"),
        ({"quantizer_stack": 0}, "quantizer_stack is 0; give at least 1 mel frame"),
        ({"mask_probability": 0}, "mask_probability is 0; give a share above 0"),
        ({"mask_threshold": 1.5}, "mask_threshold is 1.5; give a share"),
        ({"noise_std": -1}, "noise_std is -1; a standard deviation is at least 0"),
        ({"encoder_config": HubertConfig()}, "'hubert' is not known to read log-mel frames"),
        ({"encoder_config": WhisperConfig()}, "'whisper' is not known to read log-mel frames"),
    ],
)
def test_bad_configs(fields, message):
    with pytest.raises(InputError, match=message):
        BestRQConfig(**fields)


def test_bad_batches():
    model = make()
    with pytest.raises(InputError, match=r"reads input_features of 16 numbers each, but the batch has .*input_values"):
        model.draw_inputs(model.config, {"input_values": torch.zeros(2, 100)}, generators(2))
    with pytest.raises(InputError, match=r"reads input_features of 16 numbers each, but the batch has .*\(2, 9, 80\)"):
        model.draw_inputs(model.config, {"input_features": torch.zeros(2, 9, 80)}, generators(2))
    model = make("lasr_encoder")
    with pytest.raises(InputError, match="12 inputs are too few for one frame of the encoder"):
        draw(model, num_inputs=12)
