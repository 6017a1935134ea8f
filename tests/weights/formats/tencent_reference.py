"""A small Hunyuan-DiT under Tencent's names, written from the paper and the names of the published files.

It computes with fused projections, norms and modulation in Tencent's order, so that a converted checkpoint can be
compared with it by its output. Without rotary embeddings: both sides get none.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(values: Tensor, dim: int = 256) -> Tensor:
    """Cosines, then sines, as both libraries embed timesteps and sizes."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, text_dim: int | None = None):
        super().__init__()
        self.heads, head_dim = heads, dim // heads
        if text_dim is None:
            self.Wqkv = nn.Linear(dim, 3 * dim)
        else:
            self.q_proj, self.kv_proj = nn.Linear(dim, dim), nn.Linear(text_dim, 2 * dim)
        self.q_norm, self.k_norm = nn.LayerNorm(head_dim, eps=1e-6), nn.LayerNorm(head_dim, eps=1e-6)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
        if text is None:
            q, k, v = self.Wqkv(x).chunk(3, dim=-1)
        else:
            q, (k, v) = self.q_proj(x), self.kv_proj(text).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        out = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, text_dim: int, mlp_dim: int, *, skip: bool):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attn1, self.attn2 = Attention(dim, heads), Attention(dim, heads, text_dim)
        self.mlp = Mlp(dim, mlp_dim)
        self.default_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim))
        if skip:
            self.skip_norm, self.skip_linear = nn.LayerNorm(2 * dim, eps=1e-6), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = self.skip_linear(self.skip_norm(torch.cat([x, skip], dim=-1)))
        x = x + self.attn1(self.norm1(x) + self.default_modulation(condition)[:, None])
        x = x + self.attn2(self.norm3(x), text)  # norm3 before the cross-attention, norm2 before the MLP
        return x + self.mlp(self.norm2(x))


class AttentionPool(nn.Module):
    def __init__(self, length: int, dim: int, heads: int, out_dim: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(length + 1, dim) / dim**0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.c_proj, self.heads = nn.Linear(dim, out_dim), heads

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, 0]


class FinalLayer(nn.Module):
    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.linear = nn.Linear(dim, out_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class TencentHunyuanDiT(nn.Module):
    """Version 1.1 has the embedders of style and size, 1.2 has not."""

    def __init__(self, *, depth: int = 6, dim: int = 32, heads: int = 2, style: bool = False):
        super().__init__()
        text_dim, text_dim_t5, text_len, text_len_t5, channels = 24, 40, 5, 6, 4
        self.depth, self.channels = depth, channels
        self.text_embedding_padding = nn.Parameter(torch.randn(text_len + text_len_t5, text_dim))
        self.mlp_t5 = nn.Sequential(
            nn.Linear(text_dim_t5, 4 * text_dim_t5), nn.SiLU(), nn.Linear(4 * text_dim_t5, text_dim)
        )
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, dim, 2, stride=2)})
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))})
        self.pooler = AttentionPool(text_len_t5, text_dim_t5, 8, 1024)
        extra_dim = 1024
        if style:
            self.style_embedder = nn.Embedding(1, dim)
            extra_dim += 6 * 256 + dim
        self.extra_embedder = nn.Sequential(nn.Linear(extra_dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        blocks = [Block(dim, heads, text_dim, 64, skip=layer > depth // 2) for layer in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.final_layer = FinalLayer(dim, 4 * 2 * channels)

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor, text_t5: Tensor, mask: Tensor, mask_t5: Tensor, sizes: Tensor
    ):
        extra = [self.pooler(text_t5)]
        if hasattr(self, "style_embedder"):
            extra += [sinusoid(sizes.flatten()).reshape(len(x), -1), self.style_embedder.weight[:1].expand(len(x), -1)]
        condition = self.t_embedder["mlp"](sinusoid(t)) + self.extra_embedder(torch.cat(extra, dim=1))
        states = torch.cat([text, self.mlp_t5(text_t5)], dim=1)
        states = torch.where(torch.cat([mask, mask_t5], dim=1)[..., None], states, self.text_embedding_padding)
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        x = self.x_embedder["proj"](x).flatten(2).transpose(1, 2)
        skips: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            x = block(x, condition, states, skips.pop() if layer > self.depth // 2 else None)
            if layer < self.depth // 2 - 1:
                skips.append(x)
        x = self.final_layer(x, condition)
        x = x.reshape(len(x), height, width, 2, 2, 2 * self.channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), 2 * self.channels, 2 * height, 2 * width)
