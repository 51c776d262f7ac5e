import copy
import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, Data2VecAudioConfig, Data2VecAudioModel, Wav2Vec2Config, Wav2Vec2Model

from hf_ssl.data.keyed import KeyedDataset
from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import num_frames
from hf_ssl.modeling.blocks.positions import positions_of
from hf_ssl.modeling.blocks.waveform import masked_frames
from hf_ssl.modeling.speech.data2vec_audio import (
    Data2VecAudioForPreTraining,
    Data2VecAudioPreTrainingConfig,
    feed_forward_output,
)
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.optimizers import make_optimizer
from hf_ssl.trainers.pretraining import SSLTrainer
from tests.tiny import TINY
from tests.trainers.train_tiny import NoisyCollator, Rows

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],  # 320 samples a frame, as the published stack
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
}
POST_NORM = {**SIZES, "model_type": "data2vec-audio", "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}
PRE_NORM = {
    **SIZES,
    "model_type": "wav2vec2",
    "num_conv_pos_embeddings": 8,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
BOTH = pytest.mark.parametrize("encoder", [POST_NORM, PRE_NORM], ids=["post-norm", "pre-norm"])


def make_config(encoder=POST_NORM, **values):
    values = {"average_top_k_layers": 2, "mask_time_length": 4, **values}
    return Data2VecAudioPreTrainingConfig(encoder_config={**NO_DROPOUT, **encoder}, **values)


def make_model(encoder=POST_NORM, **values):
    torch.manual_seed(0)
    return Data2VecAudioForPreTraining(make_config(encoder, **values))


def move(model):
    """A teacher that is not its student."""
    torch.manual_seed(2)
    for parameter in model.teacher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def generators(num_rows, epoch=0):
    return [item_generator(0, epoch, row) for row in range(num_rows)]


def make_batch(config, num_rows=3, num_samples=8000, seed=1):
    """Random waveforms with the masks drawn for them."""
    waveforms = torch.randn(num_rows, num_samples, generator=torch.Generator().manual_seed(seed))
    return Data2VecAudioForPreTraining.draw_inputs(config, {"input_values": waveforms}, generators(num_rows))


def padded_batch(config, lengths):
    """Rows of `lengths` samples, padded to the longest, with masks drawn for each."""
    waveforms = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1))
    attention_mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    batch = {"input_values": waveforms * attention_mask, "attention_mask": attention_mask}
    return Data2VecAudioForPreTraining.draw_inputs(config, batch, generators(len(lengths)))


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def attention(x, layer):
    """Softmax attention of one row (T, D), written out."""
    queries, keys, values = (linear(x, part) for part in (layer.q_proj, layer.k_proj, layer.v_proj))
    heads = []
    for h in range(layer.num_heads):
        columns = slice(h * layer.head_dim, (h + 1) * layer.head_dim)
        scores = queries[:, columns] @ keys[:, columns].T / math.sqrt(layer.head_dim)
        heads.append(torch.exp(scores) / torch.exp(scores).sum(dim=-1, keepdim=True) @ values[:, columns])
    return linear(torch.cat(heads, dim=-1), layer.out_proj)


def layer_norm(x, norm):
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def feed_forward(x, part):
    return linear(F.gelu(linear(x, part.intermediate_dense)), part.output_dense)


def feed_forward_outputs(teacher, projected, pre_norm):
    """What each layer's feed-forward part returns for one row (T, D), from the weights alone."""
    x = projected + teacher.pos_conv_embed(projected[None])[0]
    if not pre_norm:
        x = layer_norm(x, teacher.layer_norm)
    outputs = []
    for layer in teacher.layers:
        if pre_norm:
            x = x + attention(layer_norm(x, layer.layer_norm), layer.attention)
            outputs.append(feed_forward(layer_norm(x, layer.final_layer_norm), layer.feed_forward))
            x = x + outputs[-1]
        else:
            x = layer_norm(x + attention(x, layer.attention), layer.layer_norm)
            outputs.append(feed_forward(x, layer.feed_forward))
            x = layer_norm(x + outputs[-1], layer.final_layer_norm)
    return outputs


def targets_of_the_paper(outputs):
    """Section 3.3, number by number: each channel of each layer normalised over time, then the mean of the layers."""
    num_frames, hidden_size = outputs[0].shape
    targets = torch.zeros(num_frames, hidden_size)
    for output in outputs:
        for channel in range(hidden_size):
            values = output[:, channel].tolist()
            mean, std = statistics.fmean(values), math.sqrt(statistics.pvariance(values) + 1e-5)
            for t, value in enumerate(values):
                targets[t, channel] += (value - mean) / std / len(outputs)
    return targets


def project(model, waveforms):
    """What the Transformer reads: (B, T, D)."""
    features = model.encoder.feature_extractor(waveforms).transpose(1, 2)
    projection = model.encoder.feature_projection
    return projection.projection(projection.layer_norm(features))


@BOTH
@pytest.mark.parametrize("top_k", [1, 2])
def test_targets_and_loss_are_the_papers_equations(encoder, top_k):
    model = move(make_model(encoder, average_top_k_layers=top_k))
    batch = make_batch(model.config)
    output = model.train()(**batch)

    with masked_frames(model.encoder, batch["mask_time_indices"]):
        hidden = model.encoder(batch["input_values"]).last_hidden_state
    distances, masked_targets, masked_predictions = [], [], []
    for row, projected in enumerate(project(model, batch["input_values"])):
        outputs = feed_forward_outputs(model.teacher, projected, pre_norm=encoder is PRE_NORM)
        targets = targets_of_the_paper(outputs[-top_k:])
        torch.testing.assert_close(model.targets(projected[None])[0], targets, rtol=1e-4, atol=1e-4)
        for t in batch["mask_time_indices"][row].nonzero()[:, 0]:
            prediction = model.projection_head(hidden[row, t])
            distances.append((prediction - targets[t]).square().sum().item() / math.sqrt(16))
            masked_targets.append(targets[t])
            masked_predictions.append(prediction)
    assert output.loss.item() == pytest.approx(statistics.fmean(distances), rel=1e-4)
    assert output.loss_terms["regression"].item() == output.loss.item()
    assert output.num_predictions["regression"] == len(distances)
    for name, frames in (("target_std", masked_targets), ("prediction_std", masked_predictions)):
        std = (torch.stack(frames).var(dim=0) + 1e-6).sqrt().mean()
        assert output.diagnostics[name].item() == pytest.approx(std.item(), rel=1e-4)


@BOTH
def test_hidden_states_are_not_the_targets(encoder):
    model = make_model(encoder, average_top_k_layers=1)
    waveforms = make_batch(model.config)["input_values"]
    hidden = model.encoder(waveforms, output_hidden_states=True).hidden_states
    targets = model.targets(project(model, waveforms))
    for state in (hidden[-1], hidden[-2]):
        wrong = F.instance_norm(state.transpose(1, 2)).transpose(1, 2)
        assert (targets - wrong).abs().mean() > 0.1


def test_a_fresh_models_targets_are_spread():
    model = make_model({**POST_NORM, "num_hidden_layers": 8}, average_top_k_layers=8)
    assert model(**make_batch(model.config)).diagnostics["target_std"] > 0.1


@BOTH
def test_the_teacher_is_the_papers_moving_average(encoder):
    model = make_model(encoder, ema_decay=0.9, ema_end_decay=0.99, ema_rise_share=0.5)
    student = model.encoder.encoder
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    # From .9 to .99 over the first half.
    for progress, decay in [(0.1, 0.918), (0.25, 0.945), (0.4, 0.972), (0.5, 0.99), (0.75, 0.99), (1.0, 0.99)]:
        for parameter in student.parameters():
            parameter.data += torch.randn_like(parameter)
        model.after_optimizer_step(progress)
        for name, value in student.state_dict().items():
            is_copied = name.startswith("pos_conv_embed.")
            expected[name] = value.clone() if is_copied else decay * expected[name] + (1 - decay) * value
    assert any(name.startswith("pos_conv_embed.") for name in expected)
    for name, value in model.teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_the_teacher_drops_nothing_out_and_the_student_does():
    dropout = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5, "feat_proj_dropout": 0.5}
    model = make_model({**POST_NORM, **dropout, "layerdrop": 0.5}).train()
    batch = make_batch(model.config)
    assert not any(module.training for module in model.teacher.modules())
    assert all(module.training for module in model.encoder.modules())
    runs = [model(**batch) for _ in range(2)]
    assert torch.equal(runs[0].diagnostics["target_std"], runs[1].diagnostics["target_std"])
    assert not torch.equal(runs[0].loss, runs[1].loss)


def test_the_teacher_reads_the_whole_recording():
    model = make_model()
    batch = make_batch(model.config)
    other = {**batch, "mask_time_indices": ~batch["mask_time_indices"]}
    assert torch.equal(model(**batch).diagnostics["target_std"], model(**other).diagnostics["target_std"])
    assert not torch.equal(model(**batch).loss, model(**other).loss)


def test_no_gradient_through_the_targets():
    model = move(make_model())
    batch = make_batch(model.config)
    model(**batch).loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) == sum(p.requires_grad for p in model.parameters())

    model.zero_grad()
    constant = model.targets(project(model, batch["input_values"])).detach()
    model.targets = lambda *inputs: constant
    model(**batch).loss.backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, msg=name)


def test_the_optimizer_leaves_the_teacher_alone(tmp_path):
    model = make_model()
    groups = make_optimizer(model, SSLTrainingArguments(output_dir=str(tmp_path), use_cpu=True)).param_groups
    optimised = {id(parameter) for group in groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert not optimised & {id(parameter) for parameter in model.teacher.parameters()}


def test_padding_changes_no_target():
    # Through several positional convolutions padding leaks into the last frames; through one it does not.
    model = move(make_model({**POST_NORM, "num_conv_pos_embeddings": 1})).eval()
    lengths = [8000, 4000, 6543]
    batch = padded_batch(model.config, lengths)
    targets = model.targets(project(model, batch["input_values"]), batch["attention_mask"])
    for row, length in enumerate(lengths):
        alone = model.targets(project(model, batch["input_values"][row : row + 1, :length]))[0]
        torch.testing.assert_close(targets[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)
        assert (targets[row, len(alone) :] == 0).all()


def gradients(model, batches, counts):
    model = copy.deepcopy(model)
    for batch in batches:
        model(**batch, num_items_in_batch=counts).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_gradient_does_not_depend_on_micro_batches():
    model = move(make_model({**POST_NORM, "num_conv_pos_embeddings": 1}))
    lengths = [8000, 4000, 7000, 3000]
    batch = padded_batch(model.config, lengths)
    counts = model.count_predictions(batch)
    rows = []
    for row, length in enumerate(lengths):
        mask = batch["mask_time_indices"][row : row + 1, : num_frames(model.config.encoder_config, length)]
        waveforms = batch["input_values"][row : row + 1, :length]
        rows.append({"input_values": waveforms, "mask_time_indices": mask, "masked_positions": positions_of(mask)})
    parts = gradients(model, rows, counts)
    for name, gradient in gradients(model, [batch], counts).items():
        assert (gradient - parts[name]).norm() <= 1e-5 * gradient.norm() + 1e-6, name


def test_rows_are_drawn_from_their_own_generators():
    config = make_config()
    together = make_batch(config, num_rows=4, num_samples=16_000)["mask_time_indices"]
    for row in range(4):
        alone = {"input_values": torch.zeros(1, 16_000)}
        drawn = Data2VecAudioForPreTraining.draw_inputs(config, alone, generators(4)[row : row + 1])
        assert torch.equal(drawn["mask_time_indices"][0], together[row])
        assert torch.equal(drawn["masked_positions"][0], together[row].nonzero()[:, 0])
    assert not torch.equal(together[0], together[1])


def test_masked_share():
    config = make_config(mask_time_length=10)
    masks = make_batch(config, num_rows=100, num_samples=320 * 500)["mask_time_indices"]
    assert masks.float().mean().item() == pytest.approx(0.49, abs=0.01)


def test_a_recording_too_short_is_refused():
    with pytest.raises(InputError, match="100 samples is shorter than the"):
        make_batch(make_config(), num_samples=100)


def assert_same_teacher(model):
    for (name, ours), theirs in zip(
        model.teacher.state_dict().items(), model.encoder.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs.float()), name
        assert ours.data_ptr() != theirs.data_ptr()


@pytest.mark.parametrize(
    ("config_class", "model_class", "settings"),
    [
        (Data2VecAudioConfig, Data2VecAudioModel, POST_NORM),
        (Wav2Vec2Config, Wav2Vec2Model, {**PRE_NORM, "mask_time_prob": 0.0}),
    ],
)
def test_starts_from_a_published_encoder(config_class, model_class, settings, tmp_path):
    encoder = model_class(config_class(**{name: v for name, v in settings.items() if name != "model_type"}))
    for parameter in encoder.parameters():
        parameter.data += torch.randn_like(parameter)  # as no initialisation leaves them
    encoder.save_pretrained(tmp_path)
    model = Data2VecAudioForPreTraining.from_encoder(tmp_path, average_top_k_layers=2)
    for name, value in encoder.encoder.state_dict().items():
        assert torch.equal(model.teacher.state_dict()[name], value), name
    assert_same_teacher(model)
    assert not model.teacher.training
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


def test_a_fresh_teacher_is_its_student():
    assert_same_teacher(make_model())
    assert_same_teacher(make_model(PRE_NORM))


def test_the_teacher_is_saved_once_and_loaded(tmp_path):
    model = move(make_model(PRE_NORM)).eval()
    model.save_pretrained(tmp_path)
    loaded, report = Data2VecAudioForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    names = [name for name in model.state_dict() if "teacher" in name]
    assert names == [f"teacher.{name}" for name in model.encoder.encoder.state_dict()]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert not any(parameter.requires_grad for parameter in loaded.teacher.parameters())
    batch = make_batch(model.config)
    assert torch.equal(loaded(**batch).loss, model(**batch).loss)


def test_a_model_in_half_precision_has_a_teacher_in_full(tmp_path):
    model = move(make_model())
    model.save_pretrained(tmp_path)
    half = Data2VecAudioForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.teacher.parameters()} == {torch.float32}
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(half.teacher.state_dict()[name], value), name
    before = half.teacher.layers[0].attention.q_proj.weight.clone()
    batch = make_batch(half.config)
    loss = half(**{**batch, "input_values": batch["input_values"].bfloat16()}).loss
    loss.backward()
    half.after_optimizer_step(1.0)
    assert loss.dtype == torch.float32
    assert not torch.equal(half.teacher.layers[0].attention.q_proj.weight, before)


def train(tmp_path, steps, resume=None):
    model, batch = TINY["data2vec_audio"]()
    model.config.ema_decay = model.config.ema_end_decay = 0.5
    args = SSLTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        max_steps=steps,
        learning_rate=1e-3,
        warmup_steps=0,
        schedule="constant",
        logging_steps=1,
        save_steps=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SSLTrainer(model, args, KeyedDataset(Rows(batch, 16)), NoisyCollator(0.1))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_a_resumed_run_has_the_same_teacher(tmp_path):
    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "halves", 2)
    resumed = train(tmp_path / "halves", 4, resume=str(tmp_path / "halves" / "checkpoint-2"))
    start = TINY["data2vec_audio"]()[0].state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
        if name.startswith("teacher.layers"):
            assert not torch.equal(value, start[name]), name
            assert not torch.equal(value, whole.model.state_dict()[name.replace("teacher.", "encoder.encoder.")]), name
    logs = [entry for entry in whole.state.log_history if "loss" in entry]
    assert all(entry["target_std"] > 0.1 and entry["prediction_std"] > 0 for entry in logs)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_encoder_of_the_family(family, pre_norm):
    model = make_model({**PRE_NORM, "model_type": family, "do_stable_layer_norm": pre_norm}).train()
    output = model(**make_batch(model.config))
    output.loss.backward()
    assert output.diagnostics["target_std"] > 0.1
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("teacher.")), name
    model.after_optimizer_step(0.5)
    assert torch.isfinite(model(**padded_batch(model.config, [8000, 5000])).loss)


def test_export_is_the_student_alone(tmp_path):
    model = move(make_model()).eval()
    model.export_encoder(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    assert type(encoder) is Data2VecAudioModel
    waveforms = make_batch(model.config)["input_values"]
    assert torch.equal(encoder(waveforms).last_hidden_state, model.encoder(waveforms).last_hidden_state)


@BOTH
def test_nothing_waits_for_the_accelerator(encoder):
    """Tensors on the meta device have no values: reading one on the host, or a shape that depends on one, fails."""
    model = make_model(encoder).to("meta").train()
    batch = {name: value.to("meta") for name, value in make_batch(model.config).items()}
    output = model(**batch)
    output.loss.backward()
    model.after_optimizer_step(0.5)
    assert output.loss.shape == ()


def test_of_a_conformer_layer_the_second_feed_forward_part_counts():
    model = make_model({**PRE_NORM, "model_type": "wav2vec2-conformer"})
    for layer in model.teacher.layers:
        assert feed_forward_output(layer) is layer.ffn2.output_dense
    assert torch.isfinite(model(**make_batch(model.config)).loss)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_config": {"model_type": "bert"}}, "'bert' does not read waveforms .* data2vec needs"),
        ({"encoder_config": {"model_type": "sew"}}, "'sew' changes the rate of its frames"),
        ({"encoder_config": {**PRE_NORM, "add_adapter": True}}, "'wav2vec2' changes the rate"),
        ({"encoder_config": POST_NORM}, "average_top_k_layers is 8 but the encoder has 2 layers"),
        ({"average_top_k_layers": 0}, "average_top_k_layers is 0"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5"),
        ({"ema_end_decay": -0.1}, "ema_end_decay is -0.1"),
        ({"ema_rise_share": 2}, "ema_rise_share is 2"),
        ({"mask_time_prob": 0}, "mask_time_prob is 0; without masked frames"),
        ({"mask_time_prob": 1.2}, "mask_time_prob is 1.2"),
        ({"mask_time_length": 0}, "mask_time_length is 0"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(InputError, match=message):
        Data2VecAudioPreTrainingConfig(**values)
