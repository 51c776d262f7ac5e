import pytest
from transformers import AutoModel, ViTImageProcessorPil

from hf_ssl.cli.pretrain import read_pretraining
from hf_ssl.modeling.vision.masked_patch import MaskedPatchConfig
from hf_ssl.trainers.run import pretrain
from tests.tiny_vision import vit

MEAN, SCALE = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


@pytest.mark.parametrize(("normalises", "expected"), [(True, (MEAN, SCALE)), (False, ([0.0] * 3, [1.0] * 3))])
def test_an_objective_of_colours_is_told_how_pixels_are_normalised(normalises, expected, tmp_path):
    AutoModel.from_config(vit()).save_pretrained(tmp_path / "encoder")
    size = {"height": 16, "width": 16}
    processor = ViTImageProcessorPil(size=size, image_mean=MEAN, image_std=SCALE, do_normalize=normalises)
    processor.save_pretrained(tmp_path / "encoder")
    overrides = [
        f"model.from_encoder={tmp_path / 'encoder'}",
        "model.encoder_config=null",
        "data.image_size=16",
        "data.max_train_items=16",
        f"training.output_dir={tmp_path / 'out'}",
        "training.max_steps=1",
        "training.per_device_train_batch_size=8",
        "training.use_cpu=true",
    ]
    output = pretrain(read_pretraining("masked_patch_emoji", overrides), command="hf-ssl pretrain")
    config = MaskedPatchConfig.from_pretrained(output / "pretraining")
    assert (config.pixel_mean, config.pixel_scale) == expected
