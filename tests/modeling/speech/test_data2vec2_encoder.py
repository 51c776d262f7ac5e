import ast
import copy
import inspect
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import AutoConfig, AutoModel

from hf_ssl.modeling.speech import data2vec2_encoder
from hf_ssl.modeling.speech.data2vec2_encoder import Data2Vec2AudioConfig, Data2Vec2AudioModel, alibi_slopes
from tests.modeling.speech import naive_data2vec2 as naive

SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],  # 320 samples a frame, as the published stack
    "num_conv_pos_embeddings": 3,
    "conv_pos_kernel_size": 5,
    "num_conv_pos_embedding_groups": 2,
}


def make_model(**values):
    torch.manual_seed(0)
    model = Data2Vec2AudioModel(Data2Vec2AudioConfig(**{**SIZES, **values})).eval()
    for name, parameter in model.named_parameters():
        if "conv_layers" not in name:  # as no initialisation leaves them
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def waveforms(num_rows=2, num_samples=6400):
    return torch.randn(num_rows, num_samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 6, 8, 12, 16])
def test_slopes_are_the_published_ones(num_heads):
    assert alibi_slopes(num_heads, torch.device("cpu")).tolist() == pytest.approx(naive.slopes(num_heads))


def test_slopes_of_eight_heads():
    assert alibi_slopes(8, torch.device("cpu")).tolist() == [2**-k for k in range(1, 9)]


def test_bias_is_the_distance_times_slope_and_scale():
    encoder = make_model().encoder
    encoder.alibi_scale.data = torch.tensor([1.0, 0.5, -2.0])  # a negative scale would pull frames apart
    places = torch.tensor([[0, 4, 9], [7, 2, 0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    bias = encoder.attention_bias(places, valid, torch.float32)
    assert bias.shape == (2, 3, 3, 3)
    for b, h, i, j in torch.cartesian_prod(*[torch.arange(n) for n in bias.shape]).tolist():
        expected = -naive.slopes(3)[h] * [1.0, 0.5, 0.0][h] * abs(places[b, i].item() - places[b, j].item())
        if not valid[b, j]:
            expected = torch.finfo(torch.float32).min
        assert bias[b, h, i, j].item() == pytest.approx(expected)


def test_the_encoder_is_the_papers_network():
    model = make_model()
    output = model(waveforms())
    for row in range(2):
        hidden, _ = naive.encode(model.encoder, output.local_features[row])
        torch.testing.assert_close(output.last_hidden_state[row], hidden, rtol=1e-3, atol=1e-4)


def test_some_positions_are_the_papers_network_on_these_frames():
    model = make_model()
    positions = torch.tensor([[0, 3, 4, 11, 19], [1, 2, 10, -1, -1]])
    output = model(waveforms(), positions=positions)
    assert output.last_hidden_state.shape == (2, 5, 12)
    for row, places in enumerate([[0, 3, 4, 11, 19], [1, 2, 10]]):
        hidden, _ = naive.encode(model.encoder, output.local_features[row], places)
        torch.testing.assert_close(output.last_hidden_state[row, : len(places)], hidden, rtol=1e-3, atol=1e-4)


def test_some_positions_are_all_frames_with_attention_to_these():
    """A second way to the same: every frame goes through the blocks, but none attends to those that are left out."""
    model = make_model()
    encoder, local = model.encoder, model(waveforms()).local_features
    is_seen = torch.zeros(2, local.shape[1], dtype=torch.bool)
    is_seen[0, [0, 3, 4, 11, 18]] = is_seen[1, [1, 2, 10, 12, 13]] = True
    hidden = local + encoder.pos_conv_embed(local * is_seen[..., None], None)
    places = torch.arange(local.shape[1]).expand(2, -1)
    bias = encoder.attention_bias(places, is_seen, torch.float32)
    hidden = encoder.layer_norm(hidden)
    for layer in encoder.layers:
        hidden = layer(hidden, bias)
    positions = is_seen.nonzero()[:, 1].view(2, 5)
    torch.testing.assert_close(encoder(local, positions=positions).flatten(0, 1), hidden[is_seen])


def test_what_is_left_out_is_not_seen():
    model = make_model()
    local = model(waveforms()).local_features
    positions = torch.tensor([[0, 3, 4, 11], [1, 2, 10, -1]])
    other = torch.full_like(local, 100.0)
    for row, places in enumerate(positions.tolist()):
        for place in places:
            other[row, place] = local[row, place]
    expected = model.encoder(local, positions=positions)
    changed = model.encoder(other, positions=positions)
    torch.testing.assert_close(changed[0], expected[0])
    torch.testing.assert_close(changed[1, :3], expected[1, :3])


def test_positions_may_come_in_any_order():
    model = make_model()
    order = torch.tensor([2, 0, 3, 1])
    positions = torch.tensor([[0, 3, 4, 11], [1, 2, 10, 12]])
    straight = model(waveforms(), positions=positions).last_hidden_state
    torch.testing.assert_close(model(waveforms(), positions=positions[:, order]).last_hidden_state, straight[:, order])


def test_several_sets_for_each_recording():
    model = make_model()
    sets = torch.tensor([[0, 3, 4], [5, 6, 7], [1, 2, 10], [9, 15, -1]])
    together = model(waveforms(), positions=sets)
    assert together.local_features.shape == (2, 20, 12)
    for number, places in enumerate(sets):
        row = number // 2
        alone = model(waveforms()[row : row + 1], positions=places[None, places >= 0]).last_hidden_state[0]
        torch.testing.assert_close(together.last_hidden_state[number, : len(alone)], alone)


def test_padding_changes_nothing():
    model = make_model(num_conv_pos_embeddings=5)
    lengths = [6400, 3000, 5001]
    inputs = waveforms(3)
    mask = (torch.arange(6400) < torch.tensor(lengths)[:, None]).long()
    padded = model(torch.where(mask.bool(), inputs, 7.0), attention_mask=mask, output_hidden_states=True)
    for row, length in enumerate(lengths):
        alone = model(inputs[row : row + 1, :length], output_hidden_states=True)
        frames = alone.last_hidden_state.shape[1]
        assert frames == model._get_feat_extract_output_lengths(length)
        for ours, theirs in zip(padded.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(ours[row, :frames], theirs[0], rtol=1e-4, atol=1e-5)
    of_frames = model._get_feature_vector_attention_mask(20, mask)
    assert of_frames.sum(dim=1).tolist() == model._get_feat_extract_output_lengths(torch.tensor(lengths)).tolist()


def test_padding_beside_some_positions_changes_nothing():
    model = make_model(num_conv_pos_embeddings=5)
    inputs, mask = waveforms(2), (torch.arange(6400) < torch.tensor([[6400], [3000]])).long()
    positions = torch.tensor([[0, 3, 4, 18], [1, 2, 7, -1]])
    padded = model(inputs, attention_mask=mask, positions=positions).last_hidden_state
    alone = model(inputs[1:, :3000], positions=positions[1:, :3]).last_hidden_state
    torch.testing.assert_close(padded[1, :3], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [4, 5])
def test_a_convolution_keeps_the_length(kernel):
    torch.manual_seed(0)
    layer = data2vec2_encoder.Data2Vec2AudioConvLayer(4, 6, kernel, groups=2)
    frames = torch.randn(2, 9, 4)
    output = layer(frames, None)
    assert output.shape == (2, 9, 6)
    expected = nn.functional.conv1d(frames.transpose(1, 2), layer.weight, layer.bias, padding=kernel // 2, groups=2)
    expected = nn.functional.layer_norm(expected[..., :9].transpose(1, 2), (6,))
    torch.testing.assert_close(output, nn.functional.gelu(expected))


def test_hidden_states_and_attentions():
    model = make_model()
    eager = AutoModel.from_config(model.config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    positions = torch.tensor([[0, 3, 4, 11], [1, 2, 10, -1]])
    for places in (None, positions):
        fused = model(waveforms(), positions=places, output_hidden_states=True)
        written_out = eager(waveforms(), positions=places, output_hidden_states=True, output_attentions=True)
        assert len(fused.hidden_states) == 3
        assert torch.equal(fused.hidden_states[-1], fused.last_hidden_state)
        torch.testing.assert_close(fused.last_hidden_state, written_out.last_hidden_state, rtol=1e-4, atol=1e-5)
    weights = written_out.attentions
    assert [tuple(layer.shape) for layer in weights] == [(2, 3, 4, 4)] * 2
    torch.testing.assert_close(weights[0].sum(dim=-1), torch.ones(2, 3, 4))
    assert (weights[0][1, :, :, 3] == 0).all()


def test_gradient_reaches_the_scales_and_survives_recomputation():
    model = make_model(hidden_dropout=0.0, attention_dropout=0.0, layerdrop=0.0).train()
    other = copy.deepcopy(model)
    other.gradient_checkpointing_enable()
    positions = torch.tensor([[0, 3, 4, 11], [1, 2, 10, -1]])
    for each in (model, other):
        hidden = each(waveforms(), positions=positions).last_hidden_state
        (hidden[:, :3] ** 3).sum().backward()
    assert model.encoder.alibi_scale.grad.abs().min() > 0
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_layers_are_dropped_in_training_alone():
    model = make_model(layerdrop=1.0, hidden_dropout=0.0)
    assert len(model.train()(waveforms(), output_hidden_states=True).hidden_states or ()) == 0
    assert len(model.eval()(waveforms(), output_hidden_states=True).hidden_states) == 3


def test_freezing_the_cnn():
    model = make_model().train()
    model.freeze_feature_encoder()
    model(waveforms()).last_hidden_state.std().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("feature_extractor."), name


def test_fresh_weights_are_spread_as_in_the_reference():
    torch.manual_seed(0)
    model = Data2Vec2AudioModel(Data2Vec2AudioConfig(hidden_size=256, num_hidden_layers=1, num_attention_heads=4))
    for layer in model.encoder.pos_conv_embed.layers:
        bound = 1 / math.sqrt(256 / 16 * 19)
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert 0.8 * bound < layer.bias.abs().max() <= bound
    assert 0.98 / math.sqrt(512) < model.feature_projection.projection.weight.abs().max() <= 1 / math.sqrt(512)
    for layer, fan_in in zip(model.feature_extractor.conv_layers[:2], [10, 3 * 512], strict=True):
        assert layer.conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
    [block] = model.encoder.layers
    for layer in (block.attention.q_proj, block.feed_forward.output_dense):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert (layer.bias == 0).all()
    assert (model.encoder.alibi_scale == 1).all()


def test_half_precision():
    model = make_model()
    expected = model(waveforms()).last_hidden_state
    half = copy.deepcopy(model).bfloat16()
    mask = torch.ones(2, 6400, dtype=torch.long)
    output = half(waveforms().bfloat16(), attention_mask=mask).last_hidden_state
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.2)


def test_save_and_load(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is Data2Vec2AudioModel
    assert type(AutoConfig.from_pretrained(tmp_path)) is Data2Vec2AudioConfig
    assert torch.equal(loaded(waveforms()).last_hidden_state, model(waveforms()).last_hidden_state)
    assert (tmp_path / "data2vec2_encoder.py").read_text("utf-8") == inspect.getsource(data2vec2_encoder)


def test_the_exported_code_needs_torch_and_transformers_alone():
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(data2vec2_encoder)))]
    modules = [alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in imports if isinstance(node, ast.ImportFrom) and node.level == 0]
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in imports)
    assert {module.partition(".")[0] for module in modules} == {
        *("math", "dataclasses", "typing"),
        *("torch", "transformers", "huggingface_hub"),  # transformers depends on the last
    }


def test_the_encoder_compiles_without_a_break():
    encoder, local = make_model().encoder, torch.randn(2, 20, 12)
    positions = torch.tensor([[0, 3, 4, 11], [1, 2, 10, -1]])
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(local, positions=positions), encoder(local, positions=positions))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"conv_kernel": [10, 8]}, "layers are counted differently"),
        ({"num_attention_heads": 5}, "hidden_size 12 is no multiple of num_attention_heads 5"),
        ({"num_conv_pos_embedding_groups": 5}, "no multiple of num_conv_pos_embedding_groups 5"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        Data2Vec2AudioConfig(**{**SIZES, **values})
    assert message in str(error.value.__cause__)
