import pytest
import torch
from transformers import ConvNextConfig, ConvNextModel, ResNetConfig, ResNetModel, set_seed

from hf_ssl.data.labelled import LabelledCollator
from hf_ssl.data.loading import load_splits
from hf_ssl.errors import InputError
from hf_ssl.evaluation.encoders import load_encoder
from hf_ssl.evaluation.features import extract_features, feature_loader, frozen, layer_numbers
from hf_ssl.modeling.blocks.mel_front_end import FRONT_ENDS
from tests.tiny_encoders import save_image_encoder, save_mel_encoder, save_speech_encoder, save_text_encoder
from tests.trainers.recordings import write_recordings


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    encoder, processor = load_encoder(save_text_encoder(tmp_path_factory.mktemp("text")))
    rows = [{"text": "a" + " small word" * n, "label": n} for n in (1, 7, 3, 12)]
    return encoder, LabelledCollator(modality="text", processor=processor), rows


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    encoder, processor = load_encoder(save_speech_encoder(folder / "encoder"))
    dataset = load_splits(write_recordings(folder / "data", {"train": 4, "validation": 1}), "speech")["train"]
    rows = [{"audio": row["audio"], "label": number} for number, row in enumerate(dataset)]
    return encoder, LabelledCollator(modality="speech", processor=processor), rows


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    encoder, _ = load_encoder(save_image_encoder(tmp_path_factory.mktemp("image")))
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return encoder, [{"pixel_values": pixels, "labels": torch.arange(4)}]


@pytest.mark.parametrize("modality", ["texts", "speech"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_does_not_change_any_layer(modality, pooling, request):
    encoder, collator, rows = request.getfixturevalue(modality)
    together, labels = extract_features(encoder, [collator(rows)], layers="all", pooling=pooling)
    alone, _ = extract_features(encoder, [collator([row]) for row in rows], layers="all", pooling=pooling)
    assert collator(rows)["attention_mask"].min() == 0  # there is padding
    assert labels.tolist() == [row["label"] for row in rows]
    assert together.keys() == alone.keys() == {0, 1, 2}
    for layer, features in together.items():
        torch.testing.assert_close(features, alone[layer], atol=1e-5, rtol=1e-4)
    assert together[2].std(dim=0).mean() > 1e-3  # the items differ


def test_speech_is_averaged_over_the_frames_of_the_recording(speech):
    encoder, collator, rows = speech
    features, _ = extract_features(encoder, [collator(rows)])
    for row, pooled in zip(rows, features[2], strict=True):
        with frozen(encoder):
            hidden = encoder(**{k: v for k, v in collator([row]).items() if k != "labels"}).last_hidden_state
        torch.testing.assert_close(pooled, hidden[0].mean(dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", FRONT_ENDS)
def test_encoders_of_mel_frames(model_type, speech, tmp_path):
    encoder, processor = load_encoder(save_mel_encoder(tmp_path, model_type))
    collator, rows = LabelledCollator(modality="speech", processor=processor), speech[2]
    together, _ = extract_features(encoder, [collator(rows)], layers="all")
    alone, _ = extract_features(encoder, [collator([row]) for row in rows], layers="all")
    assert collator(rows)["attention_mask"].min() == 0  # there is padding
    assert together.keys() == {0, 1, 2}
    for layer, features in together.items():
        assert features.shape == (len(rows), 32)
        torch.testing.assert_close(features, alone[layer], atol=1e-4, rtol=1e-3)


def test_texts_come_in_batches_and_recordings_alone(texts, speech):
    sizes = {
        collator.modality: [len(batch["labels"]) for batch in feature_loader(rows, collator, batch_size=3)]
        for _, collator, rows in (texts, speech)
    }
    assert sizes == {"text": [3, 1], "speech": [1, 1, 1, 1]}


def test_layers_are_the_hidden_states_and_the_last_is_the_output(images):
    encoder, batches = images
    features, _ = extract_features(encoder, batches, layers="all")
    with frozen(encoder):
        output = encoder(batches[0]["pixel_values"], output_hidden_states=True)
    assert list(features) == [0, 1, 2]
    for layer in (0, 1):
        torch.testing.assert_close(features[layer], output.hidden_states[layer].mean(dim=1))
    torch.testing.assert_close(features[2], output.last_hidden_state.mean(dim=1))
    last, _ = extract_features(encoder, batches)
    assert torch.equal(last[2], features[2])
    class_token, _ = extract_features(encoder, batches, layers=[-1], pooling="cls")
    torch.testing.assert_close(class_token[2], output.last_hidden_state[:, 0])


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (ResNetModel, ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")),
        (ConvNextModel, ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2)),
    ],
)
def test_stages_of_a_convolutional_encoder_are_layers(model, config, images):
    set_seed(0)
    features, _ = extract_features(model(config), images[1], layers="all")
    assert [tuple(tensor.shape) for tensor in features.values()] == [(4, 4), (4, 4), (4, 8)]


def test_extraction_leaves_modes_and_gradients_as_they_were(images):
    encoder, batches = images
    encoder.train()
    encoder.layers[0].eval()
    modes = [module.training for module in encoder.modules()]
    features, _ = extract_features(encoder, batches)
    assert [module.training for module in encoder.modules()] == modes
    assert not features[2].requires_grad
    assert encoder(batches[0]["pixel_values"]).last_hidden_state.requires_grad


def test_layer_numbers():
    assert layer_numbers("last", 12) == [12]
    assert layer_numbers("all", 2) == [0, 1, 2]
    assert layer_numbers([6, -1, 12, 0], 12) == [0, 6, 12]
    with pytest.raises(InputError, match="There is no layer 13; the encoder has layers 0 to 12"):
        layer_numbers([13], 12)
    with pytest.raises(InputError, match="did you mean 'last'"):
        layer_numbers("lst", 12)


def test_unknown_pooling_is_found_before_any_work(images):
    with pytest.raises(InputError, match="mean"):
        extract_features(images[0], iter(()), pooling="maen")
