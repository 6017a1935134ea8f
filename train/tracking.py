"""Teaches a click model where in the first frame each place comes from, where that is known.

B batch, F frames, H heads, E head width; S places of a frame, Y rows and X columns of latents.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from dianjing.dit.first_frame import FirstFrameAttention, Shown

FAR = 0.25  # latents: what is nearer to its source than this stands still
SMOOTH = 0.1  # latents: errors below count by their square


def error_of_ways(ways: Tensor, asked: Tensor) -> Tensor:
    """Mean smooth error in latents of a motion field's ways (B, R, F, S, 2) against (B, R, F, Y, X, 2), both in picture
    sides. NaN is what nobody asked for.
    """
    known = ~asked.isnan()
    sides = asked.new_tensor([asked.shape[4], asked.shape[3]])
    away = (ways.unflatten(3, asked.shape[3:5]) - asked.nan_to_num()) * known * sides
    error = smooth_l1_loss(away, torch.zeros_like(away), beta=SMOOTH, reduction="sum")
    return error / known.sum().clamp_min(1)


class Tracking:
    """Watches a model's look-up; after a forward pass the first half of its heads is compared with the truth.

    The others are free to look elsewhere. Source: Track4Gen
    (arXiv 2412.06016), which teaches features of a video model by tracks.
    """

    def __init__(self, lookup: FirstFrameAttention) -> None:
        self.lookup = lookup
        self.seen: tuple[Tensor, Tensor, Shown] | None = None
        lookup.register_forward_hook(self._see)

    def _see(self, _: nn.Module, inputs: tuple[Any, ...], __: Tensor) -> None:
        _, latents, tokens, shown, _ = inputs
        self.seen = (latents, tokens, shown)

    def error(self, sources: Tensor) -> Tensor:
        """Cross-entropy of where the last pass looked against sources (B, F, Y, X, 2), (x, y) in latents.

        NaN is where nobody knows. What moves and what stands still count alike.
        """
        assert self.seen is not None, "a forward pass comes first"
        latents, tokens, shown = self.seen
        self.seen = None
        rows, columns = latents.shape[-2:]
        taught = max(1, shown.key.shape[2] // 2)
        query = self.lookup.query(tokens, shown, rows=rows, columns=columns)[:, :, :taught]
        scores = torch.einsum("bqhe,bkhe->bhqk", query, shown.key[:, :, :taught]) * query.shape[-1] ** -0.5
        logs = scores.float().log_softmax(dim=-1).mean(dim=1)  # (B, F S, S)
        patch = self.lookup.patch_size
        x, y = rearrange(sources, "b f (y p) (x q) c -> c b (f y x p q)", p=patch, q=patch)
        known = ~x.isnan() & (shown.given > 0).unsqueeze(1)
        x, y = (at.nan_to_num().clamp(0, most - 1) for at, most in ((x, columns), (y, rows)))
        error = torch.zeros_like(x)
        for column, across in _neighbours(x, columns):
            for row, down in _neighbours(y, rows):
                there = logs.gather(2, (row * columns + column).unsqueeze(-1)).squeeze(-1)
                error = error - across * down * there
        own = torch.arange(rows * columns, device=x.device).view(rows, columns)
        own = rearrange(own, "(y p) (x q) -> (y x p q)", p=patch, q=patch).repeat(sources.shape[1])
        moved = (x - own % columns).abs() + (y - own // columns).abs() > FAR
        return (_mean(error, known & moved) + _mean(error, known & ~moved)) / 2


def _neighbours(at: Tensor, most: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The whole places on both sides, and how near each is, 0 to 1."""
    low = at.floor().clamp(max=most - 2)
    return (low.long(), 1 - (at - low)), (low.long() + 1, at - low)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
