"""Recordings to frames, shard by shard."""

import shutil
from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from hf_ssl.data.decoding import decode_audio, file_name
from hf_ssl.errors import InputError
from hf_ssl.trainers.frame_features import FrameFeatures
from hf_ssl.trainers.shards import Shard, ShardFolder

_BYTES_OF_A_NUMBER = 4  # fp32


class Extraction:
    """Computes the features of shards, and stores those that are needed again and again.

    Args:
        splits (`Mapping[str, Dataset]`): recordings with their `length` in seconds.
        features ([`FrameFeatures`]): what is computed.
        sampling_rate (`int`): that recordings are resampled to, Hz.
        folder ([`ShardFolder`]): where features are stored, as `features` (N, D) and the `lengths` of the recordings.
    """

    def __init__(
        self, splits: Mapping[str, Dataset], features: FrameFeatures, sampling_rate: int, folder: ShardFolder
    ) -> None:
        self.splits = {name: split.select_columns(["audio"]) for name, split in splits.items()}
        self.lengths = {name: list(split["length"]) for name, split in splits.items()}
        self.features, self.sampling_rate, self.folder = features, sampling_rate, folder

    def store(self, shards: Sequence[Shard]) -> None:
        """Stores the features of the shards that are not stored yet.

        Raises:
            InputError: if the disk has not enough room for them, or a recording cannot be used.
        """
        missing = self.folder.missing("features", shards)
        self._require_room(missing)
        with tqdm(total=sum(len(shard.rows) for shard in missing), desc="features", unit="recording") as progress:
            for shard in missing:
                features, lengths = self._compute(shard)
                self.folder.save("features", shard, {"features": features, "lengths": lengths})
                progress.update(len(shard.rows))

    def load_or_compute(self, shard: Shard) -> tuple[Tensor, Tensor]:
        """The features of a shard, (N, D) fp32 on the CPU, and how many of its frames each recording has.

        Raises:
            InputError: for a recording that cannot be read or is too short, or whose features are not finite.
        """
        if self.folder.missing("features", [shard]):
            return self._compute(shard)
        stored = self.folder.load("features", shard)
        return stored["features"], stored["lengths"]

    def _compute(self, shard: Shard) -> tuple[Tensor, Tensor]:
        items = self.splits[shard.split].select(shard.rows)["audio"]
        waveforms = [decode_audio(item, self.sampling_rate) for item in items]
        for item, waveform in zip(items, waveforms, strict=True):
            if self.features.num_frames(len(waveform)) == 0:
                raise InputError(f"{file_name(item)} is too short to have a frame; raise data.min_seconds.")
        frames = self.features(waveforms)
        for item, rows in zip(items, frames, strict=True):
            if not rows.isfinite().all():
                raise InputError(f"The features of {file_name(item)} are not finite; choose another encoder or layer.")
        return torch.cat(frames), torch.tensor([len(rows) for rows in frames])

    def _require_room(self, shards: Sequence[Shard]) -> None:
        seconds = sum(self.lengths[shard.split][row] for shard in shards for row in shard.rows)
        needed = seconds * self.features.rate * self.features.size * _BYTES_OF_A_NUMBER
        free = shutil.disk_usage(self.folder.path).free
        if needed > free:
            raise InputError(
                f"The features of {seconds / 3600:.1f} h of recordings take {needed / 1e9:.1f} GB, but "
                f"{self.folder.path} has room for {free / 1e9:.1f} GB; lower fit_fraction or choose another output."
            )
