"""Discrete targets without any training: a random projection to the nearest entry of a random codebook."""

# N vectors, I numbers of a vector, H dimensions of a code, V codes of a codebook, C codebooks

import math

import torch
from torch import Tensor, nn


class RandomProjectionQuantizer(nn.Module):
    """The frozen quantisers of BEST-RQ (Chiu et al. 2022, arXiv:2202.01855, section 3).

    `y = argmin_v ‖ norm(c_v) − norm(A x) ‖`, with A from Xavier's distribution and codes c_v from N(0, 1), both fixed.
    Between unit vectors the nearest is the one of greatest cosine, and the length of A x changes no order, so
    `y = argmax_v norm(c_v)ᵀ A x`: a matrix product, where the differences would be a tensor of (N, V, H).

    Both are buffers, saved with the model, and known by the seed alone. A model that holds one has to fill it again in
    its `_init_weights` with [`drawn`], since transformers builds models without values, and to keep it in fp32
    (`_keep_in_fp32_modules_strict`): rounded codes are others.

    Args:
        input_size (`int`): I.
        code_size (`int`): H.
        num_codes (`int`): V.
        num_codebooks (`int`): C, each with its own projection.
        seed (`int`): of A and the codebooks.
    """

    projection: Tensor
    codebook: Tensor

    def __init__(self, input_size: int, code_size: int, num_codes: int, num_codebooks: int, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("projection", torch.empty(num_codebooks, input_size, code_size))
        self.register_buffer("codebook", torch.empty(num_codebooks, num_codes, code_size))
        projection, codebook = self.drawn()
        self.projection.copy_(projection)
        self.codebook.copy_(codebook)

    def drawn(self) -> tuple[Tensor, Tensor]:
        """A (C, I, H) and the unit codes (C, V, H) that belong to the seed, on the CPU."""
        generator = torch.Generator().manual_seed(self.seed)
        input_size, code_size = self.projection.shape[1:]
        projection = torch.randn(self.projection.shape, generator=generator, device="cpu")
        codebook = torch.randn(self.codebook.shape, generator=generator, device="cpu")
        scale = math.sqrt(2 / (input_size + code_size))  # Xavier's; no code depends on it
        return projection * scale, nn.functional.normalize(codebook, dim=-1)

    @torch.no_grad()
    def forward(self, vectors: Tensor) -> Tensor:
        """The codes of vectors.

        Args:
            vectors (`Tensor` of shape `(N, I)`): of mean 0 and variance 1: without it most of them have one code.

        Returns:
            `Tensor` of shape `(N, C)`, int64 in 0 … V − 1; computed in fp32, even under autocast.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            projected = torch.einsum("ni,cih->cnh", vectors.float(), self.projection)
            return (projected @ self.codebook.mT).argmax(dim=-1).T
