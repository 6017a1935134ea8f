"""Embeddings: image patches as tokens; timestep, pooled text, size and style as one vector.

S steps, B batch, N image tokens, L text tokens, D width, T text width; latents are B C Y X.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dianjing.errors import DianjingError

SINUSOIDAL_DIM = 256
NUM_IMAGE_META_SIZES = 6  # original height and width, crop top and left, target height and width
NUM_POOL_HEADS = 8


def sinusoidal_embedding(t: Tensor, dim: int = SINUSOIDAL_DIM) -> Tensor:
    """Embed numbers t (...,) as cosines, then sines, at dim / 2 frequencies from 1 down to 1e-4: float32 (..., dim)."""
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=t.device) / (dim // 2)
    angles = t.float().unsqueeze(-1) * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class MLP(nn.Module):
    """Two linear layers with a SiLU between: (..., in) -> (..., out)."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_features, hidden_features)
        self.linear_2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class AttentionPool(nn.Module):
    """Pool text tokens to one vector by attention of the mean token to all: (B, L, T) -> (B, out)."""

    def __init__(self, num_tokens: int, width: int, out_features: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(num_tokens + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out_features)

    def forward(self, text: Tensor) -> Tensor:
        tokens = torch.cat([text.mean(dim=1, keepdim=True), text], dim=1)
        tokens = tokens + self.positional_embedding.to(tokens.dtype)  # (B, 1 + L, T)
        query, key, value = (
            states.unflatten(-1, (NUM_POOL_HEADS, -1)).transpose(1, 2)
            for states in (self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens))
        )
        pooled = F.scaled_dot_product_attention(query, key, value)  # (B, heads, 1, T / heads)
        return self.c_proj(pooled.transpose(1, 2).flatten(1))


class TimeExtraEmbedding(nn.Module):
    """Embed the timestep, the pooled text, and size and style where the model was trained with them."""

    def __init__(self, width: int, *, pooled_dim: int, num_text_tokens: int, text_dim: int, use_size_and_style: bool):
        super().__init__()
        self.timestep_embedder = MLP(SINUSOIDAL_DIM, width, width)
        self.pooler = AttentionPool(num_text_tokens, text_dim, pooled_dim)
        self.style_embedder = nn.Embedding(1, width) if use_size_and_style else None
        extra_dim = pooled_dim + (NUM_IMAGE_META_SIZES * SINUSOIDAL_DIM + width if use_size_and_style else 0)
        self.extra_embedder = MLP(extra_dim, 4 * width, width)

    def forward(
        self, timesteps: Tensor, text: Tensor, image_meta_size: Tensor | None = None, style: Tensor | None = None
    ) -> Tensor:
        """Embed timesteps (S, B or 1), text (B, L, T), image_meta_size (B, 6) in px and style (B,): (S, B, D).

        Raises: DianjingError if size or style is left out of a model that was trained with them.
        """
        extra = self.pooler(text)
        if self.style_embedder is not None:
            if image_meta_size is None or style is None:
                raise DianjingError("size_and_style_missing")
            size_vector = sinusoidal_embedding(image_meta_size).flatten(-2).to(text.dtype)  # (B, 6 * 256)
            extra = torch.cat([extra, size_vector, self.style_embedder(style)], dim=-1)
        return self.timestep_embedder(sinusoidal_embedding(timesteps).to(text.dtype)) + self.extra_embedder(extra)


class PatchEmbed(nn.Module):
    """Project latents (B, C, Y, X) to image tokens (B, N, D), one for each patch, row by row."""

    def __init__(self, in_channels: int, width: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2).contiguous()  # otherwise every layer would copy
