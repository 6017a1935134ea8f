"""Long films: as many frames at once as the model was trained on, in windows that move from step to step.

The windows of a step do not overlap, so time grows as the film does; their edges lie elsewhere at every step, so that
no two frames stay strangers. B batch, F frames; latents are B C F Y X.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dianjing.dit import Conditioning, DiT, MotionControl
from dianjing.dit.motion.warp import Warp
from dianjing.pipelines.sampling import predict_model_output
from dianjing.pipelines.video.motion_request import get_window_control

MIN_WINDOW_FRACTION = 0.25  # of a window: a shorter rest joins its neighbour


def get_max_window_size(window_size: int) -> int:
    """Frames in the longest window that `split` makes of windows of this length: one with a rest at either end."""
    return window_size + 2 * int(window_size * MIN_WINDOW_FRACTION)


def make_windows(num_frames: int, *, window_size: int, step: int) -> list[slice]:
    """The windows of a step, in order; together they are all frames once.

    The offsets of consecutive steps are far apart: 0, 1/2, 1/4, 3/4, 1/8 ... of a window (van der Corput).
    """
    if num_frames <= get_max_window_size(window_size):
        return [slice(0, num_frames)]
    offset, part, rest = 0.0, 0.5, step
    while rest:
        offset, part, rest = offset + part * (rest % 2), part / 2, rest // 2
    edges = list(range(int(offset * window_size), num_frames, window_size))
    least = window_size * MIN_WINDOW_FRACTION
    inner = [edge for edge in edges if least <= edge <= num_frames - least]
    return [slice(a, b) for a, b in zip([0, *inner], [*inner, num_frames], strict=True)]


def predict_windows(
    transformer: DiT, latents: Tensor, windows: Sequence[slice], *, get_conditioning: Callable[[slice], Conditioning]
) -> tuple[Tensor, ...]:
    """As `predict`, window by window."""
    parts = [predict_model_output(transformer, latents[:, :, window], get_conditioning(window)) for window in windows]
    return tuple(torch.cat(each, dim=2) for each in zip(*parts, strict=True))


@dataclass(frozen=True, kw_only=True)
class WindowedVideo:
    """A film's latents, and what it would be if the picture were moved and nothing else: latents (B, C, F, Y, X) too,
    and levels uint8 (B, F, 3, H, W). None for a model that moves no pictures.
    """

    latents: Tensor
    warped_latents: Tensor | None = None
    warped_frames: Tensor | None = None


def generate_windows(
    motion_control: MotionControl,
    warp: Warp | None,
    noise: Tensor,
    *,
    window_size: int,
    sample_window: Callable[[Tensor, MotionControl], Tensor],
    is_interrupted: Callable[[], bool],
) -> Tensor:
    """The latents (B, C, F, Y, X) of a film that begins with click.first_frame, window after window.

    draw denoises the noise (B, C, F, Y, X) of a window, of which the first frame is given.
    """
    film = motion_control.first_frame.unsqueeze(2).to(noise)
    while film.shape[2] < noise.shape[2] and not is_interrupted():
        frames = slice(film.shape[2] - 1, film.shape[2] - 1 + window_size)
        drawn = sample_window(noise[:, :, frames], get_window_control(motion_control, warp, frames, film[:, :, -1]))
        film = torch.cat([film, drawn[:, :, 1:]], dim=2)
    return film
