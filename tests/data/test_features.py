"""Log-mel and MFCC features against Kaldi's own code and against a loop written from the definitions."""

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from hf_ssl.data.features import frame_rate, log_mel, log_mel_statistics, mfcc, num_frames
from hf_ssl.errors import InputError


def voiced_noise(num_samples: int, sampling_rate: int, seed: int = 0) -> torch.Tensor:
    """A gliding harmonic tone in noise, with a silence in the middle."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples) / sampling_rate
    tone = sum(np.sin(2 * np.pi * h * (120 + 40 * time) * time) / h for h in range(1, 8))
    wave = 0.1 * tone + 0.02 * rng.standard_normal(num_samples)
    wave[num_samples // 3 : num_samples // 2] = 0.0
    return torch.from_numpy(wave.astype(np.float32))


def kaldi_frames(computer, waveform: torch.Tensor, sampling_rate: int) -> np.ndarray:
    computer.accept_waveform(sampling_rate, waveform.tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def kaldi_options(options, sampling_rate: int):
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = sampling_rate
    return options


@pytest.mark.parametrize("sampling_rate", [8_000, 16_000, 22_050])
def test_log_mel_is_kaldis(sampling_rate):
    waveform = voiced_noise(2 * sampling_rate + 37, sampling_rate)
    options = kaldi_options(kaldi_native_fbank.FbankOptions(), sampling_rate)
    options.mel_opts.num_bins = 80
    expected = kaldi_frames(kaldi_native_fbank.OnlineFbank(options), waveform, sampling_rate)
    features = log_mel(waveform, sampling_rate).numpy()
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, atol=5e-3)
    assert np.abs(features - expected).mean() < 5e-5


@pytest.mark.parametrize("sampling_rate", [8_000, 16_000])
def test_cepstra_are_kaldis(sampling_rate):
    waveform = voiced_noise(sampling_rate, sampling_rate)
    options = kaldi_options(kaldi_native_fbank.MfccOptions(), sampling_rate)
    options.use_energy = False
    expected = kaldi_frames(kaldi_native_fbank.OnlineMfcc(options), waveform, sampling_rate)
    np.testing.assert_allclose(mfcc(waveform, sampling_rate)[:, :13].numpy(), expected, atol=5e-3)


def naive_cepstrum(frame: np.ndarray, sampling_rate: int) -> list[float]:
    """One frame's 13 cepstra, term by term (Young et al., The HTK Book, 5.3-5.6; window and mel scale of Kaldi)."""
    length = len(frame)
    frame = frame - sum(frame) / length
    emphasised = [frame[0] * 0.03] + [frame[n] - 0.97 * frame[n - 1] for n in range(1, length)]
    window = [(0.5 - 0.5 * np.cos(2 * np.pi * n / (length - 1))) ** 0.85 for n in range(length)]
    size = 2 ** int(np.ceil(np.log2(length)))
    power = np.abs(np.fft.fft(np.multiply(emphasised, window), size)) ** 2

    def mel(hertz: float) -> float:
        return 1127.0 * np.log(1 + hertz / 700.0)

    edges = [mel(20.0) + i * (mel(sampling_rate / 2) - mel(20.0)) / 24 for i in range(25)]
    log_energies = []
    for band in range(23):
        energy = 0.0
        for k in range(size // 2):
            at = mel(k * sampling_rate / size)
            rise = (at - edges[band]) / (edges[band + 1] - edges[band])
            fall = (edges[band + 2] - at) / (edges[band + 2] - edges[band + 1])
            energy += max(0.0, min(rise, fall)) * power[k]
        log_energies.append(np.log(max(energy, np.finfo(np.float32).eps)))
    cepstra = []
    for c in range(13):
        total = sum(e * np.cos(np.pi * c * (band + 0.5) / 23) for band, e in enumerate(log_energies))
        cepstra.append(total * np.sqrt((1 if c == 0 else 2) / 23) * (1 + 11 * np.sin(np.pi * c / 22)))
    return cepstra


def naive_deltas(frames: np.ndarray) -> np.ndarray:
    last = len(frames) - 1
    return np.array(
        [sum(n * (frames[min(t + n, last)] - frames[max(t - n, 0)]) for n in (1, 2)) / 10 for t in range(len(frames))]
    )


def test_mfcc_is_the_loop_over_the_definition():
    waveform = voiced_noise(4_000, 16_000)
    wave = waveform.double().numpy()
    cepstra = np.array([naive_cepstrum(wave[start : start + 400], 16_000) for start in range(0, 4_000 - 399, 160)])
    slopes = naive_deltas(cepstra)
    expected = np.concatenate([cepstra, slopes, naive_deltas(slopes)], axis=1)
    np.testing.assert_allclose(mfcc(waveform, 16_000).numpy(), expected, atol=5e-3)


def test_a_batch_is_its_rows():
    rows = [voiced_noise(9_000, 16_000, seed) for seed in range(3)]
    for feature in (log_mel, mfcc, log_mel_statistics):
        batch = feature(torch.stack(rows), 16_000)
        for row, expected in zip(batch, rows, strict=True):
            torch.testing.assert_close(row, feature(expected, 16_000), atol=1e-4, rtol=1e-5)


def test_long_recordings_are_cut_without_a_seam(monkeypatch):
    waveform = voiced_noise(16_000, 16_000)
    whole = mfcc(waveform, 16_000)
    monkeypatch.setattr("hf_ssl.data.features._FRAMES_AT_ONCE", 7)
    torch.testing.assert_close(mfcc(waveform, 16_000), whole, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("num_samples", [400, 559, 560, 16_000])
def test_number_of_frames(num_samples):
    assert len(log_mel(torch.zeros(num_samples), 16_000)) == num_frames(num_samples, 16_000)


def test_frame_rate():
    assert frame_rate(16_000) == 100.0
    assert frame_rate(11_025) == 11_025 / 110  # Kaldi rounds the hop down to whole samples


def test_scaling_to_integers_moves_the_first_cepstrum_only():
    waveform = 0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(0))
    difference = mfcc(waveform * 32_768, 16_000) - mfcc(waveform, 16_000)
    torch.testing.assert_close(difference[:, 0], torch.full((len(difference),), 99.72), atol=0.01, rtol=0)
    assert difference[:, 1:].abs().max() < 1e-3


def test_statistics_are_mean_and_deviation_over_time():
    waveform = voiced_noise(16_000, 16_000)
    frames = log_mel(waveform, 16_000).double().numpy()
    expected = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    np.testing.assert_allclose(log_mel_statistics(waveform, 16_000).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_silence_is_finite():
    assert torch.isfinite(mfcc(torch.zeros(2, 16_000), 16_000)).all()


def test_too_short():
    with pytest.raises(InputError, match=r"0\.0200 s is too short"):
        log_mel(torch.zeros(320), 16_000)
