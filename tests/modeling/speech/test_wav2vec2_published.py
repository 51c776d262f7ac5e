"""Against transformers' `Wav2Vec2ForPreTraining`: the same loss, weights key for key, and back."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2ForPreTraining, Wav2Vec2Model

from hf_ssl.errors import InputError
from hf_ssl.modeling import objective
from hf_ssl.modeling.blocks.positions import NOWHERE
from hf_ssl.modeling.speech.wav2vec2 import Wav2Vec2PreTrainingModel
from hf_ssl.trainers.build import make_model as make_from_run_file
from tests.modeling.speech.test_wav2vec2 import ENCODER, SIZES, VARIANTS, make_batch, make_model

HEADS = {name: value for name, value in SIZES.items() if name not in ("mask_time_length", "feat_quantizer_dropout")}
KEYS = {
    "quantizer.codevectors",
    "quantizer.weight_proj.weight",
    "quantizer.weight_proj.bias",
    *("project_hid.weight", "project_hid.bias", "project_q.weight", "project_q.bias"),
}


def make_published(variant="layer"):
    torch.manual_seed(0)
    settings = {name: value for name, value in ENCODER.items() if name != "model_type"}
    # Two groups of 40 codes: few negatives are the target, and those that are, are told apart in the next test.
    config = Wav2Vec2Config(**settings, **VARIANTS[variant], **{**HEADS, "num_codevectors_per_group": 40})
    return Wav2Vec2ForPreTraining(config)


@pytest.fixture(params=VARIANTS)
def published(request):
    return make_published(request.param)


@pytest.fixture
def folder(published, tmp_path):
    published.save_pretrained(tmp_path)
    return tmp_path


def their_inputs(batch):
    """Our batch as `Wav2Vec2ForPreTraining.forward` takes it: negatives by their place among all frames."""
    num_rows, num_frames = batch["mask_time_indices"].shape
    negatives = torch.zeros(num_rows, num_frames, batch["negatives"].shape[2], dtype=torch.long)
    for b, positions in enumerate(batch["masked_positions"]):
        positions = positions[positions != NOWHERE]
        negatives[b, positions] = positions[batch["negatives"][b, : len(positions)]] + b * num_frames
    names = [name for name in ("input_values", "attention_mask", "mask_time_indices") if name in batch]
    return {**{name: batch[name] for name in names}, "sampled_negative_indices": negatives}


def their_noise(batch, num_groups):
    """Our noise in place of what `gumbel_softmax` would draw for all frames; (B · T · G, V)."""
    num_rows, num_frames = batch["mask_time_indices"].shape
    noise = torch.zeros(num_rows, num_frames, batch["gumbel_noise"].shape[2])
    noise[batch["mask_time_indices"]] = batch["gumbel_noise"][batch["masked_positions"] != NOWHERE]
    return noise.view(num_rows * num_frames * num_groups, -1)


@pytest.mark.parametrize("lengths", [(8000, 8000, 8000), (8000, 5000, 6543)])
def test_same_loss_as_transformers_in_evaluation(published, folder, lengths):
    """They sum where we divide by the number of masked frames; their diversity is then of the chosen codes."""
    ours = Wav2Vec2PreTrainingModel.from_encoder(folder, mask_time_length=4).eval()
    batch = make_batch(ours.config, lengths)
    theirs = published.eval()(**their_inputs(batch))
    num_masked = batch["mask_time_indices"].sum()
    with torch.no_grad():
        output = ours(**batch)
    assert output.loss_terms["contrastive"].item() == pytest.approx(
        (theirs.contrastive_loss / num_masked).item(), rel=1e-5
    )
    assert 2 * output.diagnostics["codebook_perplexity"].item() == pytest.approx(theirs.codevector_perplexity.item())
    is_left_out = output.logits == torch.finfo(torch.float32).min
    assert 0 < is_left_out.sum() < is_left_out.numel() / 10


def test_same_loss_and_gradients_as_transformers_in_training(published, folder, monkeypatch):
    """With the same noise; without their loss's lack of a penalty, and their scale."""
    settings = {"feature_grad_mult": 1.0, "feature_penalty_weight": 0.0, "feat_quantizer_dropout": 0.0}
    ours = Wav2Vec2PreTrainingModel.from_encoder(folder, mask_time_length=4, **settings)
    batch = make_batch(ours.config)
    noise = their_noise(batch, 2)

    def gumbel_softmax(logits, tau, hard):
        soft = ((logits + noise) / tau).softmax(dim=-1)
        return F.one_hot(soft.argmax(dim=-1), logits.shape[1]) + (soft - soft.detach())

    monkeypatch.setattr(F, "gumbel_softmax", gumbel_softmax)
    theirs = published.train()(**their_inputs(batch))
    output = ours(**batch)
    num_masked = batch["mask_time_indices"].sum()
    assert output.loss.item() == pytest.approx((theirs.loss / num_masked).item(), rel=1e-5)
    assert output.loss_terms["diversity"].item() == pytest.approx(
        (theirs.diversity_loss / num_masked).item(), rel=1e-5
    )
    output.loss.backward()
    (theirs.loss / num_masked).backward()
    expected = {name.replace("wav2vec2.", "encoder.", 1): p.grad for name, p in published.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_starts_with_quantiser_and_heads(published, folder):
    model = Wav2Vec2PreTrainingModel.from_encoder(folder, num_negatives=3)
    weights = model.state_dict()
    expected = {name.replace("wav2vec2.", "encoder.", 1): w for name, w in published.state_dict().items()}
    assert weights.keys() - expected.keys() == {"gumbel_temperature"}
    assert not expected.keys() - weights.keys()
    assert expected.keys() > KEYS
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    assert (model.config.num_codevectors_per_group, model.config.codevector_dim) == (40, 12)  # the checkpoint's
    assert model.config.num_negatives == 3
    assert model.training


def test_goes_back_to_transformers(published, folder, tmp_path):
    ours = Wav2Vec2PreTrainingModel.from_encoder(folder, mask_time_length=4)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    batch = make_batch(ours.config)
    ours(**batch).loss.backward()
    optimizer.step()
    ours.to_transformers().save_pretrained(tmp_path / "back")
    back, report = Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert back.state_dict().keys() == published.state_dict().keys()
    assert (back.config.mask_time_prob, back.config.mask_time_length) == (0.65, 4)
    theirs = back.eval()(**their_inputs(batch))
    with torch.no_grad():
        term = ours.eval()(**batch).loss_terms["contrastive"].item()
    assert term == pytest.approx((theirs.contrastive_loss / batch["mask_time_indices"].sum()).item(), rel=1e-5)
    again = Wav2Vec2PreTrainingModel.from_encoder(tmp_path / "back")
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in ours.state_dict().items())


def test_a_run_file_continues_them(published, folder):
    values = {"from_encoder": str(folder), **HEADS, "num_codevectors_per_group": 40}
    model = make_from_run_file(objective("wav2vec2"), values, {})
    assert torch.equal(model.project_q.weight, published.project_q.weight)
    with pytest.raises(
        InputError, match="codevector_dim is 24, but the quantiser and heads in .* have 12; set model."
    ):
        make_from_run_file(objective("wav2vec2"), {**values, "codevector_dim": 24}, {})


def test_continuous_targets_take_the_encoder_alone(published, folder):
    model = Wav2Vec2PreTrainingModel.from_encoder(folder, quantize_targets=False)
    assert torch.equal(model.encoder.masked_spec_embed, published.wav2vec2.masked_spec_embed)
    assert model.project_q.in_features == 16


@pytest.mark.parametrize(
    ("config_class", "model_class"), [(Wav2Vec2Config, Wav2Vec2Model), (HubertConfig, HubertModel)]
)
def test_an_encoder_without_heads_gets_fresh_ones(config_class, model_class, tmp_path):
    settings = {name: value for name, value in ENCODER.items() if name != "model_type"}
    encoder = model_class(config_class(**settings))
    encoder.save_pretrained(tmp_path)
    model = Wav2Vec2PreTrainingModel.from_encoder(tmp_path, **SIZES)
    assert torch.equal(model.encoder.masked_spec_embed, encoder.masked_spec_embed)
    assert model(**make_batch(model.config)).loss.isfinite()


def test_the_encoder_of_a_continued_checkpoint_is_plain_again(folder, tmp_path):
    Wav2Vec2PreTrainingModel.from_encoder(folder).export_encoder(tmp_path / "plain")
    encoder, report = AutoModel.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert type(encoder) is Wav2Vec2Model
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert encoder.config.architectures == ["Wav2Vec2Model"]


@pytest.mark.parametrize(
    "values", [{"quantize_inputs": True}, {"quantize_targets": False}, {"encoder": {"model_type": "hubert"}}]
)
def test_what_transformers_does_not_have_stays_here(values):
    with pytest.raises(InputError, match="has a wav2vec2 encoder, continuous inputs and quantised targets"):
        make_model(**values).to_transformers()


def test_there_is_nothing_to_start_from(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        Wav2Vec2PreTrainingModel.from_encoder(tmp_path)
