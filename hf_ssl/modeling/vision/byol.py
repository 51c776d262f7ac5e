"""BYOL: from one view of an image, predict what a slowly following teacher makes of another."""

# B images of this process, C x H x W pixels, D hidden size, P projection size

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from hf_ssl.modeling.blocks.checks import check_shares
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.similarity import cosine, direction_spread
from hf_ssl.modeling.blocks.student_teacher import MomentumEncoderPreTrainedModel
from hf_ssl.modeling.blocks.teacher import cosine_decay, follow, make_teacher
from hf_ssl.modeling.blocks.two_views import TwoViewPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, check_views, encode_each_view, ready_image_encoder


@strict
class BYOLConfig(PooledImageConfig):
    """Configuration of BYOL; the defaults are the paper's for ImageNet and 1,000 epochs.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        projection_hidden_size (`int`): of the projector's hidden layer.
        projection_size (`int`): P, of the projector's output and of the predictor's.
        prediction_hidden_size (`int`): of the predictor's hidden layer.
        ema_decay (`float`): τ in [0, 1] at the beginning of the training, from where it rises to 1. The authors take
            .996 for 1,000 epochs, .99 for 300 and 100, .97 for 40.

    Raises:
        InputError: for values out of range.
    """

    model_type = "byol"

    projection_hidden_size: int = 4096
    projection_size: int = 256
    prediction_hidden_size: int = 4096
    ema_decay: float | int = 0.996

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_shares(self, "ema_decay")


class BYOLForPreTraining(MomentumEncoderPreTrainedModel, TwoViewPreTrainedModel):
    """Bootstrap your own latent (Grill et al. 2020, arXiv:2006.07733).

    `L = ‖q̄_θ(z_θ) − z̄'_ξ‖² = 2 − 2 cos(q_θ(z_θ), z'_ξ)` (Eq. 2), `z_θ = g_θ(f_θ(v))`, `z'_ξ = g_ξ(f_ξ(v'))`: f the
    encoder, g the projector, q the predictor, v and v' two views of one image, a bar for unit length. The loss is the
    mean over the images of `L + L̃`, where L̃ has the views exchanged; it lies in [0, 8]. The teacher ξ (encoder and
    projector) takes no gradient; after each step `ξ ← τ ξ + (1 − τ) θ` (Eq. 1), with τ rising to 1 as half a cosine.
    Downstream one uses f_θ.

    * Each view passes by itself, so that batch normalisation sees one view at a time; its statistics are those of all
      processes. The teacher's batch norms, too, normalise by the batch they are given.
    * Projector and predictor are the authors' (deepmind-research/byol, commit f5de0ed): a linear layer with bias, a
      batch norm, ReLU, a linear layer without bias.

    Deviations: the teacher starts as a copy of the student, the authors' from weights of its own; the heads' linear
    layers start from N(0, 0.02²), the authors' from a truncated normal of variance 1 / inputs, a scale that the
    normalisations take away; a ResNet's blocks start as transformers has them, the authors' with the scale of their
    last batch norm at 0; the authors train a linear classifier beside it for their own monitoring.
    """

    config: BYOLConfig
    title = "BYOL"
    _keep_in_fp32_modules_strict = ["teacher"]

    def __init__(self, config: BYOLConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, self.title, config.pooling)
        self.projection_head = ProjectionHead(
            [hidden_size_of(self.encoder.config), config.projection_hidden_size, config.projection_size],
            hidden_bias=True,
            last_bias=False,
        )
        self.prediction_head = ProjectionHead(
            [config.projection_size, config.prediction_hidden_size, config.projection_size],
            hidden_bias=True,
            last_bias=False,
        )
        self.teacher = make_teacher(self.student)
        self.post_init()
        self.synchronise_teacher()  # the head has its weights only now
        self.train()

    def embed(self, pixel_values: Tensor, **kwargs: Any) -> EncodedViews:
        """The encoders' part, which knows each image by itself: `features` and `teacher_features` (B, 2, D)."""
        check_views(pixel_values, 2, self.title)
        encoded = encode_each_view(self.encoder, pixel_values, self.config.pooling, **kwargs)
        with torch.no_grad():
            encoded_by_teacher = encode_each_view(self.teacher["encoder"], pixel_values.float(), self.config.pooling)
        encoded.teacher_features = encoded_by_teacher.features
        return encoded

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave.

        Returns:
            [`SSLOutput`]: `loss_terms["regression"]`; `diagnostics` `prediction_spread` and `projection_spread` (the
            teacher's), see [`direction_spread`]; `features` (2B, D), the encoder's output.
        """
        assert encoded.features is not None
        assert encoded.teacher_features is not None
        z = self.projection_head.each_view(encoded.features.transpose(0, 1))  # (2, B, P)
        q_1, q_2 = self.prediction_head.each_view(z)
        with torch.no_grad():
            z_1, z_2 = self.teacher["projection_head"].each_view(encoded.teacher_features.transpose(0, 1))
        loss = 4 - 2 * (cosine(q_1, z_2) + cosine(q_2, z_1)).mean()  # Eq. 2, both ways
        return SSLOutput(
            loss=loss,
            loss_terms={"regression": loss.detach()},
            num_predictions={},
            diagnostics={"prediction_spread": direction_spread(q_1), "projection_spread": direction_spread(z_1)},
            features=encoded.features.detach().transpose(0, 1).flatten(0, 1),
        )

    def after_optimizer_step(self, progress: float) -> None:
        """Move the teacher towards the student (Eq. 1).

        Args:
            progress (`float`): share of the training that is done, in [0, 1].
        """
        decay = cosine_decay(progress, self.config.ema_decay)
        follow(self.teacher, self.student, decay, copy_buffers=False)
