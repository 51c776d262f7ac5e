"""Shards: random parts of a split, and files that are whole or not there."""

import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.trainers.shards import FeaturesOnDisk, ShardFolder, cut, require_same, write_whole


def test_every_recording_is_in_one_shard():
    lengths = [60.0, 10.0, 200.0, 90.0, 30.0] * 20
    shards = cut("train", lengths, seed=0)
    rows = [row for shard in shards for row in shard.rows]
    assert sorted(rows) == list(range(100))
    assert rows != sorted(rows)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    seconds = [sum(lengths[row] for row in shard.rows) for shard in shards]
    assert all(300 <= length < 500 for length in seconds[:-1])


def test_the_order_is_the_seeds():
    assert cut("train", [100.0] * 30, seed=1) == cut("train", [100.0] * 30, seed=1)
    assert cut("train", [100.0] * 30, seed=1) != cut("train", [100.0] * 30, seed=2)


def test_what_is_saved_is_not_missing(tmp_path):
    shards = cut("train", [200.0] * 6, seed=0)
    folder = ShardFolder(tmp_path / "shards", {"seed": 0})
    assert folder.missing("features", shards) == shards
    folder.save("features", shards[1], {"features": torch.ones(3, 2)})
    again = ShardFolder(tmp_path / "shards", {"seed": 0})
    assert again.missing("features", shards) == [shards[0], shards[2]]
    assert again.missing("units", shards) == shards
    assert FeaturesOnDisk(again, shards[1:])[0].equal(torch.ones(3, 2))
    again.remove()
    assert not (tmp_path / "shards").exists()


def test_a_folder_of_other_work(tmp_path):
    ShardFolder(tmp_path / "shards", {"seed": 0})
    with pytest.raises(InputError, match="made with seed 0, not 1"):
        ShardFolder(tmp_path / "shards", {"seed": 1})


def test_a_difference_is_named(tmp_path):
    require_same({"a": 1, "b": 2}, {"a": 1, "b": 2}, tmp_path)
    with pytest.raises(InputError, match="made with b 2, not 3"):
        require_same({"a": 1, "b": 2}, {"a": 1, "b": 3}, tmp_path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "file.json"
    file.write_text("old")

    def fail(staged):
        staged.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"file\.json could not be written .*No space left"):
        write_whole(file, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    assert file.read_text() == "old"
