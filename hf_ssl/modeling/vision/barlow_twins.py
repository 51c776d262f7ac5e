"""Barlow Twins: each dimension agrees with itself in two views of an image, and with no other dimension."""

# B images of this process, N images of all processes, C x H x W pixels, D hidden size, P projection size

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.batch_norm import JointBatchNorm1d
from hf_ssl.modeling.blocks.decorrelation import diagonal_of_product, off_diagonal_squares
from hf_ssl.modeling.blocks.gather import gather_with_gradient
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.two_views import TwoViewPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, ready_image_encoder


@strict
class BarlowTwinsConfig(PooledImageConfig):
    """Configuration of Barlow Twins; the defaults are the authors' for ImageNet.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        num_projection_layers (`int`): linear layers of the projector, at least 1.
        projection_hidden_size (`int`): of its hidden layers.
        projection_size (`int`): P, of its output.
        redundancy_weight (`float`): λ ≥ 0 of the off-diagonal terms: .0051 in the authors' code, .005 in the paper.
        scale_loss (`float`): > 0, times which the whole loss is taken; AdamW and the matrices of LARS do not see it.

    Raises:
        InputError: for values out of range.
    """

    model_type = "barlow-twins"

    num_projection_layers: int = 3
    projection_hidden_size: int = 8192
    projection_size: int = 8192
    redundancy_weight: float | int = 0.0051
    scale_loss: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_projection_layers < 1:
            raise InputError(f"num_projection_layers is {self.num_projection_layers}; the projector needs at least 1.")
        if self.redundancy_weight < 0:
            raise InputError(f"redundancy_weight is {self.redundancy_weight}; it must be at least 0.")
        if self.scale_loss <= 0:
            raise InputError(f"scale_loss is {self.scale_loss}; it must be above 0.")

    @property
    def projection_sizes(self) -> list[int]:
        """Dimensions of the projector from input to output."""
        return self.perceptron_sizes(self.num_projection_layers, self.projection_hidden_size, self.projection_size)


class BarlowTwinsForPreTraining(TwoViewPreTrainedModel):
    """Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): self-supervised learning via redundancy reduction.

    `L = Σ_i (1 − C_ii)² + λ Σ_i Σ_{j ≠ i} C_ij²` (Eq. 1), `C_ij = Σ_b z^A_{b,i} z^B_{b,j} / N` (Eq. 2), z^A and z^B
    being the projections of two views, each dimension with mean 0 and variance 1 over the N images of all processes:
    C is their cross-correlation, from −1 to 1. Downstream one uses the encoder.

    * The normalisation is a module (`correlation_norm`, without scale and shift) over the joint batch of all
      processes, whose rows C is made of. Where it is made anew in each call, as elsewhere, nothing can join it.
    * Gathering these rows passes the gradient on, so that the mean over processes that `DistributedDataParallel`
      takes is the gradient of the loss above. The authors' code (facebookresearch/barlowtwins, commit 8e8d284) sums
      in place with `all_reduce`, whose backward pass is none: each process has the gradient of its own rows alone, and
      their mean is 1/R of the loss's, R being the number of processes. LARS does not see that in matrices; for biases
      and norms, whose step is not scaled, a learning rate of the authors' corresponds to 1/R of it here.
    * Each view passes by itself, so that batch normalisation sees one view at a time; its statistics are those of all
      processes.

    In evaluation mode the running statistics normalise, and C is a correlation only as far as they fit the batch.

    Deviations: linear layers start from N(0, 0.02²) instead of PyTorch's uniform distribution, which the norms undo; a
    ResNet's blocks start as transformers has them, the authors' with the scale of their last batch norm at 0.
    """

    config: BarlowTwinsConfig
    title = "Barlow Twins"
    _keep_in_fp32_modules_strict = ["correlation_norm"]

    def __init__(self, config: BarlowTwinsConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, self.title, config.pooling)
        self.projection_head = ProjectionHead(config.projection_sizes, last_bias=False)
        self.correlation_norm = JointBatchNorm1d(config.projection_size, affine=False)
        self.post_init()

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave.

        Returns:
            [`SSLOutput`]: `loss_terms` `invariance` and `redundancy`, both without their weights; `features` (2B, D),
            the encoder's output.
        """
        assert encoded.features is not None
        z_1, z_2 = self.projection_head.each_view(encoded.features.transpose(0, 1))  # (B, P) each
        with torch.autocast(z_1.device.type, enabled=False):
            z_1, z_2 = self.normalised(z_1.float()), self.normalised(z_2.float())  # (N, P) each; C = z_1ᵀ z_2 / N
            num_images = len(z_1)
            invariance = (1 - diagonal_of_product(z_1, z_2) / num_images).square().sum()
            redundancy = off_diagonal_squares(z_1, z_2) / num_images**2
        loss = self.config.scale_loss * (invariance + self.config.redundancy_weight * redundancy)
        return SSLOutput(
            loss=loss,
            loss_terms={"invariance": invariance.detach(), "redundancy": redundancy.detach()},
            num_predictions={},
            features=encoded.features.detach().transpose(0, 1).flatten(0, 1),
        )

    def normalised(self, z: Tensor) -> Tensor:
        """The projections (B, P) of one view, each dimension with mean 0 and variance 1: (N, P), of all processes."""
        return gather_with_gradient(self.correlation_norm(z))
