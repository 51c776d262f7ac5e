"""A Vision Transformer with timm's names, written from its definition (Dosovitskiy et al. 2021, eq. 1-4)."""

from typing import Any

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Each head by itself: rows h·d to (h+1)·d of the query's, the key's and the value's third."""
        dim = x.shape[-1]
        size = dim // self.num_heads
        together = self.qkv(x)
        heads = []
        for head in range(self.num_heads):
            query, key, value = (
                together[..., third * dim + head * size : third * dim + (head + 1) * size] for third in range(3)
            )
            scores = torch.einsum("bnd,bmd->bnm", query, key) / size**0.5
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append(torch.einsum("bnm,bmd->bnd", weights, value))
        return self.proj(torch.cat(heads, dim=-1))


class MLP(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * 0.5 * (1 + torch.erf(x / 2**0.5)))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias)
        self.mlp = MLP(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class LayerNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weight + self.bias


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)


class ViT(nn.Module):
    def __init__(
        self,
        *,
        image_size: int = 16,
        patch_size: int = 4,
        dim: int = 128,
        depth: int = 2,
        num_heads: int = 2,
        mlp_ratio: int = 3,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // patch_size) ** 2, dim))
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, qkv_bias=qkv_bias) for _ in range(depth))
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the normalised tokens (B, 1 + N, D), patch after patch in the rows of the image."""
        size, kernel = self.patch_size, self.patch_embed.proj.weight.flatten(1)
        rows, columns = x.shape[2] // size, x.shape[3] // size
        tokens = [self.cls_token.expand(len(x), 1, -1)]
        for row in range(rows):
            for column in range(columns):
                patch = x[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size]
                tokens.append((patch.flatten(1) @ kernel.T + self.patch_embed.proj.bias)[:, None])
        hidden = torch.cat(tokens, dim=1) + self.pos_embed
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)


def vit(**sizes: Any) -> ViT:
    """With random weights, of which no two are alike, that let the tokens differ."""
    generator = torch.Generator().manual_seed(0)
    model = ViT(**sizes)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            scale = weight[0].numel() ** -0.5 if weight.ndim in (2, 4) else 0.3
            weight.copy_(scale * drawn + (1 if "norm" in name and name.endswith("weight") else 0))
    return model.eval()
