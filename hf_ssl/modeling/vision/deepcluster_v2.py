"""DeepCluster-v2: each epoch predicts the clusters of the embeddings of the epoch before."""

# B images of this process, V views of each, of which 2 are global, N training images, M clusterings of K_m clusters
# each, K the sum of all K_m, D hidden size, P projection size

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.checks import check_temperatures
from hf_ssl.modeling.blocks.codebook import code_perplexity, nearest_codewords
from hf_ssl.modeling.blocks.image_config import PooledImageConfig
from hf_ssl.modeling.blocks.item_memory import ItemMemory
from hf_ssl.modeling.blocks.lloyd import lloyd, random_directions
from hf_ssl.modeling.blocks.output import SSLOutput
from hf_ssl.modeling.blocks.over_items import OverItems
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.projection import ProjectionHead
from hf_ssl.modeling.blocks.views import (
    EncodedViews,
    check_views,
    encode_multi_crop,
    encode_views,
    ready_image_encoder,
)

NUM_GLOBAL = 2
"""Views whose embeddings are remembered and clustered, in the paper and here."""


@strict
class DeepClusterV2Config(PooledImageConfig):
    """Configuration of DeepCluster-v2; the defaults are the paper's for ImageNet.

    Args:
        encoder_config, pooling: see [`PooledImageConfig`].
        projection_hidden_size (`int`): of the projection head's hidden layer.
        projection_size (`int`): P, of its output.
        num_prototypes (`list[int]`): K_m, one number for each of the M clusterings, which begin differently; the even
            ones cluster the first global view, the odd ones the second.
        temperature (`float`): τ > 0 of the softmax over centroids.
        kmeans_iterations (`int`): of each clustering, at least 1.
        num_items (`int`, *optional*): N, at least every K_m; a run takes it from its data. The model needs it.

    Raises:
        InputError: for values that do not fit together.
    """

    model_type = "deepcluster-v2"

    projection_hidden_size: int = 2048
    projection_size: int = 128
    num_prototypes: list[int] | tuple[int, ...] = (3000, 3000, 3000)
    temperature: float | int = 0.1
    kmeans_iterations: int = 10
    num_items: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_temperatures(self, "temperature")
        if not self.num_prototypes or min(self.num_prototypes) < 2:
            raise InputError(
                f"num_prototypes is {list(self.num_prototypes)}; give one number of at least 2 for each clustering."
            )
        if self.kmeans_iterations < 1:
            raise InputError(f"kmeans_iterations is {self.kmeans_iterations}; give at least 1.")
        if self.num_items is not None and self.num_items < max(self.num_prototypes):
            raise InputError(
                f"num_prototypes is {list(self.num_prototypes)}, but there are {self.num_items} training images; ask "
                "for at most as many clusters."
            )


class DeepClusterV2ForPreTraining(SSLPreTrainedModel):
    """DeepCluster-v2 (Caron et al. 2020, arXiv:2006.09882; the authors' main_deepclusterv2.py).

    `l = -log( exp(zᵀ c_y / τ) / Σ_k exp(zᵀ c_k / τ) )`: z is the normalised projection of a view, c the centroids of
    a spherical k-means, and y the cluster of the view's image; the mean over all V views and M clusterings.

    Before each epoch, the embeddings that the memory holds of every image are clustered M times, and the centroids
    become the prototypes of that epoch: they take no gradient. While it trains, the epoch writes the embeddings of the
    2 global views of each image into the memory, for the next; before the first epoch a pass over all images fills it.

    * An image that has no cluster, since it is no training image or no epoch has begun, is told the cluster that its
      own global view is nearest to.
    * The loss is a mean over images; batch statistics are those of all processes, and of all views jointly.

    Deviations from the authors' code (facebookresearch/swav, main_deepclusterv2.py, commit 06b1b7c): the few images
    that an epoch leaves out keep the embedding of the epoch before, theirs have no label in the next; every process
    holds the whole memory, theirs a share; the hidden layer of the head has no bias, which its batch norm would undo;
    the head's linear layers start as transformers has it.
    """

    config: DeepClusterV2Config
    main_input_name = "pixel_values"
    needs_item_indices = True
    _keep_in_fp32_modules_strict = ["rows", "centroids"]

    assignments: Tensor
    centroids: Tensor

    def __init__(self, config: DeepClusterV2Config) -> None:
        super().__init__(config)
        if config.num_items is None:
            raise InputError("num_items of DeepCluster-v2 is not given; say how many training images there are.")
        ready_image_encoder(self.encoder, "DeepCluster-v2", config.pooling)
        hidden_size = hidden_size_of(self.encoder.config)
        self.projection_head = ProjectionHead([hidden_size, config.projection_hidden_size, config.projection_size])
        self.memory = ItemMemory(config.num_items, NUM_GLOBAL, config.projection_size)
        num_centroids, num_clusterings = sum(config.num_prototypes), len(config.num_prototypes)
        self.register_buffer("centroids", torch.empty(num_centroids, config.projection_size))  # (K, P)
        self.register_buffer("assignments", torch.empty(num_clusterings, config.num_items, dtype=torch.long))  # (M, N)
        self.forget_clusters()
        # DDP would send them from the first process to all others in every forward pass
        self._ddp_params_and_buffers_to_ignore = ["memory.rows", "assignments"]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ItemMemory):
            module.empty()
        if module is self:
            self.forget_clusters()

    @torch.no_grad()
    def forget_clusters(self) -> None:
        """No image has a cluster; random directions stand for centroids."""
        init.copy_(self.centroids, random_directions(*self.centroids.shape))
        init.constant_(self.assignments, -1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        local_pixel_values: Tensor | None = None,
        item_indices: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SSLOutput:
        """The loss of a batch of images.

        Args:
            pixel_values (`Tensor` of shape `(B, 2, C, S, S)`): two global views of each image, normalised as the
                encoder expects.
            local_pixel_values (`Tensor` of shape `(B, V - 2, C, s, s)`, *optional*): local views.
            item_indices (`Tensor` of shape `(B,)`, *optional*): the number of each image among the training images;
                without them the images are others.
            num_items_in_batch (`dict[str, Tensor]`, *optional*): see `count_predictions`: the sum over the images is
                divided by these counts instead of B.
            return_loss (`bool`): not used: there is always a loss; the name tells `Trainer` so.
            kwargs: further arguments of the encoder, such as `output_hidden_states`.

        Returns:
            [`SSLOutput`]: `loss_terms["cluster_prediction"]`; of the first clustering `logits` (B V, K_1) and
            `targets` (B V,), view by view of one image after the other; `features` (B V, D), the encoder's;
            `diagnostics`: `clusters_used`, the perplexity of these targets (at most B).

        Raises:
            InputError: when `pixel_values` is not two views of each image.
        """
        encoded = self.embed(pixel_values, local_pixel_values, **kwargs)
        output = self.compare(encoded, item_indices, num_items_in_batch)
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return output

    def embed(self, pixel_values: Tensor, local_pixel_values: Tensor | None = None, **kwargs: Any) -> EncodedViews:
        """The encoder's part, which knows each image by itself: `features` (B, V, D)."""
        check_views(pixel_values, NUM_GLOBAL, "DeepCluster-v2")
        return encode_multi_crop(self.encoder, pixel_values, local_pixel_values, self.config.pooling, **kwargs)

    def compare(
        self,
        encoded: EncodedViews,
        item_indices: Tensor | None = None,
        num_items_in_batch: dict[str, Tensor] | None = None,
    ) -> SSLOutput:
        """The loss of all the images of a batch, from what [`embed`] gave."""
        assert encoded.features is not None
        z = self.project(encoded.features)  # (B, V, P)
        if self.training and item_indices is not None:
            self.memory.push(item_indices, z[:, :NUM_GLOBAL])
        with torch.autocast(z.device.type, enabled=False):
            logits = (z @ self.centroids.float().T / self.config.temperature).split(
                list(self.config.num_prototypes), 2
            )
            targets = [self.targets(m, of_clustering, item_indices) for m, of_clustering in enumerate(logits)]
            losses = [
                F.cross_entropy(of_clustering.flatten(0, 1), y.flatten(), reduction="none")
                for of_clustering, y in zip(logits, targets, strict=True)
            ]
        total = torch.stack(losses).mean(dim=0).view(z.shape[:2]).mean(dim=1).sum()  # over clusterings, views; images
        counts = {"cluster_prediction": torch.tensor(len(z), device=z.device)}
        loss = total / (num_items_in_batch or counts)["cluster_prediction"]
        return SSLOutput(
            loss=loss,
            loss_terms={"cluster_prediction": loss.detach()},
            num_predictions=counts,
            logits=logits[0].flatten(0, 1).detach(),
            targets=targets[0].flatten(),
            diagnostics={"clusters_used": code_perplexity(targets[0].flatten(), self.config.num_prototypes[0])},
            features=encoded.features.flatten(0, 1).detach(),
        )

    def project(self, features: Tensor) -> Tensor:
        """Embeddings z: (B, V, D) to unit vectors (B, V, P), fp32; all views pass the head as one batch."""
        z = self.projection_head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return F.normalize(z.float(), dim=2)

    def targets(self, clustering: int, logits: Tensor, item_indices: Tensor | None) -> Tensor:
        """The cluster of each image, for all its views: (B, V), from the logits (B, V, K_m) where it has none yet."""
        nearest = logits[:, clustering % NUM_GLOBAL].argmax(dim=1)
        if item_indices is not None:
            known = self.assignments[clustering, item_indices]
            nearest = torch.where(known >= 0, known, nearest)
        return nearest[:, None].expand(logits.shape[:2])

    @staticmethod
    def count_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The number of images."""
        return {"cluster_prediction": torch.tensor(len(batch["pixel_values"]))}

    @torch.no_grad()
    def start_epoch(self, epoch: int, over_items: OverItems, generator: torch.Generator) -> list[nn.Parameter]:
        """Cluster the memory, which a pass over all images fills first, before the first epoch."""
        rows = self.memory.rows
        if epoch == 0:
            rows.copy_(over_items(self._embeddings, augmented=True))
        centroids = []
        for m, num_clusters in enumerate(self.config.num_prototypes):
            vectors = rows[:, m % NUM_GLOBAL].contiguous()  # (N, P)
            chosen = torch.randperm(len(vectors), generator=generator)[:num_clusters].to(vectors.device)
            centroids.append(lloyd(vectors, vectors[chosen], self.config.kmeans_iterations, spherical=True))
            self.assignments[m] = nearest_codewords(vectors, centroids[m])
        self.centroids.copy_(torch.cat(centroids))
        return []

    def _embeddings(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, 2, P) of the global views, in the mode that the model is in: batch norms take the batch's statistics."""
        encoded = encode_views(self.encoder, batch["pixel_values"], self.config.pooling)
        assert encoded.features is not None
        return self.project(encoded.features)

    def after_optimizer_step(self, progress: float) -> None:
        """Take the embeddings of the step into the memory."""
        self.memory.commit()
