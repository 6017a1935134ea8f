"""Rotary position embedding (RoPE) of image tokens on their grid.

B batch, N image tokens, H heads, E head width.
A rotation is a float32 tensor (N, E/2, 2): cosine and sine of the angle by which each pair turns.
"""

import torch
from torch import Tensor

THETA = 10_000.0


def grid_span(length: int, across: int, *, base: int) -> tuple[int, int]:
    """Start and stop of one axis of a grid that is fitted into a square of `base` and centred.

    `length` is the axis asked for, `across` the other one, both in tokens.
    Source: Hunyuan-DiT (arXiv 2405.08748), "centralized interpolative positional encoding".
    """
    extent = base if length >= across else round(base / across * length)
    start = round((base - extent) / 2)
    return start, start + extent


def axis_positions(length: int, across: int, *, base: int, device: torch.device | None = None) -> Tensor:
    """Positions (length,) from the start of the span towards its stop, which is left out."""
    start, stop = grid_span(length, across, base=base)
    steps = torch.arange(length, dtype=torch.float32, device=device)
    return start + steps * ((stop - start) / length)


def rotation_table(rows: int, columns: int, *, head_dim: int, base: int, device: torch.device | None = None) -> Tensor:
    """Rotation (N, E/2, 2) of a grid of rows x columns tokens, row by row.

    The first half of the pairs turns with the column, the second with the row.
    Source: RoFormer (arXiv 2104.09864), Eq. 15, once for each axis.
    """
    pair = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device)
    frequencies = THETA ** (-pair / (head_dim // 2))  # (E/4,)
    by_column = torch.outer(axis_positions(columns, rows, base=base, device=device), frequencies)
    by_row = torch.outer(axis_positions(rows, columns, base=base, device=device), frequencies)
    angles = torch.cat([by_column.repeat(rows, 1), by_row.repeat_interleave(columns, dim=0)], dim=-1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)  # (N, E/2, 2)


def rotation_from_pairs(cosine: Tensor, sine: Tensor, *, device: torch.device) -> Tensor:
    """Rotation (N, E/2, 2) from diffusers' cosine and sine (N, E), which hold each value twice."""
    return torch.stack([cosine[..., ::2], sine[..., ::2]], dim=-1).to(device, torch.float32)


def pairs_from_rotation(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Diffusers' cosine and sine (N, E), which hold each value twice, from a rotation (N, E/2, 2)."""
    cosine, sine = rotation.repeat_interleave(2, dim=-2).unbind(-1)
    return cosine, sine


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn neighbouring pairs of x (B, N, H, E), float32, which may be overwritten.

    `turns` is the rotation for every head: (N, 1, E/2, 2), or (N, 1, E/2) as complex numbers, which
    have one kernel for the whole turn, but none in `torch.compile`.
    Source: RoFormer (arXiv 2104.09864), Eq. 34.
    """
    pairs = x.view(*x.shape[:-1], -1, 2)  # (B, N, H, E/2, 2)
    if turns.is_complex():
        torch.view_as_complex(pairs).mul_(turns)
        return x
    (even, odd), (cosine, sine) = pairs.unbind(-1), turns.unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)
