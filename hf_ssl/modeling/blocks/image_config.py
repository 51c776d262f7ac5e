"""What the configs of the objectives of images have in common."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_ssl.modeling.blocks.pooling import check_pooling, hidden_size_of
from hf_ssl.modeling.blocks.pretrained import SSLConfig


@strict
class ImageSSLConfig(SSLConfig):
    """Config of an objective of images: its encoder sees what the objective shows it."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        assert isinstance(self.encoder_config, PreTrainedConfig)
        if "mask_ratio" in self.encoder_config.to_dict():  # ViT-MAE else leaves a random part of the patches out
            self.encoder_config.mask_ratio = 0.0


@strict
class PooledImageConfig(ImageSSLConfig):
    """Config of an objective that makes one vector of a whole image.

    Args:
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): any transformers image encoder whose last layer is a
            feature map or a sequence (ResNet, ConvNext, ViT, DINOv2, Swin ...); by default ResNet-50.
        pooling (`str`): how the encoder's last layer becomes one vector: `"mean"` over all positions, or `"cls"`, the
            class token.

    Raises:
        InputError: for an unknown pooling.
    """

    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet")}

    pooling: str = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_pooling(self.pooling)

    def perceptron_sizes(self, num_layers: int, hidden_size: int | None, output_size: int) -> list[int]:
        """Dimensions, from input to output, of a perceptron that reads the encoder's vector.

        Args:
            num_layers (`int`): linear layers, at least 1.
            hidden_size (`int`, *optional*): of all hidden layers; by default that of the encoder.
            output_size (`int`): of the last layer.
        """
        input_size = hidden_size_of(self.encoder_config)
        return [input_size, *[hidden_size or input_size] * (num_layers - 1), output_size]
