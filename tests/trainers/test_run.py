import pytest

from hf_ssl.data.arguments import ImageDataArguments
from hf_ssl.errors import InputError
from hf_ssl.modeling import objective
from hf_ssl.modeling.vision.simclr import SimCLRForPreTraining
from hf_ssl.trainers.arguments import SSLTrainingArguments
from hf_ssl.trainers.run import PreTrainingRun, _prepare_data, pretrain


def run_of(tmp_path, **data):
    return PreTrainingRun(
        objective="simclr",
        model={},
        data=ImageDataArguments(path="sample:emoji", image_size=32, **data),
        training=SSLTrainingArguments(output_dir=str(tmp_path / "out"), max_steps=1),
    )


def test_objectives_without_use_for_local_views_are_given_none(tmp_path):
    run = run_of(tmp_path, augmentation="dino_small", local_image_size=16)
    with pytest.raises(InputError, match="dino_small makes local views, of which SimCLR has no use; choose a preset"):
        pretrain(run, command="")


def test_numbers_of_items_are_for_objectives_that_need_them(tmp_path, monkeypatch):
    run = run_of(tmp_path, augmentation="simclr_small")
    without = _prepare_data(run, objective("simclr"))
    assert "item_indices" not in without.collator([without.train[3]])
    assert "num_items" not in without.config_updates
    monkeypatch.setattr(SimCLRForPreTraining, "needs_item_indices", True)
    data = _prepare_data(run, objective("simclr"))
    assert data.collator([data.train[3]])["item_indices"].tolist() == [3]
    assert data.config_updates["num_items"] == len(data.train)
    run.data.streaming = True
    with pytest.raises(InputError, match=r"set data\.streaming=false"):
        _prepare_data(run, objective("simclr"))
