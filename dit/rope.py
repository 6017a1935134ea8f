"""Rotary position embedding (RoPE): of image tokens on their grid, and of frames.

B batch, F frames, N image tokens, H heads, E head width.
A rotary table is float32 (..., N, E/2, 2): cosine and sine of the angle by which each pair of channels rotates. Rotary
embeddings (`rotary_emb`) are the same with an axis for heads, perhaps as complex numbers, for `apply_rotary_emb`.
"""

import torch
from torch import Tensor

THETA = 10_000.0
VIDEO_THETA = 100.0  # of grid positions in videos, which are few


def get_grid_span(length: int, other_length: int, *, base_size: int) -> tuple[int, int]:
    """Return start and stop along one axis of a grid that is scaled into a centered square of side `base_size`.

    length: of this axis, other_length: of the other one, both in tokens.
    Source: Hunyuan-DiT (arXiv 2405.08748), "centralized interpolative positional encoding".
    """
    extent = base_size if length >= other_length else round(base_size / other_length * length)
    start = round((base_size - extent) / 2)
    return start, start + extent


def get_axis_positions(length: int, other_length: int, *, base_size: int, device: torch.device | None = None) -> Tensor:
    """Return evenly spaced positions (length,) of the grid span, whose stop is excluded."""
    start, stop = get_grid_span(length, other_length, base_size=base_size)
    steps = torch.arange(length, dtype=torch.float32, device=device)
    return start + steps * ((stop - start) / length)


def rope_2d(rows: int, columns: int, *, head_dim: int, base_size: int, device: torch.device | None = None) -> Tensor:
    """Make the rotary table (N, E/2, 2) of a grid of rows x columns tokens, row by row.

    The first half of the pairs rotates with the column, the second with the row.
    Source: RoFormer (arXiv 2104.09864), Eq. 15, once for each axis.
    """
    pair = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device)
    frequencies = THETA ** (-pair / (head_dim // 2))  # (E/4,)
    column_angles = torch.outer(get_axis_positions(columns, rows, base_size=base_size, device=device), frequencies)
    row_angles = torch.outer(get_axis_positions(rows, columns, base_size=base_size, device=device), frequencies)
    angles = torch.cat([column_angles.repeat(rows, 1), row_angles.repeat_interleave(columns, dim=0)], dim=-1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)  # (N, E/2, 2)


def rotary_table_from_cos_sin(cosine: Tensor, sine: Tensor, *, device: torch.device) -> Tensor:
    """Convert diffusers' cosine and sine (N, E), which hold each value twice, to a rotary table (N, E/2, 2)."""
    return torch.stack([cosine[..., ::2], sine[..., ::2]], dim=-1).to(device, torch.float32)


def rotary_table_to_cos_sin(rotary_table: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a rotary table (N, E/2, 2) to diffusers' cosine and sine (N, E), which hold each value twice."""
    cosine, sine = rotary_table.repeat_interleave(2, dim=-2).unbind(-1)
    return cosine, sine


def to_rotary_emb(rotary_table: Tensor, *, as_complex: bool) -> Tensor:
    """Give a rotary table (..., N, E/2, 2) an axis for heads: (..., N, 1, E/2, 2), or (..., N, 1, E/2) as complex."""
    rotary_emb = rotary_table.unsqueeze(-3)
    return torch.view_as_complex(rotary_emb) if as_complex else rotary_emb


def apply_rotary_emb(x: Tensor, rotary_emb: Tensor) -> Tensor:
    """Rotate adjacent pairs of channels of x (B, N, H, E), float32, which may be overwritten.

    rotary_emb: (N, 1, E/2, 2), or complex (N, 1, E/2), for which eager mode has one kernel and `torch.compile` none.
    Source: RoFormer (arXiv 2104.09864), Eq. 34.
    """
    pairs = x.view(*x.shape[:-1], -1, 2)  # (B, N, H, E/2, 2)
    if rotary_emb.is_complex():
        torch.view_as_complex(pairs).mul_(rotary_emb)
        return x
    (even, odd), (cosine, sine) = pairs.unbind(-1), rotary_emb.unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


def rope_1d(num_frames: int, *, head_dim: int, device: torch.device | None = None) -> Tensor:
    """Make the rotary table (F, 1, E/2, 2) of frames 0, 1, ... Source: RoFormer (arXiv 2104.09864), Eq. 15."""
    frequencies = THETA ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.outer(torch.arange(num_frames, dtype=torch.float32, device=device), frequencies)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(1)


def rope_3d(num_frames: int, rows: int, columns: int, *, head_dim: int, device: torch.device | None = None) -> Tensor:
    """Make the rotary table (F, N, E/2, 2) of the image tokens of all frames.

    A third of the pairs rotates with the column, a third with the row, the rest with the frame.
    """
    pairs_per_axis = head_dim // 6
    num_pairs = (head_dim // 2 - 2 * pairs_per_axis, pairs_per_axis, pairs_per_axis)  # of frame, row and column
    axes = (torch.arange(size, dtype=torch.float32) for size in (num_frames, rows, columns))
    angles_per_axis = [
        positions[..., None] * VIDEO_THETA ** (-torch.arange(count, dtype=torch.float32) / max(count, 1))
        for positions, count in zip(torch.meshgrid(*axes, indexing="ij"), num_pairs, strict=True)
    ]
    angles = torch.cat(angles_per_axis, dim=-1).flatten(1, 2).to(device)  # (F, N, E/2)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)
