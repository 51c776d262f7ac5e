"""Tiny CTC models with random weights, and recordings with transcripts."""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, Wav2Vec2Processor, set_seed

from hf_ssl.data.arguments import SpeechDataArguments
from hf_ssl.data.loading import load_splits
from hf_ssl.data.transcripts import TranscriptForm
from hf_ssl.evaluation.recognition.recogniser import Recogniser
from hf_ssl.modeling.speech.encoder_ctc import EncoderForCTCConfig
from tests.tiny_encoders import save_mel_encoder, save_speech_encoder


def write_sample(folder: Path, counts: dict[str, int]) -> SpeechDataArguments:
    """Splits of the shortest Italian recordings of the embedded speech, as parquet; no recording is in two."""
    rows = load_splits(SpeechDataArguments(path="sample:speech"), "speech")["train"]
    italian = [row for row in range(len(rows)) if rows["language"][row] == 0]
    order = iter(sorted(italian, key=rows["duration"].__getitem__))
    folder.mkdir()
    for split, count in counts.items():
        chosen = rows.select([next(order) for _ in range(count)])
        chosen.select_columns(["audio", "text", "duration"]).to_parquet(folder / f"{split}.parquet")
    return SpeechDataArguments(path=str(folder))


def save_recogniser(folder: Path, kind: str = "layer", form: TranscriptForm | None = None, **config: bool) -> Path:
    """A CTC model of Italian letters, as it is published: `kind` is the norm of a CNN, or a type of mel encoders."""
    if kind in ("layer", "group"):
        encoder = save_speech_encoder(folder, feat_extract_norm=kind, do_stable_layer_norm=kind == "layer")
    else:
        encoder = save_mel_encoder(folder, kind)
    extractor = AutoFeatureExtractor.from_pretrained(encoder)
    if kind == "group":
        extractor.return_attention_mask = False
    tokenizer = (form or TranscriptForm()).tokenizer(["quel vitz per la forza d'un bagno è più sì però"])
    outputs = {"vocab_size": len(tokenizer), "pad_token_id": 0}
    settings = AutoConfig.from_pretrained(encoder, **config)
    if type(settings) in AutoModelForCTC._model_mapping:
        settings.update(outputs)
    else:
        settings = EncoderForCTCConfig(encoder_config=settings, **outputs)
    set_seed(0)
    AutoModelForCTC.from_config(settings).save_pretrained(folder)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def load(folder: Path) -> Recogniser:
    return Recogniser(AutoModelForCTC.from_pretrained(folder), Wav2Vec2Processor.from_pretrained(folder))


def with_lengths(data: SpeechDataArguments, split: str) -> Dataset:
    """The recordings of a split with their length, as the check of the data gives it."""
    rows = load_splits(replace(data, validation_split=None), "speech")[split]
    return rows.add_column("length", list(rows["duration"]))
