import io
import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, set_seed

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.low_shot import low_shot_rows
from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import load_encoder
from hf_ssl.evaluation.evaluate import evaluate_encoder, features_of, labelled_items, measure
from hf_ssl.evaluation.knn import fit_knn
from hf_ssl.evaluation.probes import fit_linear_probe
from hf_ssl.evaluation.scores import SCORES
from hf_ssl.evaluation.splits import labelled_splits
from tests.evaluation.tiny_data import COUNTS, image_data, speech_data, text_data
from tests.tiny_encoders import TRANSFORMER, save_image_encoder, save_speech_encoder, save_text_encoder

CASES = {
    "vision": (save_image_encoder, image_data, "pixels (32 × 32)"),
    "speech": (save_speech_encoder, speech_data, "log-mel statistics"),
    "text": (save_text_encoder, text_data, "TF-IDF of word 1-2-grams"),
}


@pytest.mark.parametrize("modality", CASES)
def test_from_a_folder_to_the_table(modality, tmp_path):
    save_encoder, make_data, raw = CASES[modality]
    data = make_data(tmp_path / "data")
    result = evaluate_encoder(save_encoder(tmp_path / "encoder"), data, layers="all", batch_size=4)
    assert result.num_items == COUNTS
    assert (result.modality, result.num_classes, result.label) == (modality, 2, data.label_column)
    methods = ["linear probe", "kNN"]
    raw_methods = ["linear probe"] if modality == "text" else methods
    assert [(row.features, row.method) for row in result.rows] == [
        *(("encoder", method) for method in methods),
        *(("random initialisation", method) for method in methods),
        *((raw, method) for method in raw_methods),
    ]
    for row in result.rows:
        assert len(row.runs) == (3 if row.features == "random initialisation" else 1)
        for run in row.runs:
            assert set(run.scores) == set(SCORES)
            assert all(0 <= value <= 1 for value in run.scores.values())
            assert run.layer in ({None} if row.features == raw else {0, 1, 2})
    assert result.row(raw, "linear probe").mean() >= 0.7  # the classes can be told apart
    json.dumps(result.to_dict())


def test_an_encoder_evaluated_again_gives_the_same_numbers(tmp_path):
    data, folder = image_data(tmp_path / "data"), save_image_encoder(tmp_path / "encoder")
    encoder, processor = load_encoder(folder)
    set_seed(5)
    state = torch.get_rng_state()
    in_memory = evaluate_encoder(encoder, data, processor=processor, batch_size=5)
    assert torch.equal(torch.get_rng_state(), state)
    saved = evaluate_encoder(folder, data, batch_size=7)
    assert [row.to_dict()["summary"] for row in in_memory.rows] == [row.to_dict()["summary"] for row in saved.rows]
    assert in_memory.encoder == "ViTModel"
    assert saved.encoder == str(folder)


def test_group_norm_encoders_are_measured_without_padding(tmp_path):
    """The same numbers whatever the batch size, which padding in the group norm would change."""
    set_seed(0)
    config = HubertConfig(
        **TRANSFORMER,
        conv_dim=(16, 16, 16),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 8, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    assert config.feat_extract_norm == "group"
    processor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)
    data = speech_data(tmp_path)
    encoder = HubertModel(config)
    results = [evaluate_encoder(encoder, data, processor=processor, seeds=(0,), batch_size=size) for size in (1, 6)]
    assert results[0].rows == results[1].rows


def test_nothing_is_chosen_by_the_test_items():
    rng = np.random.default_rng(0)
    labels = {
        split: rng.integers(0, 3, number) for split, number in {"train": 60, "validation": 60, "test": 60}.items()
    }
    signal = rng.normal(size=(3, 8))
    layers = {
        layer: {
            split: (strength * signal[classes] + rng.normal(size=(60, 8))).astype(np.float32)
            for split, classes in labels.items()
        }
        for layer, strength in {0: 0.1, 1: 0.8, 2: 0.6}.items()
    }
    for fit in (fit_linear_probe, fit_knn):
        honest = measure(fit, layers, labels)
        accuracies = {
            layer: fit(
                splits["train"], labels["train"], splits["validation"], labels["validation"]
            ).validation_accuracy
            for layer, splits in layers.items()
        }
        assert accuracies[honest.layer] == honest.validation_accuracy == max(accuracies.values())
        # Test items that are perfectly told apart by another layer change the score and no choice.
        layers[0]["test"], kept = 100 * signal[labels["test"]].astype(np.float32), layers[0]["test"]
        tempted = measure(fit, layers, {**labels, "test": 2 - labels["test"]})
        layers[0]["test"] = kept
        assert (tempted.layer, tempted.settings) == (honest.layer, honest.settings)
        assert tempted.scores != honest.scores


def test_scores_are_of_the_test_items():
    rng = np.random.default_rng(1)
    labels = {split: np.arange(30) % 2 for split in ("train", "validation", "test")}
    features = {
        split: (labels[split][:, None] + 0.1 * rng.normal(size=(30, 2))).astype(np.float32) for split in labels
    }
    perfect = measure(fit_linear_probe, {None: features}, labels)
    reversed_labels = measure(fit_linear_probe, {None: features}, {**labels, "test": 1 - labels["test"]})
    assert perfect.scores["accuracy"] == 1
    assert reversed_labels.scores["accuracy"] == 0
    assert reversed_labels.validation_accuracy == 1


def test_speech_has_no_class_token(tmp_path):
    with pytest.raises(InputError, match="no class token"):
        evaluate_encoder(
            save_speech_encoder(tmp_path),
            SpeechDataArguments(path="sample:speech", label_column="group"),
            pooling="cls",
        )


def test_a_broken_file_is_named_or_left_out(tmp_path):
    data = speech_data(tmp_path / "data")
    recording = json.loads((tmp_path / "data/tables/train.jsonl").read_text().splitlines()[3])["audio"]
    samples = io.BytesIO()
    soundfile.write(samples, np.full(8000, np.nan), 16_000, format="WAV", subtype="FLOAT")
    with open(recording, "wb") as file:
        file.write(samples.getvalue())
    folder = save_speech_encoder(tmp_path / "encoder")
    with pytest.raises(InputError, match=r"train-3\.wav holds NaN"):
        evaluate_encoder(folder, data)
    data.on_error = "skip"
    result = evaluate_encoder(folder, data, seeds=(0, 1), batch_size=8)
    assert result.num_items == {**COUNTS, "train": COUNTS["train"] - 1}


def test_few_labels_have_rows_of_their_own(tmp_path):
    """The rows of a share are what the classifiers make of the subsets that its seeds draw."""
    data, folder = image_data(tmp_path / "data"), save_image_encoder(tmp_path / "encoder")
    result = evaluate_encoder(folder, data, train_fractions=[0.5, 1.0], seeds=[3, 4])
    assert [(row.train_fraction, row.num_labelled) for row in result.rows] == [(0.5, 10)] * 6 + [(1.0, 20)] * 6
    few = result.row("encoder", "kNN", train_fraction=0.5)
    assert few.seeds == [3, 4]
    assert [len(row.runs) for row in result.rows] == [2] * 6 + [1, 1, 2, 2, 1, 1]
    encoder, processor = load_encoder(folder)
    items = labelled_items(labelled_splits(data, "vision"), "vision", processor)
    features = features_of(encoder, items=items, layers="last", pooling="mean", title="")
    ((layer, splits),) = features.items()
    for run, seed in zip(few.runs, few.seeds, strict=True):
        rows = low_shot_rows(items.labels["train"].tolist(), 0.5, seed)
        fewer = {layer: {**splits, "train": splits["train"][rows]}}
        assert run == measure(fit_knn, fewer, {**items.labels, "train": items.labels["train"][rows]})
    full = evaluate_encoder(folder, data, seeds=[3, 4])
    assert full.rows == result.rows[6:]
    assert "| 10 (50 %) |" in result.to_markdown()
    assert "| 20 |" in result.to_markdown()


def test_the_data_can_have_few_labels_themselves(tmp_path):
    data = image_data(tmp_path / "data")
    data.train_fraction = 0.5
    result = evaluate_encoder(save_image_encoder(tmp_path / "encoder"), data, seeds=(0, 1))
    assert result.num_items == {**COUNTS, "train": 10}
    assert {row.num_labelled for row in result.rows} == {10}


def test_a_share_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match=r"--train-fraction is 1\.5; give a share of the training items in \(0, 1\]"):
        evaluate_encoder(
            save_image_encoder(tmp_path / "encoder"), image_data(tmp_path / "data"), train_fractions=[1.5]
        )
