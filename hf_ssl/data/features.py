"""Log-mel filter banks and MFCCs in torch, batched, on any device, as Kaldi computes them."""

# B recordings, S samples, T frames (10 ms), W samples of a window (25 ms), N of its spectrum, F mel bands, C cepstra

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.audio_utils import mel_filter_bank

from hf_ssl.errors import InputError

NUM_MEL_BANDS = 80
NUM_MFCC = 39

_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.01
_LOWEST_FREQUENCY = 20.0  # Hz; the highest is half the sampling rate
_PRE_EMPHASIS = 0.97
_FLOOR = torch.finfo(torch.float32).eps  # of a band's energy, before the logarithm
_MFCC_MEL_BANDS = 23
_NUM_CEPSTRA = 13
_LIFTER = 22
_DELTA_WIDTH = 2  # frames on either side
_FRAMES_AT_ONCE = 8192  # bounds the spectra held in memory, however long the recording


def log_mel(
    waveform: Tensor, sampling_rate: int, num_bands: int = NUM_MEL_BANDS, framing: tuple[int, int] | None = None
) -> Tensor:
    """Log energies of 80 mel bands every 10 ms: Kaldi's `compute-fbank-feats` without dither.

    Windows of 25 ms that lie wholly inside the recording (`snip_edges`), mean removed, pre-emphasis 0.97, Povey
    window, power spectrum, triangular filters in Kaldi's mel scale from 20 Hz to half the sampling rate, natural
    logarithm.

    Kaldi's programs read samples as 16-bit integers; here they are in [-1, 1], as in fairseq and AST, and are not
    scaled. Kaldi's values are these plus `2 ln 32768 = 20.79`, except in bands below the floor of 1.2e-7 (digital
    silence).

    Args:
        waveform (`Tensor`): `(S,)` or `(B, S)`, in [-1, 1]; a padded row has [`num_frames`] valid frames.
        sampling_rate (`int`): Hz.
        num_bands (`int`): F.
        framing (`tuple[int, int]`, *optional*): samples of a window, and from one to the next; by default those of 25
            and 10 ms.

    Returns:
        `Tensor`: `(T, F)` or `(B, T, F)`, fp32.

    Raises:
        InputError: if the recording is shorter than one window.
    """
    return _log_mel_energies(waveform, sampling_rate, num_bands, framing)


def mfcc(waveform: Tensor, sampling_rate: int) -> Tensor:
    """13 mel-frequency cepstra, their slopes and the slopes of those, every 10 ms: HuBERT's first features.

    HuBERT (Hsu et al. 2021, https://arxiv.org/abs/2106.07447). The cepstra are Kaldi's defaults with C0 instead of the
    energy (`torchaudio.compliance.kaldi.mfcc(use_energy=False)`): orthonormal DCT of 23 log-mel energies, liftered by
    22. The slopes are regressions over 5 frames, the edge frames repeated (`torchaudio.functional.compute_deltas`).
    Samples scaled to 16-bit integers would add `20.79 √23 = 99.7` to C0 alone, which leaves the distances between
    frames as they are.

    Args:
        waveform (`Tensor`): `(S,)` or `(B, S)`, in [-1, 1].
        sampling_rate (`int`): Hz.

    Returns:
        `Tensor`: `(T, 39)` or `(B, T, 39)`, fp32.

    Raises:
        InputError: if the recording is shorter than one window.
    """
    energies = _log_mel_energies(waveform, sampling_rate, _MFCC_MEL_BANDS)
    cepstra = energies @ _liftered_dct().to(energies.device)  # (..., T, 13)
    slopes = _deltas(cepstra)
    return torch.cat([cepstra, slopes, _deltas(slopes)], dim=-1)


def log_mel_statistics(waveform: Tensor, sampling_rate: int) -> Tensor:
    """Mean and standard deviation over time of each log-mel band: the raw features that a speech encoder has to beat.

    Args:
        waveform (`Tensor`): `(S,)` or `(B, S)`, in [-1, 1], without padding.
        sampling_rate (`int`): Hz.

    Returns:
        `Tensor`: `(160,)` or `(B, 160)`, fp32: 80 means, then 80 standard deviations.

    Raises:
        InputError: if the recording is shorter than one window.
    """
    features = log_mel(waveform, sampling_rate)
    return torch.cat([features.mean(dim=-2), features.std(dim=-2, correction=0)], dim=-1)


def num_frames(num_samples: int, sampling_rate: int) -> int:
    """How many frames `log_mel` and `mfcc` give for a recording of `num_samples` samples."""
    window, hop = _window_and_hop(sampling_rate)
    return max(0, 1 + (num_samples - window) // hop)


def frame_rate(sampling_rate: int) -> float:
    """Frames a second of `log_mel` and `mfcc`, Hz: 100 where 10 ms are a whole number of samples."""
    return sampling_rate / _window_and_hop(sampling_rate)[1]


def _window_and_hop(sampling_rate: int) -> tuple[int, int]:
    return int(sampling_rate * _WINDOW_SECONDS), int(sampling_rate * _HOP_SECONDS)


def _log_mel_energies(
    waveform: Tensor, sampling_rate: int, num_bands: int, framing: tuple[int, int] | None = None
) -> Tensor:
    window, hop = framing or _window_and_hop(sampling_rate)
    if waveform.shape[-1] < window:
        seconds, needed = waveform.shape[-1] / sampling_rate, 1000 * window / sampling_rate
        raise InputError(
            f"A recording of {seconds:.4f} s is too short for features of {needed:.0f} ms windows; leave it out."
        )
    frames = waveform.float().unfold(-1, window, hop)  # (..., T, W), a view
    filters = _mel_filters(sampling_rate, num_bands, window).to(waveform.device)
    taper = _povey_window(window).to(waveform.device)
    energies = [_energies(part, taper, filters) for part in frames.split(_FRAMES_AT_ONCE, dim=-2)]
    return torch.cat(energies, dim=-2).clamp_min(_FLOOR).log()


def _energies(frames: Tensor, taper: Tensor, filters: Tensor) -> Tensor:
    frames = frames - frames.mean(dim=-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    spectrum = torch.fft.rfft((frames - _PRE_EMPHASIS * previous) * taper, n=2 * (len(filters) - 1))
    return (spectrum.real.square() + spectrum.imag.square()) @ filters  # (..., T, F)


def _deltas(features: Tensor) -> Tensor:
    """Slope of a least-squares line through 5 frames: `Σ n (x[t+n] - x[t-n]) / (2 Σ n²)`, n = 1, 2."""
    offsets = torch.arange(-_DELTA_WIDTH, _DELTA_WIDTH + 1, dtype=features.dtype, device=features.device)
    padded = pad(features.mT, (_DELTA_WIDTH, _DELTA_WIDTH), mode="replicate")  # (..., C, T + 4)
    return (padded.unfold(-1, len(offsets), 1) @ (offsets / offsets.square().sum())).mT


@lru_cache
def _povey_window(length: int) -> Tensor:
    return torch.hann_window(length, periodic=False, dtype=torch.float64).pow(0.85).float()


@lru_cache
def _mel_filters(sampling_rate: int, num_bands: int, window: int) -> Tensor:
    """`(N/2 + 1, F)` for spectra of `N` samples, the power of two that holds a window."""
    filters = mel_filter_bank(
        num_frequency_bins=2 ** (math.ceil(math.log2(window)) - 1) + 1,
        num_mel_filters=num_bands,
        min_frequency=_LOWEST_FREQUENCY,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return torch.from_numpy(filters).float()


@lru_cache
def _liftered_dct() -> Tensor:
    """`(23, 13)`: the first columns of the orthonormal DCT-II, each times its lifter `1 + (Q/2) sin(π c / Q)`."""
    band = torch.arange(_MFCC_MEL_BANDS, dtype=torch.float64)[:, None]
    cepstrum = torch.arange(_NUM_CEPSTRA, dtype=torch.float64)
    dct = torch.cos(math.pi / _MFCC_MEL_BANDS * (band + 0.5) * cepstrum) * math.sqrt(2 / _MFCC_MEL_BANDS)
    dct[:, 0] = math.sqrt(1 / _MFCC_MEL_BANDS)
    return (dct * (1 + _LIFTER / 2 * torch.sin(math.pi * cepstrum / _LIFTER))).float()
