"""What is clustered: MFCCs, log-mel energies, or a hidden layer of an encoder, a vector a frame."""

# S samples, T frames, D features

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hf_ssl.data.features import NUM_MEL_BANDS, NUM_MFCC, frame_rate, log_mel, mfcc
from hf_ssl.data.features import num_frames as num_signal_frames
from hf_ssl.data.speech import feature_extractor
from hf_ssl.errors import InputError, unknown_name
from hf_ssl.evaluation.encoders import load_encoder
from hf_ssl.modeling.blocks.frames import downsampling, num_frames, receptive_field
from hf_ssl.modeling.blocks.pretrained import build_encoder

SIGNAL_FEATURES: dict[str, tuple[Callable[[Tensor, int], Tensor], int]] = {
    "mfcc": (mfcc, NUM_MFCC),
    "log_mel": (log_mel, NUM_MEL_BANDS),
}
"""Features that are computed and not learned: function and size."""

CHUNK_SECONDS = 30.0
BATCH_SECONDS = 120.0


class FrameFeatures(Protocol):
    """Turns waveforms into frames.

    Attributes:
        rate (`float`): frames a second, Hz.
        size (`int`): D.
        digest (`str`): names the weights, if there are any, by their content.
    """

    rate: float
    size: int
    digest: str

    def num_frames(self, num_samples: int) -> int:
        """How many frames a recording of that many samples has; 0 if it is too short."""

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Of each waveform, (S,) float32, its frames, (T, D) fp32 on the CPU."""


def frame_features(name: str, layer: int | None, sampling_rate: int, device: torch.device) -> FrameFeatures:
    """Finds what `features` and `layer` of a clustering mean.

    Args:
        name (`str`): a key of [`SIGNAL_FEATURES`], or the folder or Hub name of a waveform encoder.
        layer (`int`, *optional*): of the encoder, see [`EncoderLayer`].
        sampling_rate (`int`): of the waveforms, Hz.
        device (`torch.device`): where they are computed.

    Raises:
        InputError: for an unknown name, a layer that does not exist, or an encoder of other inputs.
    """
    if name in SIGNAL_FEATURES:
        if layer is not None:
            raise InputError(f"Layer {layer} was asked for, but {name} has no layers; leave the layer out.")
        return SignalFeatures(name, sampling_rate, device)
    if "/" not in name and not Path(name).exists():
        raise unknown_name("features to cluster (nor folder of an encoder)", name, SIGNAL_FEATURES)
    if layer is None:
        raise InputError(f"Which layer of {name} is to be clustered? Give its number, e.g. layer 6.")
    return EncoderLayer(name, layer, sampling_rate, device)


class SignalFeatures:
    """MFCCs or log-mel energies, as [`FrameFeatures`]."""

    digest = ""

    def __init__(self, name: str, sampling_rate: int, device: torch.device) -> None:
        self.function, self.size = SIGNAL_FEATURES[name]
        self.sampling_rate, self.device = sampling_rate, device
        self.rate = frame_rate(sampling_rate)

    def num_frames(self, num_samples: int) -> int:
        """How many frames a recording of that many samples has."""
        return num_signal_frames(num_samples, self.sampling_rate)

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Of each waveform its frames."""
        return [self.function(torch.from_numpy(row).to(self.device), self.sampling_rate).cpu() for row in waveforms]


class EncoderLayer:
    """A hidden layer of a waveform encoder, as [`FrameFeatures`].

    Layer `n` is `hidden_states[n]` of transformers: 0 is what the first Transformer layer reads, `n` what the `n`-th
    one gives (before the final layer norm, where the architecture ends with one). That is fairseq's `output_layer=n`
    for HuBERT BASE. Layers that are not needed are left out of the computation.

    Waveforms are normalised as a whole by the encoder's own preprocessor. Long ones are then cut into chunks of 30 s
    whose frames follow each other without gap. Chunks are batched with those of as many frames and never padded:
    padding leaks into group norms, stacked positional convolutions (data2vec) and the convolutions of conformers, by
    as much as the features are large. Where there is a group norm, which sees all samples, the few samples after the
    last frame are kept, and recordings are batched only if they are equally long.

    Args:
        name (`str`): folder or Hub name.
        layer (`int`): which one.
        sampling_rate (`int`): of the waveforms, Hz.
        device (`torch.device`): where it runs, in fp32.
    """

    def __init__(self, name: str, layer: int, sampling_rate: int, device: torch.device) -> None:
        encoder, _ = load_encoder(name)
        if "conv_kernel" not in encoder.config.to_dict():
            raise InputError(f"The encoder {name!r} does not take waveforms; choose one of the wav2vec 2.0 family.")
        self.processor = feature_extractor(sampling_rate, name)
        num_layers = encoder.config.num_hidden_layers
        if not 0 <= layer <= num_layers:
            raise InputError(f"{name} has layers 0 to {num_layers}, not {layer}.")
        config = copy.deepcopy(encoder.config)
        config.num_hidden_layers = min(layer + 1, num_layers)  # one more, after which comes the final layer norm
        self.encoder = build_encoder(config, with_pooler=False)
        self.encoder.load_state_dict(encoder.state_dict(), strict=False)  # which has the layers left out
        self.encoder = self.encoder.float().eval().to(device)
        self.name, self.layer, self.config = name, layer, config
        self.hop, self.window = downsampling(config), receptive_field(config)
        self.keeps_rest = any(isinstance(module, nn.GroupNorm) for module in self.encoder.modules())
        self.rate, self.size = sampling_rate / self.hop, config.hidden_size
        self.digest = weights_digest(self.encoder)
        self.chunk_frames = int(CHUNK_SECONDS * self.rate)
        self.batch_frames = int(BATCH_SECONDS * self.rate)

    def num_frames(self, num_samples: int) -> int:
        """How many frames a recording of that many samples has."""
        return num_frames(self.config, num_samples)

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Of each waveform its frames."""
        rate = self.processor.sampling_rate
        rows = [self.processor(row, sampling_rate=rate, return_tensors="pt").input_values[0] for row in waveforms]
        chunks = [(row, chunk) for row, waveform in enumerate(rows) for chunk in self._chunks(waveform)]
        frames: list[Tensor] = [torch.empty(0)] * len(chunks)
        for batch in _equally_long([len(chunk) for _, chunk in chunks], self.batch_frames * self.hop):
            hidden = self._hidden(torch.stack([chunks[i][1] for i in batch]))
            for i, row_frames in zip(batch, hidden.cpu(), strict=True):
                frames[i] = row_frames
        of_row: list[list[Tensor]] = [[] for _ in rows]
        for (row, _), part in zip(chunks, frames, strict=True):
            of_row[row].append(part)
        return [torch.cat(parts) for parts in of_row]

    def _chunks(self, waveform: Tensor) -> Iterator[Tensor]:
        """Stretches of at most `chunk_frames` frames, each with the samples that its frames see."""
        total = self.num_frames(len(waveform))
        for first in range(0, total, self.chunk_frames):
            last = min(first + self.chunk_frames, total) - 1
            is_rest_kept = self.keeps_rest and last == total - 1
            yield waveform[first * self.hop : None if is_rest_kept else last * self.hop + self.window]

    def _hidden(self, input_values: Tensor) -> Tensor:
        outputs = self.encoder(input_values.to(self.encoder.device), output_hidden_states=True)
        hidden, expected = outputs.hidden_states[self.layer], self.num_frames(input_values.shape[1])
        if hidden.shape[1] != expected:
            raise InputError(
                f"Layer {self.layer} of {self.name} has {hidden.shape[1]} frames where its convolutions make "
                f"{expected}; choose another layer or encoder."
            )
        return hidden


def _equally_long(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Batches of indices of equal lengths, of at most `most` in all (or of one)."""
    of_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        of_length.setdefault(length, []).append(i)
    for length, indices in of_length.items():
        num_rows = max(1, most // length)
        for first in range(0, len(indices), num_rows):
            yield indices[first : first + num_rows]


def weights_digest(module: nn.Module) -> str:
    """A name for the weights that changes when they do, wherever they are stored."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()[:16]
