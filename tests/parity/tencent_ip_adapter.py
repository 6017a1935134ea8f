"""IP-Adapters in Tencent's layout with random weights, and Tencent's formulas for them in diffusers' classes."""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from PIL import Image
from torch import nn

EMBED_DIM, TEXT_DIM, WIDTH, HEAD_DIM, LAYERS = 24, 32, 16, 8, 4


def make_tensors(seed=0, *, layers=LAYERS, width=WIDTH):
    """The tensors of ipa.pt, random; see HunYuanDiT and CrossAttention in Tencent's repository."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(shape, generator=generator)

    tensors = {
        "ip_adapter_clip_len_trans_block.weight": rand(8 * TEXT_DIM, EMBED_DIM) * EMBED_DIM**-0.5,
        "ip_adapter_clip_len_trans_block.bias": rand(8 * TEXT_DIM) * 0.3,
        "ip_adapter_img_norm_cond.weight": 1 + 0.1 * rand(TEXT_DIM),
        "ip_adapter_img_norm_cond.bias": 0.1 * rand(TEXT_DIM),
    }
    for layer in range(layers):
        name = f"blocks.{layer}.attn2"
        tensors |= {
            f"{name}.kv_proj_ip_adapter.weight": rand(2 * width, TEXT_DIM) * 0.3,
            f"{name}.kv_proj_ip_adapter.bias": rand(2 * width) * 0.1,
            f"{name}.k_norm_ip_adapter.weight": 1 + 0.1 * rand(HEAD_DIM),
            f"{name}.k_norm_ip_adapter.bias": 0.1 * rand(HEAD_DIM),
        }
    return tensors


def make_tokens(tensors, embeds):
    """Image tokens (B, 8, T) from embeddings (B, I), as in `HunYuanDiT.forward`."""
    states = F.linear(
        embeds, tensors["ip_adapter_clip_len_trans_block.weight"], tensors["ip_adapter_clip_len_trans_block.bias"]
    )
    states = states.reshape(len(embeds), -1, 8).transpose(2, 1)
    weight, bias = tensors["ip_adapter_img_norm_cond.weight"], tensors["ip_adapter_img_norm_cond.bias"]
    return F.layer_norm(states, (TEXT_DIM,), weight, bias)


class TencentProcessor:
    """Cross-attention of diffusers' HunyuanDiT2DModel with image attention as in Tencent's `CrossAttention`."""

    def __init__(self, prompts, layer):
        self.prompts, self.name = prompts, f"blocks.{layer}.attn2"  # prompts: (tensors, tokens, scale) for each adapter

    def __call__(
        self, attn, hidden_states, encoder_hidden_states, attention_mask=None, temb=None, image_rotary_emb=None
    ):
        def split(states):
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, H, N, E)

        query = attn.norm_q(split(attn.to_q(hidden_states)))
        query = apply_rotary_emb(query, image_rotary_emb)
        key = attn.norm_k(split(attn.to_k(encoder_hidden_states)))
        states = F.scaled_dot_product_attention(query, key, split(attn.to_v(encoder_hidden_states)))
        for tensors, tokens, scale in self.prompts:
            projection = [tensors[f"{self.name}.kv_proj_ip_adapter.{part}"] for part in ("weight", "bias")]
            norm = [tensors[f"{self.name}.k_norm_ip_adapter.{part}"] for part in ("weight", "bias")]
            key, value = F.linear(tokens, *projection).unflatten(-1, (2, attn.heads, -1)).unbind(2)
            key = F.layer_norm(key, (HEAD_DIM,), *norm, eps=1e-6).transpose(1, 2)
            states = states + scale * F.scaled_dot_product_attention(query, key, value.transpose(1, 2))
        return attn.to_out[1](attn.to_out[0](states.transpose(1, 2).flatten(2)))


def rand_embeds(num_pictures=1, seed=5):
    return F.normalize(torch.randn((num_pictures, EMBED_DIM), generator=torch.Generator().manual_seed(seed)), dim=-1)


def with_negative(embeds):
    """Embeddings (2, P, I) as diffusers' `ip_adapter_image_embeds` with guidance: those of no picture first."""
    return torch.stack([torch.zeros_like(embeds), embeds])


class OpenAITower(nn.Module):
    """The image tower of OpenAI's CLIP, as in Tencent's img_clip_emb.py, with one block."""

    def __init__(self, width=64, patch=4, side=12):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        block = nn.Module()
        block.attn = nn.MultiheadAttention(width, 1)
        block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        block.mlp = nn.Module()
        block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([block])
        self.proj = nn.Parameter(torch.randn(width, EMBED_DIM))

    def forward(self, x):
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x).permute(1, 0, 2)
        block = self.transformer.resblocks[0]
        normed = block.ln_1(x)
        x = x + block.attn(normed, normed, normed, need_weights=False)[0]
        hidden = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        return self.ln_post(x[0]) @ self.proj


def make_picture(size=(40, 30), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def preprocess(picture, side):
    """Tencent's image_transform."""
    pixels = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC).convert("RGB"), np.float32) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return torch.from_numpy((pixels - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)
