"""DeepCluster: cluster the features of all images, predict the clusters, and begin again."""

# B images of this process, N training images, K clusters, D hidden size, P principal components

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.codebook import code_perplexity, nearest_codewords
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.lloyd import lloyd, random_directions
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.over_items import OverItems
from hf_ssl.modeling.blocks.pooling import hidden_size_of, pool
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.views import check_squares, interpolation, ready_image_encoder
from hf_ssl.modeling.blocks.whitening import whitening

CLASSIFIER_STD = 0.01
"""Of the classifier's weights when an epoch begins, in the authors' code."""


@strict
class DeepClusterConfig(PooledImageConfig):
    """Configuration of DeepCluster; the defaults are the paper's for ImageNet.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        num_clusters (`int`): K, at least 2.
        num_components (`int`): P: features are projected on so many principal components before they are clustered, or
            on all D where there are fewer.
        kmeans_iterations (`int`): of each clustering, at least 1.
        num_items (`int`, *optional*): N, at least K; a run takes it from its data. The model needs it.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "deepcluster"

    num_clusters: int = 10_000
    num_components: int = 256
    kmeans_iterations: int = 20
    num_items: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, least in (("num_clusters", 2), ("num_components", 1), ("kmeans_iterations", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}.")
        if self.num_items is not None and self.num_items < self.num_clusters:
            raise InputError(
                f"num_clusters is {self.num_clusters}, but there are {self.num_items} training images; ask for at "
                "most as many clusters."
            )


class DeepClusterForPreTraining(SSLPreTrainedModel):
    """Deep clustering for unsupervised learning of visual features (Caron et al. 2018, arXiv:1807.05520).

    Two problems in turn: `min_C 1/N Σ_n min_y |f(x_n) - C y|²` (Eq. 2) gives the pseudo-labels y, and
    `min_θ,W 1/N Σ_n l(g_W(f_θ(x_n)), y_n)` (Eq. 1) learns to predict them: f the encoder, g_W a linear classifier, l
    the cross entropy.

    Before each epoch:

    * the features of all images, as the encoder's preprocessor gives them and in evaluation mode, are projected on
      P principal components, whitened and brought to length 1 ("implementation details");
    * k-means begins anew at random features; an empty cluster takes half of a large one ("avoiding trivial
      solutions");
    * images are drawn such that all clusters come equally often (likewise);
    * the classifier begins anew, since clusters have no order.

    An image that has no cluster, since it is no training image or no epoch has begun, is told the one whose centroid
    its features are nearest to. The loss is a mean over images.

    Deviations from the authors' code (facebookresearch/deepcluster, commit 2d1927e): any encoder with pooled features,
    where theirs are AlexNet and VGG-16 with two hidden layers and dropout before the classifier, whose last ReLU the
    clustering leaves out; colours, where their networks see the Sobel gradients of grey images, since the encoder is
    to read images as its preprocessor gives them; the classifier has the optimiser of the encoder, which forgets it
    each epoch, theirs has one without momentum; of clusters that get empty together, each splits another of the
    largest, where faiss draws them in proportion to their size; components of less than 1e-6 of the largest variance
    are left out.
    """

    config: DeepClusterConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["feature_mean", "whitening_matrix", "centroids"]
    needs_item_indices = True

    assignments: Tensor
    centroids: Tensor
    feature_mean: Tensor
    whitening_matrix: Tensor

    def __init__(self, config: DeepClusterConfig) -> None:
        super().__init__(config)
        if config.num_items is None:
            raise InputError("num_items of DeepCluster is not given; say how many training images there are.")
        ready_image_encoder(self.encoder, "DeepCluster", config.pooling)
        hidden_size = hidden_size_of(self.encoder.config)
        num_components = min(config.num_components, hidden_size)
        self.classifier = nn.Linear(hidden_size, config.num_clusters)
        self.register_buffer("feature_mean", torch.empty(hidden_size))
        self.register_buffer("whitening_matrix", torch.empty(hidden_size, num_components))
        self.register_buffer("centroids", torch.empty(config.num_clusters, num_components))
        self.register_buffer("assignments", torch.empty(config.num_items, dtype=torch.long))
        self.forget_clusters()
        # DDP would send them from the first process to all others in every forward pass
        self._ddp_params_and_buffers_to_ignore = ["assignments", "centroids", "feature_mean", "whitening_matrix"]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            self.forget_clusters()

    @torch.no_grad()
    def forget_clusters(self) -> None:
        """No image has a cluster; random directions stand for centroids."""
        init.zeros_(self.feature_mean)
        init.copy_(self.whitening_matrix, torch.eye(*self.whitening_matrix.shape, device="cpu"))
        init.copy_(self.centroids, random_directions(*self.centroids.shape))
        init.constant_(self.assignments, -1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        item_indices: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images.

        Args:
            pixel_values (`Tensor` of shape `(B, C, S, S)`): one view of each image, normalised as the encoder expects.
            item_indices (`Tensor` of shape `(B,)`, *optional*): the number of each image among the training images;
                without them the images are others.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): see `count_predictions`: the sum over the images is
                divided by these counts instead of B.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms["cluster_prediction"]`; `logits` (B, K) and `targets` (B,), the pseudo-labels;
            `features` (B, D), the encoder's; `diagnostics`: `clusters_used`, the perplexity of the pseudo-labels (at
            most B).

        Raises:
            InputError: when `pixel_values` is not one square image an item.
        """
        check_squares(pixel_values, "DeepCluster")
        encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values), **kwargs)
        features = pool(encoded.last_hidden_state, self.config.pooling)  # (B, D)
        logits = self.classifier(features).float()
        targets = self.pseudo_labels(features, item_indices)
        counts = {"cluster_prediction": torch.tensor(len(logits), device=logits.device)}
        loss = F.cross_entropy(logits, targets, reduction="sum")
        loss = loss / (num_items_in_batch or counts)["cluster_prediction"]
        return SSLOutput(
            loss=loss,
            loss_terms={"cluster_prediction": loss.detach()},
            num_predictions=counts,
            logits=logits.detach(),
            targets=targets,
            diagnostics={"clusters_used": code_perplexity(targets, self.config.num_clusters)},
            features=features.detach(),
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )

    @torch.no_grad()
    def pseudo_labels(self, features: Tensor, item_indices: Tensor | None) -> Tensor:
        """The cluster of each image: (B,), from its features (B, D) where it has none yet."""
        with torch.autocast(features.device.type, enabled=False):
            nearest = nearest_codewords(self.whitened(features.float()), self.centroids)
        if item_indices is None:
            return nearest
        known = self.assignments[item_indices]
        return torch.where(known >= 0, known, nearest)

    def whitened(self, features: Tensor) -> Tensor:
        """What is clustered: features (B, D) to unit vectors (B, P)."""
        return F.normalize((features - self.feature_mean) @ self.whitening_matrix, dim=1)

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The number of images."""
        return {"cluster_prediction": torch.tensor(len(batch["pixel_values"]))}

    @torch.no_grad()
    def start_epoch(self, epoch: int, over_items: OverItems, generator: torch.Generator) -> list[nn.Parameter]:
        """Cluster all images, and let the classifier begin anew."""
        was_training = self.training
        self.eval()
        features = over_items(self._features, augmented=False)  # (N, D), on the CPU
        self.train(was_training)
        mean, matrix = whitening(features, self.whitening_matrix.shape[1], self.device)
        self.feature_mean.copy_(mean)
        self.whitening_matrix.copy_(matrix)
        vectors = torch.cat([self.whitened(part.to(self.device)) for part in features.split(2**14)])
        chosen = torch.randperm(len(vectors), generator=generator)[: self.config.num_clusters].to(vectors.device)
        iterations = self.config.kmeans_iterations
        self.centroids.copy_(lloyd(vectors, vectors[chosen], iterations, split_empty=True))
        self.assignments.copy_(nearest_codewords(vectors, self.centroids))
        weight = torch.empty(self.classifier.weight.shape).normal_(std=CLASSIFIER_STD, generator=generator)
        self.classifier.weight.copy_(weight)
        self.classifier.bias.zero_()
        return list(self.classifier.parameters())

    def _features(self, batch: dict[str, Tensor]) -> Tensor:
        """f(x): (B, D)."""
        pixel_values = batch["pixel_values"]
        encoded = self.encoder(pixel_values=pixel_values, **interpolation(self.encoder, pixel_values))
        return pool(encoded.last_hidden_state, self.config.pooling)

    def item_repeats(self) -> Tensor | None:
        """`N / (K' n_k)` for an image in a cluster of n_k, so that each of the K' clusters that have images comes
        equally often.
        """
        sizes = torch.bincount(self.assignments.clamp_min(0), minlength=self.config.num_clusters)
        return len(self.assignments) / ((sizes > 0).sum() * sizes[self.assignments.clamp_min(0)].double())
