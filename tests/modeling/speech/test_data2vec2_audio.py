import copy
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import num_frames
from hf_ssl.modeling.blocks.latent_regression import regression_errors
from hf_ssl.modeling.blocks.positions import NOWHERE
from hf_ssl.modeling.speech.data2vec2_audio import Data2Vec2AudioForPreTraining, Data2Vec2AudioPreTrainingConfig
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioModel
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.optimizers import make_optimizer
from tests.modeling.no_waiting import NoWaiting
from tests.modeling.speech import naive_data2vec2 as naive
from tests.tiny import generators

ENCODER = {
    "model_type": "data2vec2-audio",
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],  # 320 samples a frame, as the published stack
    "num_conv_pos_embeddings": 2,
    "conv_pos_kernel_size": 5,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
}
DECODER = {"decoder_dim": 8, "decoder_layers": 3, "decoder_kernel": 3, "decoder_groups": 2}


def make_config(encoder=None, **values):
    defaults = {"num_masks": 3, "average_top_k_layers": 2, "decoder_input_dropout": 0.0, **DECODER}
    return Data2Vec2AudioPreTrainingConfig(encoder_config={**ENCODER, **(encoder or {})}, **{**defaults, **values})


def make_model(encoder=None, **values):
    torch.manual_seed(0)
    return Data2Vec2AudioForPreTraining(make_config(encoder, **values))


def move(model):
    """Weights as no initialisation leaves them, and a teacher that is not its student."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def make_batch(config, num_rows=2, num_samples=6400, seed=1):
    random = torch.Generator().manual_seed(seed)
    batch = {"input_values": torch.randn(num_rows, num_samples, generator=random)}
    return Data2Vec2AudioForPreTraining.draw_inputs(config, batch, generators(num_rows))


def padded_batch(config, lengths):
    waveforms = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1))
    attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    batch = {"input_values": waveforms * attention_mask, "attention_mask": attention_mask}
    return Data2Vec2AudioForPreTraining.draw_inputs(config, batch, generators(len(lengths)))


def row_alone(batch, row, length):
    """A row of a padded batch without its padding and what fills its rectangles."""
    alone = {"input_values": batch["input_values"][row : row + 1, :length]}
    is_masked = batch["masked_positions"][row, 0] != NOWHERE
    visible = batch["visible_positions"][row][:, batch["visible_positions"][row, 0] != NOWHERE]
    return {
        **alone,
        "visible_positions": visible[None],
        "masked_positions": batch["masked_positions"][row][None, :, is_masked],
        "mask_noise": batch["mask_noise"][row][None, :, is_masked],
    }


def local_features(model, waveforms):
    features = model.encoder.feature_extractor(waveforms).transpose(1, 2)
    return model.encoder.feature_projection(features)


@torch.no_grad()
def distances_of_the_paper(model, batch):
    """The error of every masked frame of every clone, with what was to be predicted and what was."""
    distances, masked_targets, masked_predictions = [], [], []
    for row, local in enumerate(local_features(model, batch["input_values"])):
        _, outputs = naive.encode(model.teacher, local)
        targets = naive.average(outputs[-model.config.average_top_k_layers :])
        for clone in range(model.config.num_masks):
            visible = batch["visible_positions"][row, clone].tolist()
            masked = batch["masked_positions"][row, clone].tolist()
            assert sorted(visible + masked) == list(range(len(local)))
            hidden, _ = naive.encode(model.encoder.encoder, local, visible)
            frames = torch.zeros_like(local)
            frames[visible], frames[masked] = hidden, batch["mask_noise"][row, clone]
            predictions = naive.decode(model.decoder, frames)
            for t in masked:
                distances.append((predictions[t] - targets[t]).square().sum().item() / math.sqrt(12))
                masked_targets.append(targets[t])
                masked_predictions.append(predictions[t])
    return distances, torch.stack(masked_targets), torch.stack(masked_predictions)


@pytest.mark.parametrize("decoder_dim", [8, 12])  # 12 is the encoder's size: then the first layer has a residual too
@pytest.mark.parametrize("top_k", [1, 3])
def test_loss_is_the_papers_equation(top_k, decoder_dim):
    model = move(make_model(average_top_k_layers=top_k, decoder_dim=decoder_dim, num_masks=2))
    batch = make_batch(model.config, num_samples=4000)
    output = model.train()(**batch)
    distances, targets, predictions = distances_of_the_paper(model, batch)
    assert output.loss.item() == pytest.approx(sum(distances) / len(distances), rel=1e-3)
    assert output.loss_terms["regression"].item() == output.loss.item()
    assert output.num_predictions["regression"] == len(distances) == 2 * 2 * 6
    for name, frames in (("target_std", targets), ("prediction_std", predictions)):
        std = (frames.var(dim=0) + 1e-6).sqrt().mean()
        assert output.diagnostics[name].item() == pytest.approx(std.item(), rel=1e-3)


def test_the_teacher_reads_a_recording_once_and_the_student_its_visible_frames():
    model = make_model(num_masks=5)
    batch = make_batch(model.config)
    read = []
    for part in (model.teacher, model.encoder.encoder):
        part.layers[0].register_forward_hook(lambda module, args, output: read.append(tuple(output.shape)))
    model(**batch)
    assert read == [(2 * 5, 10, 12), (2, 20, 12)]


def test_clones_share_their_targets():
    model = move(make_model(num_masks=1))
    batch = make_batch(model.config)
    names = ("visible_positions", "masked_positions", "mask_noise")
    tripled = {**batch, **{name: batch[name].repeat_interleave(3, dim=1) for name in names}}
    one, three = model(**batch), model(**tripled)
    assert three.num_predictions["regression"] == 3 * one.num_predictions["regression"]
    torch.testing.assert_close(three.loss, one.loss)
    torch.testing.assert_close(three.features, one.features)


def test_what_is_masked_reaches_the_student_through_the_targets_alone():
    model = move(make_model(num_masks=1)).eval()
    batch = make_batch(model.config, num_rows=1)
    local = local_features(model, batch["input_values"]).detach()
    other = local.clone()
    other[0, batch["masked_positions"][0, 0]] += 10
    constant = model.targets(local, torch.ones(1, 20, dtype=torch.bool))
    model.targets = lambda *inputs: constant
    losses = []
    for features in (local, other):
        hook = model.encoder.feature_projection.register_forward_hook(lambda *args, features=features: features)
        losses.append(model(**batch).loss)
        hook.remove()
    torch.testing.assert_close(*losses)


def test_no_gradient_through_the_targets():
    model = move(make_model())
    batch = make_batch(model.config)
    model(**batch).loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) == sum(p.requires_grad for p in model.parameters())

    model.zero_grad()
    is_frame = torch.ones(2, 20, dtype=torch.bool)
    constant = model.targets(local_features(model, batch["input_values"]), is_frame).detach()
    model.targets = lambda *inputs: constant
    model(**batch).loss.backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, msg=name)


def test_the_teacher_is_the_papers_moving_average():
    model = make_model(ema_decay=0.9, ema_end_decay=0.99, ema_rise_share=0.5)
    student = model.encoder.encoder
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    # From .9 to .99 over the first half.
    for progress, decay in [(0.1, 0.918), (0.25, 0.945), (0.4, 0.972), (0.5, 0.99), (0.75, 0.99), (1.0, 0.99)]:
        for parameter in student.parameters():
            parameter.data += torch.randn_like(parameter)
        model.after_optimizer_step(progress)
        for name, value in student.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    assert {"alibi_scale", "layer_norm.weight", "pos_conv_embed.layers.1.bias"} <= expected.keys()
    for name, value in model.teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_published_decay():
    model = make_model()
    config = Data2Vec2AudioPreTrainingConfig()
    for update, decay in [(0, 0.999), (37_500, 0.999495), (75_000, 0.99999), (400_000, 0.99999)]:
        model.config.ema_decay, model.config.ema_end_decay = config.ema_decay, config.ema_end_decay
        model.config.ema_rise_share = config.ema_rise_share
        model.teacher.alibi_scale.data.fill_(0.0)
        model.after_optimizer_step(update / 400_000)
        assert model.teacher.alibi_scale[0].item() == pytest.approx(1 - decay, rel=1e-3)


def test_the_teacher_drops_nothing_out_and_the_student_does():
    model = make_model({"hidden_dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}).train()
    batch = make_batch(model.config)
    assert not any(module.training for module in model.teacher.modules())
    assert all(module.training for module in model.encoder.modules())
    runs = [model(**batch) for _ in range(2)]
    assert torch.equal(runs[0].diagnostics["target_std"], runs[1].diagnostics["target_std"])
    assert not torch.equal(runs[0].loss, runs[1].loss)


def test_the_decoders_input_is_dropped_out():
    model = make_model(decoder_input_dropout=0.5).train()
    batch = make_batch(model.config)
    assert not torch.equal(model(**batch).loss, model(**batch).loss)


def test_the_optimizer_leaves_the_teacher_alone(tmp_path):
    model = make_model()
    groups = make_optimizer(model, SSLTrainingArguments(output_dir=str(tmp_path), use_cpu=True)).param_groups
    optimised = {id(parameter) for group in groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert not optimised & {id(parameter) for parameter in model.teacher.parameters()}
    without_decay = {id(parameter) for parameter in groups[1]["params"]}
    assert id(model.encoder.encoder.alibi_scale) in without_decay  # as in the reference


def gradients(model, batches, counts):
    model = copy.deepcopy(model)
    for batch in batches:
        model(**batch, num_items_in_batch=counts).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_gradient_depends_neither_on_micro_batches_nor_on_padding():
    model = move(make_model())
    lengths = [6400, 3000, 5001]
    batch = padded_batch(model.config, lengths)
    assert batch["masked_positions"].shape == (3, 3, 10)
    counts = model.count_predictions(batch)
    assert counts["regression"] == 3 * sum(num_frames(model.config.encoder_config, length) // 2 for length in lengths)
    parts = gradients(model, [row_alone(batch, row, length) for row, length in enumerate(lengths)], counts)
    for name, gradient in gradients(model, [batch], counts).items():
        assert (gradient - parts[name]).norm() <= 1e-4 * gradient.norm() + 1e-6, name


def test_features_are_the_mean_over_the_visible_frames():
    model = move(make_model()).eval()
    lengths = [6400, 3000]
    batch = padded_batch(model.config, lengths)
    together = model(**batch).features
    for row, length in enumerate(lengths):
        alone = row_alone(batch, row, length)
        hidden = model.encoder(alone["input_values"], positions=alone["visible_positions"][0, :1]).last_hidden_state
        torch.testing.assert_close(together[row], hidden[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_rows_are_drawn_from_their_own_generators():
    config = make_config()
    together = make_batch(config, num_rows=4)
    names = ("visible_positions", "masked_positions", "mask_noise")
    for row in range(4):
        alone = {"input_values": torch.zeros(1, 6400)}
        drawn = Data2Vec2AudioForPreTraining.draw_inputs(config, alone, generators(4)[row : row + 1])
        assert all(torch.equal(drawn[name][0], together[name][row]) for name in names)
    assert not torch.equal(together["masked_positions"][0], together["masked_positions"][1])
    assert not torch.equal(together["masked_positions"][0, 0], together["masked_positions"][0, 1])


def test_rows_of_other_lengths_are_drawn_as_alone():
    config = make_config()
    batch = padded_batch(config, [6400, 3000])
    alone = Data2Vec2AudioForPreTraining.draw_inputs(config, {"input_values": torch.zeros(1, 3000)}, generators(2)[1:])
    found = row_alone(batch, 1, 3000)
    for name in ("visible_positions", "masked_positions", "mask_noise"):
        assert torch.equal(found[name], alone[name]), name


def test_the_noise_is_small_and_of_each_masked_frames_own():
    config = make_config(mask_noise_std=0.02)
    noise = make_batch(config, num_rows=8, num_samples=32_000)["mask_noise"]
    assert noise.shape == (8, 3, 50, 12)
    assert noise.std().item() == pytest.approx(0.02, rel=0.02)
    assert len(noise.unique()) > 0.99 * noise.numel()


def test_saving_and_loading_goes_on_with_the_same_teacher(tmp_path):
    model = make_model(ema_decay=0.5, ema_end_decay=0.5)
    batch = make_batch(model.config)

    def step(model, optimizer, progress):
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
        model.after_optimizer_step(progress)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer, 0.25)
    model.save_pretrained(tmp_path)
    loaded = Data2Vec2AudioForPreTraining.from_pretrained(tmp_path)
    names = [name for name in loaded.state_dict() if "teacher" in name]
    assert names == [f"teacher.{name}" for name in model.encoder.encoder.state_dict()]
    assert not torch.equal(loaded.teacher.alibi_scale, loaded.encoder.encoder.alibi_scale)
    assert not any(parameter.requires_grad for parameter in loaded.teacher.parameters())
    other = torch.optim.AdamW(loaded.parameters(), lr=1e-2)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 0.5)
    step(loaded, other, 0.5)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def assert_same_teacher(model):
    for (name, ours), theirs in zip(
        model.teacher.state_dict().items(), model.encoder.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
        assert ours.data_ptr() != theirs.data_ptr()


def test_a_fresh_teacher_is_its_student():
    assert_same_teacher(make_model())


def test_a_checkpoint_without_a_teacher_gets_its_students_copy(tmp_path):
    model = move(make_model())
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("teacher.")}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded = Data2Vec2AudioForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(loaded.encoder.encoder.alibi_scale, model.encoder.encoder.alibi_scale)
    assert_same_teacher(loaded)


def test_starts_from_an_exported_encoder(tmp_path):
    model = move(make_model())
    model.export_encoder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "data2vec2_encoder.py"}
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is Data2Vec2AudioModel
    started = Data2Vec2AudioForPreTraining.from_encoder(tmp_path, average_top_k_layers=2, num_masks=3, **DECODER)
    assert_same_teacher(started)
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(started.encoder.state_dict()[name], value), name
    assert torch.isfinite(started(**make_batch(started.config)).loss)


def test_a_model_in_half_precision_has_a_teacher_in_full(tmp_path):
    move(make_model()).save_pretrained(tmp_path)
    half = Data2Vec2AudioForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16).train()
    assert {p.dtype for p in half.encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.teacher.parameters()} == {torch.float32}
    batch = make_batch(half.config)
    loss = half(**{**batch, "input_values": batch["input_values"].bfloat16()}).loss
    loss.backward()
    half.after_optimizer_step(1.0)
    assert loss.dtype == torch.float32


def test_the_decoder_starts_as_in_the_reference():
    decoder = make_model(decoder_dim=64, decoder_kernel=7, decoder_groups=4).decoder
    for layer, in_dim in zip(decoder.layers, [12, 64, 64], strict=True):
        bound = 1 / math.sqrt(in_dim / 4 * 7)
        assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert 0.9 / 8 < decoder.projection.weight.abs().max() <= 1 / 8
    assert decoder.projection.bias.abs().max() > 0


def test_what_follows_the_encoder_compiles_without_a_break():
    model = move(make_model())
    batch = make_batch(model.config)
    visible, masked, noise = (
        batch[name].flatten(0, 1) for name in ("visible_positions", "masked_positions", "mask_noise")
    )
    hidden, targets, is_frame = torch.randn(6, 10, 12), torch.randn(6, 10, 12), torch.ones(6, 20, dtype=torch.bool)

    def loss(hidden):
        errors = regression_errors(model.decoder(hidden, visible, noise, masked, is_frame), targets)
        return (errors * (masked != NOWHERE)).sum()

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        value = function(hidden)
        value.backward()
        results.append([value.detach(), *(parameter.grad.clone() for parameter in model.decoder.parameters())])
    torch.testing.assert_close(*results)


def test_forward_never_waits_for_an_accelerator():
    model = make_model()
    for batch in (make_batch(model.config), padded_batch(model.config, [6400, 3000])):
        with NoWaiting():
            model.train()(**batch).loss.backward()
            model.after_optimizer_step(0.5)


def test_bf16_is_compared_in_fp32():
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**make_batch(model.config))
    assert output.loss.dtype == torch.float32
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_config": {"model_type": "hubert"}}, "'hubert' reads masked frames, too"),
        ({"num_masks": 0}, "num_masks is 0"),
        ({"mask_time_prob": 1.0}, "mask_time_prob is 1.0; give a share above 0 and below 1"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5"),
        ({"average_top_k_layers": 13}, "the encoder has 12 layers; set it to at most 12"),
        ({"decoder_groups": 5}, "decoder_groups is 5, which does not divide hidden_size 768"),
        ({"decoder_dim": 40}, "decoder_groups is 16, which does not divide decoder_dim 40"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(InputError, match=message):
        Data2Vec2AudioPreTrainingConfig(**values)


@pytest.mark.parametrize(
    ("num_samples", "message"), [(100, "100 samples is shorter than the"), (400, "1 frames has none to mask")]
)
def test_a_recording_too_short_is_refused(num_samples, message):
    with pytest.raises(InputError, match=message):
        make_batch(make_config(), num_samples=num_samples)


def test_targets_do_not_see_padding():
    model = move(make_model()).eval()
    lengths = [6400, 3000]
    batch = padded_batch(model.config, lengths)
    local = local_features(model, batch["input_values"])
    is_frame = model.encoder._get_feature_vector_attention_mask(20, batch["attention_mask"])
    targets = model.targets(local, is_frame)
    for row, length in enumerate(lengths):
        frames = num_frames(model.config.encoder_config, length)
        alone = model.targets(local[row : row + 1, :frames], torch.ones(1, frames, dtype=torch.bool))[0]
        torch.testing.assert_close(targets[row, :frames], alone, rtol=1e-4, atol=1e-4)
        expected = F.instance_norm(alone.T[None])[0].T  # a mean of normalised layers has mean 0
        torch.testing.assert_close(alone.mean(dim=0), expected.mean(dim=0), rtol=0, atol=1e-4)
        assert (targets[row, frames:] == 0).all()
