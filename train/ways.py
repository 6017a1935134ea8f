"""How far a motion field is from what is known of clips.

B batch, R regions, F frames, S places of a frame, Y rows and X columns of latents.
"""

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

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
