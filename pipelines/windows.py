"""Long films: as many frames at once as the model was trained on, in windows that move from step to step.

The windows of a step do not overlap, so time grows as the film does; their edges lie elsewhere at every step, so that
no two frames stay strangers. B batch, F frames; latents are B C F Y X.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dianjing.dit import Condition, DiT
from dianjing.pipelines.prediction import predict

LEAST_SHARE = 0.25  # of a window: a shorter rest joins its neighbour


def longest(window: int) -> int:
    """Frames in the longest window that `split` makes of windows of this length: one with a rest at either end."""
    return window + 2 * int(window * LEAST_SHARE)


def split(num_frames: int, *, window: int, step: int) -> list[slice]:
    """The windows of a step, in order; together they are all frames once.

    The offsets of consecutive steps are far apart: 0, 1/2, 1/4, 3/4, 1/8 ... of a window (van der Corput).
    """
    if num_frames <= longest(window):
        return [slice(0, num_frames)]
    offset, part, rest = 0.0, 0.5, step
    while rest:
        offset, part, rest = offset + part * (rest % 2), part / 2, rest // 2
    edges = list(range(int(offset * window), num_frames, window))
    least = window * LEAST_SHARE
    inner = [edge for edge in edges if least <= edge <= num_frames - least]
    return [slice(a, b) for a, b in zip([0, *inner], [*inner, num_frames], strict=True)]


def predict_windows(
    transformer: DiT, latents: Tensor, windows: Sequence[slice], *, condition_of: Callable[[slice], Condition]
) -> tuple[Tensor, ...]:
    """As `predict`, window by window."""
    parts = [predict(transformer, latents[:, :, window], condition_of(window)) for window in windows]
    return tuple(torch.cat(each, dim=2) for each in zip(*parts, strict=True))
