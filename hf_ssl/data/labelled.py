"""Batches of items with their classes: what an encoder reads, and what evaluation and fine-tuning compare it with."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor

from hf_ssl.data.decoding import decode_audio, decode_image
from hf_ssl.modeling.blocks.pretrained import Processor


def reads_padding(processor: Processor) -> bool:
    """Whether an encoder of speech takes no mask, as those with group norm, and reads the zeros that pad a batch."""
    extractor = getattr(processor, "feature_extractor", processor)
    return isinstance(extractor, Wav2Vec2FeatureExtractor) and not extractor.return_attention_mask


@dataclass(kw_only=True)
class LabelledCollator:
    """Decodes items, runs the encoder's own preprocessor on them and adds their classes.

    It draws nothing at random and can be pickled.

    Args:
        modality (`str`): `"vision"`, `"speech"` or `"text"`: which of the columns `image`, `audio` and `text` is read.
        processor ([`Processor`]): the encoder's image processor, feature extractor or tokenizer.
        max_seconds (`float`, *optional*): longer recordings keep only their beginning.
        max_length (`int`, *optional*): longer texts keep only their first so many tokens, special ones included; by
            default the tokenizer's own limit.
    """

    modality: str
    processor: Processor
    max_seconds: float | None = None
    max_length: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The inputs of the encoder for a list of rows.

        There is an `attention_mask` where the preprocessor says that its encoder takes one: encoders with group norm
        (wav2vec2-base, hubert-base) do not, and read the zeros that pad a batch.

        Returns:
            `dict[str, Tensor]`: `pixel_values` (B, C, H, W); `input_values` (B, S) or `input_features` (B, T, F);
                `input_ids` (B, T) and what else the tokenizer gives. With it `labels` (B,), int64, where the rows have
                a column `label`.

        Raises:
            InputError: for an image or a recording that cannot be decoded.
        """
        read = {"vision": self._images, "speech": self._speech, "text": self._text}[self.modality]
        batch = dict(read(examples))
        if "label" in examples[0]:
            batch["labels"] = torch.tensor([example["label"] for example in examples], dtype=torch.int64)
        return batch

    def _images(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        images = [decode_image(example["image"]) for example in examples]
        return self.processor(images=images, return_tensors="pt")

    def _speech(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rate = self.processor.sampling_rate
        num_samples = None if self.max_seconds is None else round(self.max_seconds * rate)
        waveforms = [decode_audio(example["audio"], rate)[:num_samples] for example in examples]
        # Whisper's and AST's extractors pad to their encoder's fixed length unasked.
        padding = {"padding": True} if isinstance(self.processor, Wav2Vec2FeatureExtractor) else {}
        # The mask is always asked for, since without it each waveform would be normalised together with its padding.
        batch = self.processor(
            waveforms, sampling_rate=rate, return_attention_mask=True, return_tensors="pt", **padding
        )
        if not self.processor.return_attention_mask:
            batch.pop("attention_mask", None)
        return batch

    def _text(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [example["text"] for example in examples]
        return self.processor(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
