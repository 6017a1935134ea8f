"""Feed-forward layers, which may run on parts of their input one after the other to save memory.

B batch, F frames, N image tokens, D width.
"""

import torch
from diffusers.models import attention
from torch import Tensor, nn

from dianjing.errors import DianjingError

CHUNK_DIMS = (0, 1)  # rows of the batch, image tokens


class FeedForward(attention.FeedForward):
    """diffusers' feed-forward layer with chunks: (B F, N, D) -> (B F, N, D)."""

    chunk_size: int | None = None
    chunk_dim: int = 0

    def set_chunk_feed_forward(self, chunk_size: int | None, dim: int = 0) -> None:
        """Set how many entries of a dimension run at a time; None: all."""
        self.chunk_size, self.chunk_dim = chunk_size, dim

    def forward(self, hidden_states: Tensor) -> Tensor:
        forward = super().forward
        if self.chunk_size is None:
            return forward(hidden_states)
        chunks = hidden_states.split(self.chunk_size, dim=self.chunk_dim)
        return torch.cat([forward(chunk) for chunk in chunks], dim=self.chunk_dim)


class ForwardChunkingMixin:
    """Switches for the chunks of all feed-forward layers of a model, under diffusers' names."""

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Run feed-forward layers on `chunk_size` rows of the batch (dim=0) or tokens (dim=1) at a time; None: one.

        Saves the memory of their hidden states; the last chunk may be smaller. In diffusers' `HunyuanDiT2DModel` the
        method changes nothing, since its blocks do not read the setting.

        Raises: DianjingError for another dimension, and for a negative size.
        """
        if dim not in CHUNK_DIMS:
            raise DianjingError("value_not_allowed", name="dim", value=repr(dim), allowed=list(CHUNK_DIMS))
        if chunk_size is not None and chunk_size < 0:
            raise DianjingError("chunk_size_negative", chunk_size=chunk_size)
        self._set_chunks(chunk_size or 1, dim)

    def disable_forward_chunking(self) -> None:
        """Run feed-forward layers on their whole input again."""
        self._set_chunks(None, 0)

    def _set_chunks(self, chunk_size: int | None, dim: int) -> None:
        assert isinstance(self, nn.Module)
        for module in self.modules():
            if isinstance(module, FeedForward):
                module.set_chunk_feed_forward(chunk_size, dim)
