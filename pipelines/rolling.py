"""A film from a picture and a click, as long as one likes: window after window, each from the frame before it ends.

What moves is always taken from the picture itself, however long ago it was, so that it does not blur from window to
window. B batch, R regions, F frames; latents are B C F Y X, pixels B C H W from -1 to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.dit import Click
from dianjing.dit.click import SPAN, ClickConditioner, Encode
from dianjing.dit.moving import Moved, Path

SLOWER = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05)  # shares of a strength
CUT_OFF = 0.65  # pixels on the border, of the root of all: what a disc has that lost a tenth of its width
LEAST_AREA = 0.1  # of what a region covered at first


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """A film's latents, and what it would be if the picture were moved and nothing else: latents (B, C, F, Y, X) too,
    and levels uint8 (B, F, 3, H, W). None for a model that moves no pictures.
    """

    latents: Tensor
    moved_latents: Tensor | None = None
    moved_levels: Tensor | None = None


def follow(
    conditioner: ClickConditioner,
    click: Click,
    pixels: Tensor,
    masks: Tensor,
    *,
    num_frames: int,
    window: int,
    encode: Encode,
) -> tuple[Moved, Tensor] | None:
    """The picture on click.first_frame, moved as is asked from its masks (B, R, H, W) on, for a whole film: in latents,
    and as levels uint8 (B, F, 3, H, W). None for a model that moves no pictures.
    """
    if conditioner.field is None:
        return None
    path, first = Path.start(masks, span=SPAN), click.first_frame
    frames, covered = [first.unsqueeze(1)], [_from(click, path, first).masks.unsqueeze(1)]
    levels, done = [to_levels(pixels.unsqueeze(1))], 1
    while done < num_frames:
        length = min(window, num_frames - done + 1)
        now = _from(click, path, frames[-1][:, -1])
        moving, shown = conditioner.with_moved(now, pixels, path, num_frames=length, encode=encode)
        path, _ = conditioner.go_on(now, path, num_frames=length)
        assert moving.moved is not None
        frames.append(moving.moved.frames[:, 1:])
        covered.append(moving.moved.covered[:, 1:])
        levels.append(to_levels(shown[:, 1:]))
        done += length - 1
    return Moved(torch.cat(frames, dim=1), torch.cat(covered, dim=1)), torch.cat(levels, dim=1)


def of_window(click: Click, moved: Moved | None, window: slice, first_frame: Tensor) -> Click:
    """What a click asks for in some frames of a film, of which first_frame (B, C, Y, X) is the first."""
    first_frame = first_frame.to(click.first_frame.dtype)
    if moved is None:
        return replace(click, first_frame=first_frame)
    frames, covered = moved.frames[:, window], moved.covered[:, window]
    frames = torch.cat([first_frame.unsqueeze(1), frames[:, 1:]], dim=1)
    return replace(click, first_frame=first_frame, masks=covered[:, 0], moved=Moved(frames, covered))


def roll(
    click: Click,
    moved: Moved | None,
    noise: Tensor,
    *,
    window: int,
    draw: Callable[[Tensor, Click], Tensor],
    is_interrupted: Callable[[], bool],
) -> Tensor:
    """The latents (B, C, F, Y, X) of a film that begins with click.first_frame, window after window.

    draw denoises the noise (B, C, F, Y, X) of a window, of which the first frame is given.
    """
    film = click.first_frame.unsqueeze(2).to(noise)
    while film.shape[2] < noise.shape[2] and not is_interrupted():
        frames = slice(film.shape[2] - 1, film.shape[2] - 1 + window)
        drawn = draw(noise[:, :, frames], of_window(click, moved, frames, film[:, :, -1]))
        film = torch.cat([film, drawn[:, :, 1:]], dim=2)
    return film


def to_levels(pixels: Tensor) -> Tensor:
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def stay(conditioner: ClickConditioner, click: Click, masks: Tensor, *, num_frames: int, window: int) -> Click:
    """The same click with strengths so low that what moves stays in the picture for num_frames."""
    best = torch.zeros_like(click.strengths)
    for share in SLOWER:
        slow = replace(click, strengths=click.strengths * share)
        fits = _stays(conditioner, slow, masks, num_frames=num_frames, window=window)
        best = torch.where(fits & (best == 0), share, best)
        if (best > 0).all():
            break
    return replace(click, strengths=click.strengths * best.clamp_min(SLOWER[-1]))


def _stays(conditioner: ClickConditioner, click: Click, masks: Tensor, *, num_frames: int, window: int) -> Tensor:
    """Whether each region does, (B, R)."""
    path, at = Path.start(masks, span=SPAN), 0
    most, least = _on_border(masks) + CUT_OFF, LEAST_AREA * masks.sum(dim=(-2, -1))
    fits = torch.ones_like(click.strengths, dtype=torch.bool)
    while at < num_frames - 1 and fits.any():
        length = min(window, num_frames - at)
        path, covered = conditioner.go_on(_from(click, path, click.first_frame), path, num_frames=length)
        inside = (_on_border(covered) <= most.unsqueeze(1)) & (covered.sum(dim=(-2, -1)) >= least.unsqueeze(1))
        fits &= inside.all(dim=1) | ~click.phrases_mask.any(dim=-1)
        at += length - 1
    return fits


def _on_border(covered: Tensor) -> Tensor:
    """(..., H, W) -> (...)"""
    inner = covered[..., 1:-1, 1:-1].sum(dim=(-2, -1))
    whole = covered.sum(dim=(-2, -1))
    return (whole - inner) / whole.clamp_min(1).sqrt()


def _from(click: Click, path: Path, first_frame: Tensor) -> Click:
    """A click on a later frame."""
    dtype = click.first_frame.dtype
    masks = adaptive_avg_pool2d(path.covered, (first_frame.shape[-2], first_frame.shape[-1]))
    return replace(click, first_frame=first_frame.to(dtype), masks=masks.to(dtype))
