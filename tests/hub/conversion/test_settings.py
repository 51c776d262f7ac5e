"""From fairseq's settings to configs, preprocessors and tokenizers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForPreTraining,
    AutoProcessor,
    HubertConfig,
    PreTrainedConfig,
    Wav2Vec2Processor,
)

import hf_ssl  # noqa: F401 - makes the objectives known
from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.encoder_config import from_encoder_config, to_encoder_config
from hf_ssl.hub.conversion.from_fairseq import convert_from_fairseq
from hf_ssl.hub.conversion.reading import read_checkpoint
from hf_ssl.hub.conversion.settings import read_settings
from hf_ssl.hub.conversion.to_fairseq import convert_to_fairseq
from tests.hub.conversion.fairseq_models import (
    DATA2VEC,
    HUBERT,
    LARGE,
    LETTERS,
    MODELS,
    WAV2VEC2,
    as_args,
    cfg,
    class_of_fairseq,
    fine_tuned_cfg,
    fine_tuned_shapes,
    make_dictionary,
    random_weights,
    save,
    save_fine_tuned,
    save_pretrained,
    shapes_of,
)


def converted_config(model: dict[str, Any], tmp_path: Path, to: str, settings: dict | None = None) -> PreTrainedConfig:
    source = save(tmp_path / "model.pt", settings or cfg(model), random_weights(shapes_of(model)))
    return AutoConfig.from_pretrained(convert_from_fairseq(source, tmp_path / "converted", to).path)


def test_encoder() -> None:
    config = to_encoder_config(read_settings(cfg(HUBERT | LARGE | {"dropout_input": 0.3}), flat=False))
    assert isinstance(config, HubertConfig)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 3, 4)
    assert config.intermediate_size == 48
    assert (config.conv_dim, config.conv_kernel, config.conv_stride) == ([16] * 3, [10, 3, 3], [5, 2, 2])
    assert (config.feat_extract_norm, config.do_stable_layer_norm, config.conv_bias) == ("layer", True, True)
    assert (config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups) == (8, 4)
    assert (config.hidden_dropout, config.layerdrop, config.feat_proj_dropout) == (0.1, 0.05, 0.3)
    # SpecAugment is of a later fine-tuning, of which this checkpoint says nothing.
    assert config.mask_time_prob == HubertConfig().mask_time_prob


@pytest.mark.parametrize("name", MODELS)
def test_encoder_and_back(name: str) -> None:
    model = MODELS[name]
    settings = from_encoder_config(to_encoder_config(read_settings(cfg(model), flat=False)))
    settings["conv_feature_layers"] = model["conv_feature_layers"]  # written otherwise
    assert settings.items() <= (model | {"conv_pos_batch_norm": False}).items()


def test_wav2vec2_of_transformers(tmp_path: Path) -> None:
    config = converted_config(WAV2VEC2, tmp_path, "transformers")
    assert config.architectures == ["Wav2Vec2ForPreTraining"]
    assert (config.num_codevectors_per_group, config.num_codevector_groups) == (5, 2)
    assert (config.codevector_dim, config.proj_codevector_dim) == (12, 12)
    assert (config.num_negatives, config.contrastive_logits_temperature, config.diversity_loss_weight) == (
        100,
        0.1,
        0.1,
    )
    assert (config.mask_time_prob, config.mask_time_length, config.feat_quantizer_dropout) == (0.65, 10, 0.1)


def test_wav2vec2_of_ours(tmp_path: Path) -> None:
    config = converted_config(WAV2VEC2 | {"latent_temp": "(2.0, 0.1, 0.999995)"}, tmp_path, "hf_ssl")
    assert (config.diversity_loss_weight, config.feature_penalty_weight, config.feature_grad_mult) == (0.1, 10, 0.1)
    assert (config.gumbel_temperature_start, config.gumbel_temperature_end) == (2.0, 0.1)
    assert config.gumbel_temperature_decay == pytest.approx(0.999995**400_000)
    assert (config.mask_time_prob, config.mask_time_min_masks, config.num_negatives) == (0.65, 2, 100)


def test_hubert_of_ours(tmp_path: Path) -> None:
    settings = cfg(HUBERT | {"label_rate": "${task.label_rate}"}, label_rate=100.0)
    settings["criterion"] |= {"pred_masked_weight": 3.0, "pred_nomask_weight": 1.0}
    config = converted_config(HUBERT, tmp_path, "hf_ssl", settings)
    assert (config.num_clusters, config.label_rate, config.sampling_rate, config.final_dim) == (7, 100, 16_000, 12)
    assert (config.temperature, config.mask_time_prob, config.feature_penalty_weight) == (0.1, 0.8, 10)
    assert config.alpha == 0.75


def test_data2vec_of_ours(tmp_path: Path) -> None:
    config = converted_config(DATA2VEC, tmp_path, "hf_ssl")
    assert (config.average_top_k_layers, config.ema_decay, config.ema_end_decay) == (2, 0.999, 0.9999)
    assert config.ema_rise_share == 0.075
    assert (config.encoder_config.num_conv_pos_embeddings, config.encoder_config.conv_pos_kernel_size) == (3, 5)
    assert config.mask_time_min_masks == 1


@pytest.mark.parametrize("name", ["wav2vec2", "hubert large", "data2vec"])
def test_args_say_the_same(name: str) -> None:
    settings = cfg(MODELS[name])
    old = read_settings(vars(as_args(settings)), flat=True)
    new = read_settings(settings, flat=False)
    assert to_encoder_config(old).to_dict() == to_encoder_config(new).to_dict()
    assert (old.family, old.final_dim, old.max_update) == (new.family, new.final_dim, new.max_update)


def test_settings_younger_than_the_checkpoint_are_fairseqs_defaults() -> None:
    model = {"_name": "wav2vec2", "encoder_layers": 4}
    config = to_encoder_config(read_settings({"model": model, "task": {}, "criterion": {}}, flat=False))
    assert (config.num_hidden_layers, config.hidden_size, config.layerdrop, config.num_conv_pos_embeddings) == (
        4,
        768,
        0.0,
        128,
    )
    assert list(config.conv_dim) == [512] * 7


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("name", "mask"), [("wav2vec2", False), ("wav2vec2 large", True), ("data2vec", True)])
def test_preprocessor(name: str, mask: bool, normalize: bool, tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "model.pt", name, normalize=normalize)
    for to in ("transformers", "hf_ssl"):
        folder = convert_from_fairseq(source, tmp_path / to, to).path
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        assert (extractor.do_normalize, extractor.return_attention_mask, extractor.sampling_rate) == (
            normalize,
            mask,
            16_000,
        )


def fine_tuned(tmp_path: Path, model: dict[str, Any], dictionary: str | None = None, **settings: Any) -> Path:
    source = save(tmp_path / "m.pt", fine_tuned_cfg(model, **settings), random_weights(fine_tuned_shapes(model)))
    file = tmp_path / "dict.ltr.txt"
    file.write_text(dictionary or "".join(f"{letter} 1\n" for letter in LETTERS), encoding="utf-8")
    return convert_from_fairseq(source, tmp_path / "converted", "transformers", file).path


def test_ctc(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(fine_tuned(tmp_path, HUBERT | {"encoder_layers": 2}, normalize=True))
    assert config.architectures == ["HubertForCTC"]
    assert (config.num_hidden_layers, config.vocab_size, config.pad_token_id) == (2, 10, 0)
    # Those of the fine-tuning take the place of the pretraining's.
    assert (config.layerdrop, config.activation_dropout, config.hidden_dropout) == (0.1, 0.1, 0.0)
    assert config.apply_spec_augment
    assert (config.mask_time_prob, config.mask_feature_prob, config.mask_feature_length) == (0.65, 0.25, 4)
    assert config.ctc_zero_infinity
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "converted").do_normalize


@pytest.mark.parametrize("settings", [{"apply_mask": False}, {"mask_prob": 0.0, "mask_channel_prob": 0.0}])
def test_ctc_without_masks_keeps_the_mask_embedding(settings: dict, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(fine_tuned(tmp_path, WAV2VEC2, **settings))
    assert not config.apply_spec_augment
    assert config.mask_time_prob > 0


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "data2vec"])
def test_tokenizer_spells_what_the_outputs_are(family: str, tmp_path: Path) -> None:
    folder = fine_tuned(tmp_path, MODELS[family])
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, Wav2Vec2Processor)
    # fairseq's outputs: <s> (the blank), <pad>, </s>, <unk>, then the letters.
    word = [4 + LETTERS.index(letter) for letter in "TEA"]
    outputs = [0, word[0], word[0], 0, word[1], word[2], 4, 4, 0, word[2], 0, word[2], 0]
    assert processor.tokenizer.decode(outputs) == "TEA AA"
    assert processor.tokenizer("TEA AA").input_ids == [*word, 4, word[2], word[2]]
    assert processor.tokenizer.pad_token_id == 0


def test_dictionary_that_is_missing(tmp_path: Path) -> None:
    source = save_fine_tuned(tmp_path / "model.pt", "hubert")
    with pytest.raises(InputError, match="needs the dictionary of its outputs, which this checkpoint does not hold"):
        convert_from_fairseq(source, tmp_path / "converted", "transformers")
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_dictionary_in_the_checkpoint(name: str, tmp_path: Path) -> None:
    with class_of_fairseq("fairseq.data.dictionary", "Dictionary") as dictionary_class:
        state = {"target_dictionary": make_dictionary(dictionary_class, LETTERS)}
        weights = random_weights(fine_tuned_shapes(MODELS[name]))
        source = save(tmp_path / "model.pt", fine_tuned_cfg(MODELS[name]), weights, task_state=state)
    folder = convert_from_fairseq(source, tmp_path / "converted", "transformers").path
    assert AutoProcessor.from_pretrained(folder).tokenizer.convert_ids_to_tokens(range(10)) == [
        *("<pad>", "<s>", "</s>", "<unk>"),
        *LETTERS,
    ]
    convert_to_fairseq(folder, tmp_path / "back" / "model.pt")
    lines = (tmp_path / "back" / "dict.ltr.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{letter} {count}" for count, letter in enumerate(LETTERS, start=5)]


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [
        ("A 1\nB 1\n", "has 2 symbols, with 4 special ones 6, but the model has 10 outputs"),
        ("A 1\nB\n", r"Line 2 of .* is 'B', not a symbol, a space and a count"),
        ("A one\n", "Line 1"),
        ("<pad> 1\n", "has the symbol '<pad>' twice"),
        ("A 1\nA 2\n", "has the symbol 'A' twice"),
    ],
)
def test_other_dictionaries_are_refused(dictionary: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        fine_tuned(tmp_path, HUBERT, dictionary)


def test_dictionary_where_there_are_no_letters(tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "model.pt", "hubert")
    with pytest.raises(InputError, match="is not fine-tuned with CTC"):
        convert_from_fairseq(source, tmp_path / "converted", "transformers", tmp_path / "dict.ltr.txt")


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (WAV2VEC2, {"layer_type": "conformer"}, "With layer_type = 'conformer', fairseq builds a wav2vec2 encoder"),
        (WAV2VEC2, {"layer_type": "trf_adp"}, "layer_type = 'trf_adp'"),
        (WAV2VEC2, {"quantize_input": True}, "quantize_input = True"),
        (WAV2VEC2, {"pos_conv_depth": 5}, "pos_conv_depth = 5"),
        (WAV2VEC2, {"crop_seq_to_multiple": 4}, "crop_seq_to_multiple = 4"),
        (WAV2VEC2, {"encoder_embed_dim": 16}, "encoder_embed_dim = 16"),
        (WAV2VEC2, {"activation_fn": "tanh"}, "activation_fn = 'tanh'"),
        (WAV2VEC2, {"conv_feature_layers": "list(range(3))"}, "conv_feature_layers is 'list"),
        (DATA2VEC, {"pos_conv_depth": 1}, "pos_conv_depth = 1"),
        (DATA2VEC, {"layer_norm_first": True}, "layer_norm_first = True"),
        (DATA2VEC, {"extractor_mode": "default"}, "extractor_mode = 'default'"),
        (HUBERT, {"_name": "hubert_xxl"}, "no conversion for fairseq's model 'hubert_xxl'; did you mean 'hubert'"),
        (HUBERT, {"_name": "wav2vec"}, "no conversion for fairseq's model 'wav2vec'"),
    ],
)
def test_other_encoders_are_refused(base: dict, change: dict, message: str) -> None:
    settings = cfg(base)
    settings["model"] = base | change
    with pytest.raises(InputError, match=message):
        to_encoder_config(read_settings(settings, flat=False))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (HUBERT | {"target_glu": True}, "target_glu = True"),
        (
            DATA2VEC | {"layer_norm_target_layer": True},
            "trained with layer_norm_target_layer = True, where ours has False",
        ),
        (DATA2VEC | {"instance_norm_target_layer": False}, "instance_norm_target_layer = False"),
        (WAV2VEC2 | {"codebook_negatives": 5}, "codebook_negatives = 5"),
        (WAV2VEC2 | {"negatives_from_everywhere": True}, "negatives_from_everywhere = True"),
    ],
)
def test_other_objectives_are_refused_but_their_encoders_are_not(model: dict, message: str, tmp_path: Path) -> None:
    source = save(tmp_path / "model.pt", cfg(model), random_weights(shapes_of(model)))
    with pytest.raises(InputError, match=message):
        convert_from_fairseq(source, tmp_path / "ours", "hf_ssl")
    convert_from_fairseq(source, tmp_path / "theirs", "transformers")


def test_several_sets_of_labels_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "model.pt", cfg(HUBERT, labels=["km", "phn"]), random_weights(shapes_of(HUBERT)))
    with pytest.raises(InputError, match="on 2 sets of labels"):
        convert_from_fairseq(source, tmp_path / "ours", "hf_ssl")


def test_fine_tuned_continues_no_objective(tmp_path: Path) -> None:
    source = save_fine_tuned(tmp_path / "model.pt", "hubert")
    with pytest.raises(InputError, match="continues no pretraining objective"):
        convert_from_fairseq(source, tmp_path / "ours", "hf_ssl", tmp_path / "dict.ltr.txt")


def test_fine_tuned_without_its_encoders_settings(tmp_path: Path) -> None:
    settings = fine_tuned_cfg(HUBERT, w2v_args=None)
    source = save(tmp_path / "model.pt", settings, random_weights(fine_tuned_shapes(HUBERT)))
    with pytest.raises(InputError, match="hubert_ctc checkpoint have no w2v_args"):
        convert_from_fairseq(source, tmp_path / "converted", "transformers")


def test_encoders_settings_in_the_older_form(tmp_path: Path) -> None:
    settings = fine_tuned_cfg(WAV2VEC2, w2v_args=as_args(cfg(WAV2VEC2)))
    source = save(tmp_path / "model.pt", settings, random_weights(fine_tuned_shapes(WAV2VEC2)))
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS), encoding="utf-8")
    folder = convert_from_fairseq(source, tmp_path / "hf", "transformers", tmp_path / "dict.ltr.txt").path
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_emb": None}, "The checkpoint lacks mask_emb, which its settings do not explain"),
        (
            {"encoder.layers.0.fc1.bias": None, "layer_norm.bias": None},
            r"lacks encoder\.layers\.0\.fc1\.bias, layer_norm",
        ),
        ({"encoder.layers.3.fc1.bias": (48,)}, r"has, unknown here, encoder\.layers\.3\.fc1\.bias"),
        ({"layer_norm_for_extract.weight": (4,)}, r"unknown here, layer_norm_for_extract\.weight"),
        ({"encoder.embed_positions.weight": (4,)}, "unknown here, encoder.embed_positions"),
        (
            {"layer_norm.weight": (17,)},
            r"feature_projection\.layer_norm\.weight has the shape \(17,\), .* make it \(16,\)",
        ),
    ],
)
def test_weights_that_the_settings_do_not_explain(change: dict, message: str, tmp_path: Path) -> None:
    shapes = shapes_of(HUBERT) | change
    weights = random_weights({name: shape for name, shape in shapes.items() if shape is not None})
    source = save(tmp_path / "model.pt", cfg(HUBERT), weights)
    for to in ("transformers", "hf_ssl"):
        with pytest.raises(InputError, match=message):
            convert_from_fairseq(source, tmp_path / "converted", to)
    assert not (tmp_path / "converted").exists()
    assert not list(tmp_path.glob("*.partial"))


def save_hubert_with_labels(path: Path, labels: str) -> Path:
    with class_of_fairseq("fairseq.data.dictionary", "Dictionary") as dictionary_class:
        state = {"dictionaries": [make_dictionary(dictionary_class, labels)]}
        return save(path, cfg(HUBERT), random_weights(shapes_of(HUBERT)), task_state=state)


def test_codewords_are_in_the_order_of_the_clusters(tmp_path: Path) -> None:
    """A dictionary sorted by frequency has another; row 4 + i of fairseq's is that of the dictionary's symbol i."""
    source = save_hubert_with_labels(tmp_path / "model.pt", "1302456")
    folder = convert_from_fairseq(source, tmp_path / "ours", "hf_ssl").path
    codebook = AutoModelForPreTraining.from_pretrained(folder).codebook
    theirs = random_weights(shapes_of(HUBERT))["label_embs_concat"]
    for row, cluster in enumerate([1, 3, 0, 2, 4, 5, 6]):
        assert torch.equal(codebook[cluster], theirs[4 + row])
    back = convert_to_fairseq(folder, tmp_path / "back" / "model.pt").path
    assert torch.equal(read_checkpoint(back).weights["label_embs_concat"], theirs)
    assert (tmp_path / "back" / "dict.km.txt").read_text(encoding="utf-8").startswith("1 5\n3 6\n0 7\n")


def test_labels_that_are_no_clusters(tmp_path: Path) -> None:
    """Phones, say; transformers has no place for codewords, so there it does not matter."""
    source = save_hubert_with_labels(tmp_path / "model.pt", "aeioubd")
    convert_from_fairseq(source, tmp_path / "theirs", "transformers")
    with pytest.raises(
        InputError, match=r"labels of this HuBERT are a, e, i, o, u … \(7 symbols\), not the clusters 0"
    ):
        convert_from_fairseq(source, tmp_path / "ours", "hf_ssl")
