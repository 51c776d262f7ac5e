"""VICReg: two views of an image agree, each dimension varies, and different dimensions do not vary together."""

# B images of this process, N images of all processes, C x H x W pixels, D hidden size, P projection size

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.decorrelation import off_diagonal_squares
from hf_ssl.modeling.blocks.gather import gather_with_gradient
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.two_views import TwoViewPreTrainedModel
from hf_ssl.modeling.blocks.views import EncodedViews, ready_image_encoder

TARGET_STD = 1.0
"""γ: the standard deviation below which a dimension is pushed apart."""
EPSILON = 1e-4
"""ε: added to a variance before its root."""


@strict
class VICRegConfig(PooledImageConfig):
    """Configuration of VICReg; the defaults are the authors' for ImageNet.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        num_projection_layers (`int`): linear layers of the projector (the paper's expander), at least 1.
        projection_hidden_size (`int`): of its hidden layers.
        projection_size (`int`): P, of its output.
        invariance_weight (`float`): λ ≥ 0.
        variance_weight (`float`): μ ≥ 0.
        covariance_weight (`float`): ν ≥ 0.
        halve_variance (`bool`): the variance term is the mean of the two views' and not their sum. The authors' code
            has the mean; the sum is what the paper's Eq. 6 and solo-learn have.

    Raises:
        InputError: for values out of range.
    """

    model_type = "vicreg"

    num_projection_layers: int = 3
    projection_hidden_size: int = 8192
    projection_size: int = 8192
    invariance_weight: float | int = 25.0
    variance_weight: float | int = 25.0
    covariance_weight: float | int = 1.0
    halve_variance: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_projection_layers < 1:
            raise InputError(f"num_projection_layers is {self.num_projection_layers}; the projector needs at least 1.")
        for name in ("invariance_weight", "variance_weight", "covariance_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 0.")

    @property
    def projection_sizes(self) -> list[int]:
        """Dimensions of the projector from input to output."""
        return self.perceptron_sizes(self.num_projection_layers, self.projection_hidden_size, self.projection_size)


class VICRegForPreTraining(TwoViewPreTrainedModel):
    """Variance-invariance-covariance regularisation (Bardes et al. 2021, arXiv:2105.04906).

    `L = λ s(Z, Z') + μ [v(Z) + v(Z')] + ν [c(Z) + c(Z')]` (Eq. 6), Z and Z' the projections of two views of N images:

    * invariance `s = Σ_n ‖z_n − z'_n‖² / (N P)`;
    * variance `v(Z) = Σ_j max(0, γ − √(Var(z^j) + ε)) / P` (Eqs. 1 and 2), which keeps all images from one point;
    * covariance `c(Z) = Σ_{i ≠ j} C(Z)_ij² / P`, `C(Z) = Σ_n (z_n − z̄)(z_n − z̄)ᵀ / (N − 1)` (Eqs. 3 and 4), which
      keeps the dimensions from saying the same.

    Downstream one uses the encoder. As in the authors' code (facebookresearch/vicreg, commit 4e12602):

    * Variances and covariances are over the images of all processes, with gradient; invariance is a mean over each
      process's own.
    * s is divided by P too, which the paper's Eq. 5 does not do, but its code and pseudo-code do.
    * `v(Z) + v(Z')` is halved, see `halve_variance`.
    * The projector's hidden layers have a bias and a batch norm, its output neither.
    * Each view passes by itself, so that batch normalisation sees one view at a time; its statistics are those of all
      processes.

    Deviations: linear layers start from N(0, 0.02²) instead of PyTorch's uniform distribution, so that projections of
    8,192 dimensions start with a standard deviation of about 1.3 instead of .4; a ResNet's blocks start as
    transformers has them, the authors' with the scale of their last batch norm at 0.
    """

    config: VICRegConfig
    title = "VICReg"

    def __init__(self, config: VICRegConfig) -> None:
        super().__init__(config)
        ready_image_encoder(self.encoder, self.title, config.pooling)
        self.projection_head = ProjectionHead(config.projection_sizes, hidden_bias=True, last_bias=False)
        self.post_init()

    def compare(self, encoded: EncodedViews) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave.

        Needs more than one image over all processes.

        Returns:
            [`SSLOutput`]: `loss_terms` `invariance`, `variance` and `covariance` without their weights;
            `diagnostics["projection_std"]`, the mean of `√(Var + ε)`, near γ = 1 when healthy; `features` (2B, D), the
            encoder's output.
        """
        assert encoded.features is not None
        config = self.config
        z_1, z_2 = self.projection_head.each_view(encoded.features.transpose(0, 1)).float()  # (B, P) each
        with torch.autocast(z_1.device.type, enabled=False):
            invariance = F.mse_loss(z_1, z_2)
            centred = [_centred(gather_with_gradient(z)) for z in (z_1, z_2)]  # (N, P) each
            stds = torch.stack([_std(z) for z in centred])  # (2, P)
            variance = F.relu(TARGET_STD - stds).mean(dim=1).sum()
            if config.halve_variance:
                variance = variance / 2
            covariance = _covariance_term(centred[0]) + _covariance_term(centred[1])
        loss = (
            config.invariance_weight * invariance
            + config.variance_weight * variance
            + config.covariance_weight * covariance
        )
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return SSLOutput(
            loss=loss,
            loss_terms={name: term.detach() for name, term in terms.items()},
            num_predictions={},
            diagnostics={"projection_std": stds.detach().mean()},
            features=encoded.features.detach().transpose(0, 1).flatten(0, 1),
        )


def _centred(z: Tensor) -> Tensor:
    return z - z.mean(dim=0)


def _std(centred: Tensor) -> Tensor:
    """S (P,) of Eq. 2."""
    return torch.sqrt(centred.square().sum(dim=0) / (len(centred) - 1) + EPSILON)


def _covariance_term(centred: Tensor) -> Tensor:
    """`c` (scalar) of Eq. 4."""
    num_rows, size = centred.shape
    return off_diagonal_squares(centred, centred) / (num_rows - 1) ** 2 / size
