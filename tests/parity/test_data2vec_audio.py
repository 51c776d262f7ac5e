"""Numbers that the authors' code gives, frozen.

Source: `Data2VecAudioModel` of fairseq, examples/data2vec/models/data2vec_audio.py, commit 3d262bb, run with torch
2.13.0 on the same input. Its teacher was made of the first weights; then the model got the second ones, and
`set_num_updates(20)` of the 50 updates in which τ rises. `post-norm` is the published layout; `pre-norm` has
`layer_norm_first` and one positional convolution.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hf_ssl.modeling.blocks.positions import positions_of
from hf_ssl.modeling.speech.data2vec_audio import Data2VecAudioForPreTraining, Data2VecAudioPreTrainingConfig
from tests.parity.inputs import wave

SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "conv_dim": [6, 6, 6],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
}
MASKED_FRAMES = 29


@dataclass
class Reference:
    """What the authors' code gives: the loss as a sum, the two spreads, and norms of gradients and of the teacher."""

    encoder: dict
    loss: float
    target_std: float
    prediction_std: float
    gradients: dict[str, float]
    teacher: dict[str, float]


POST_NORM = Reference(
    encoder={"model_type": "data2vec-audio", "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3},
    loss=96.650078,
    target_std=0.594382,
    prediction_std=0.019303,
    gradients={
        "encoder.feature_extractor.conv_layers.0.conv.weight": 0.108993,
        "encoder.feature_projection.projection.weight": 2.756791,
        "encoder.masked_spec_embed": 2.051978,
        "encoder.encoder.pos_conv_embed.layers.0.conv.weight": 1.305161,
        "encoder.encoder.layers.2.feed_forward.output_dense.weight": 3.697184,
        "projection_head.weight": 4.955905,
    },
    teacher={
        "pos_conv_embed.layers.1.conv.weight": 2.758347,
        "layer_norm.weight": 2.867134,
        "layers.0.attention.q_proj.weight": 2.209312,
        "layers.2.feed_forward.output_dense.weight": 2.714485,
    },
)
PRE_NORM = Reference(
    encoder={
        "model_type": "wav2vec2",
        "num_conv_pos_embeddings": 6,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
    loss=92.354851,
    target_std=0.637879,
    prediction_std=0.033112,
    gradients={
        "encoder.feature_extractor.conv_layers.0.conv.weight": 0.147963,
        "encoder.feature_projection.projection.weight": 4.945246,
        "encoder.masked_spec_embed": 0.689019,
        "encoder.encoder.layers.2.feed_forward.output_dense.weight": 1.291467,
        "projection_head.weight": 4.54516,
    },
    teacher={},
)


def student_weights(model: Data2VecAudioForPreTraining, phase: float) -> dict[str, Tensor]:
    """Waves, each parameter's with a phase of its own; the scales of normalisations around 1, those of weights > 0."""
    weights = {}
    for index, (name, value) in enumerate(sorted(model.state_dict().items())):
        if name.startswith("teacher."):
            continue
        weights[name] = 0.4 * wave(*value.shape, phase=phase + index)
        if "layer_norm.weight" in name:
            weights[name] += 1
        if name.endswith("original0"):
            weights[name] = weights[name].abs() + 0.5
    return weights


@pytest.mark.parametrize("reference", [POST_NORM, PRE_NORM], ids=["post-norm", "pre-norm"])
def test_a_step_is_that_of_the_authors_code(reference: Reference) -> None:
    config = Data2VecAudioPreTrainingConfig(
        encoder_config={**SIZES, **reference.encoder},
        average_top_k_layers=2,
        ema_decay=0.5,
        ema_end_decay=0.9,
        ema_rise_share=0.5,
    )
    model = Data2VecAudioForPreTraining(config)
    model.load_state_dict(student_weights(model, phase=0.1), strict=False)
    model.synchronise_teacher()
    model.load_state_dict(student_weights(model, phase=0.6), strict=False)
    model.after_optimizer_step(20 / 100)

    waveforms = wave(2, 8000, phase=0.3) * torch.linspace(0.1, 1, 8000)
    mask = wave(2, 25, phase=0.9) > 0
    output = model(waveforms, mask_time_indices=mask, masked_positions=positions_of(mask))
    output.loss.backward()

    assert output.num_predictions["regression"] == MASKED_FRAMES
    assert output.loss.item() * MASKED_FRAMES == pytest.approx(reference.loss, rel=1e-5)
    assert output.diagnostics["target_std"].item() == pytest.approx(reference.target_std, rel=1e-4)
    assert output.diagnostics["prediction_std"].item() == pytest.approx(reference.prediction_std, rel=1e-4)
    for name, norm in reference.gradients.items():
        assert model.get_parameter(name).grad.norm().item() == pytest.approx(norm, rel=1e-4), name
    for name, norm in reference.teacher.items():
        assert model.teacher.get_parameter(name).norm().item() == pytest.approx(norm, rel=1e-5), name
