"""IP-Adapter: decoupled cross-attention to pictures beside that to text.

B batch, P pictures, L image-prompt tokens of all pictures, D width, H heads, E head width, T text width, I width of an
image embedding.
"""

from typing import NamedTuple

from torch import Tensor, nn

from dianjing.dit.attention import EPS, KeyValue, LayerNorm

NUM_TOKENS = 8  # of a picture


class ImagePromptLayer(nn.Module):
    """Keys and values of one cross-attention for image-prompt tokens."""

    def __init__(self, *, heads: int, head_dim: int, text_dim: int):
        super().__init__()
        self.heads = heads
        self.to_kv = nn.Linear(text_dim, 2 * heads * head_dim)
        self.norm_k = LayerNorm(head_dim, eps=EPS)

    def forward(self, tokens: Tensor) -> KeyValue:
        """Project tokens (B, L, T) to normalized keys and values (B, L, H, E)."""
        key, value = self.to_kv(tokens).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return KeyValue(self.norm_k(key), value)


class IPAdapter(nn.Module):
    """Keys and values of pictures for every block of a `DiT`, computed from their image embeddings.

    Source: IP-Adapter (arXiv 2308.06721), as Hunyuan-DiT's (Tencent-Hunyuan/HunyuanDiT, hydit/modules/models.py).
    """

    def __init__(
        self, *, num_layers: int, heads: int, head_dim: int, text_dim: int, embed_dim: int, num_tokens: int = NUM_TOKENS
    ):
        super().__init__()
        self.num_tokens = num_tokens
        self.image_proj = nn.Linear(embed_dim, num_tokens * text_dim)
        self.norm = nn.LayerNorm(text_dim)
        self.layers = nn.ModuleList(
            ImagePromptLayer(heads=heads, head_dim=head_dim, text_dim=text_dim) for _ in range(num_layers)
        )

    @property
    def embed_dim(self) -> int:
        return self.image_proj.in_features

    def forward(self, image_embeds: Tensor) -> list[KeyValue]:
        """Compute the keys and values (B, L, H, E) of each block from image embeddings (B, P, I)."""
        # the tokens of a picture are the last axis of its projection: (B, P, T, tokens)
        tokens = self.image_proj(image_embeds).unflatten(-1, (-1, self.num_tokens)).transpose(-2, -1)
        tokens = self.norm(tokens).flatten(1, 2)  # (B, L, T)
        return [layer(tokens) for layer in self.layers]


class ImagePrompt(NamedTuple):
    """Pictures of one IP-Adapter for all blocks, and the strength of their attention."""

    keys: tuple[Tensor, ...]  # one for each block, (B, L, H, E)
    values: tuple[Tensor, ...]
    scale: float

    def index_batch(self, index: slice | Tensor) -> "ImagePrompt":
        """Select or repeat rows of the batch."""
        return ImagePrompt(
            tuple(key[index] for key in self.keys), tuple(value[index] for value in self.values), self.scale
        )
