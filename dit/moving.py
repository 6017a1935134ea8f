"""The first frame, moved: what a motion field says, done to latents.

B batch, R regions, F frames, C channels; latents are (B, C, Y, X), S places of them a frame.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.motion_field import Origins

POWERS = tuple((i, j) for i in range(4) for j in range(4 - i))  # of what is left to the middle of a latent, (x, y)
FULL = 0.25  # of a latent: a region that covers more of it has it whole
REACH = 5  # latents: how far what was behind a region is filled in from


class Moved(NamedTuple):
    """Frames (B, F, C, Y, X) made of the first one, and where regions are in them (B, F, R, Y, X), 0 to 1."""

    frames: Tensor
    covered: Tensor

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Moved":
        return Moved(*(change(part) for part in self))

    def first(self, num_frames: int) -> "Moved":
        return Moved(*(part[:, :num_frames] for part in self))


def take(source: Tensor, places: Tensor) -> Tensor:
    """What is at places (B, R, F, S) of source (B, R or 1, S, T): (B, R, F, S, T)."""
    wide = places.flatten(2).unsqueeze(-1).expand(-1, -1, -1, source.shape[-1])
    return source.expand(-1, places.shape[1], -1, -1).gather(2, wide).unflatten(2, places.shape[2:])


class Mover(nn.Module):
    """Takes each latent of a region from where it comes, and cuts it anew where it lies between latents.

    Latents of a picture moved by a part of one are nearly linear in those around, with weights that are smooth in the
    part: a polynomial. Starts as the nearest latent.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.cut = nn.Conv2d(channels, len(POWERS) * channels, 3, padding=1, padding_mode="replicate", bias=False)
        self.cut_mask = nn.Conv2d(1, len(POWERS), 3, padding=1, bias=False)
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        """What is nearest, as it is."""
        for layer in (self.cut, self.cut_mask):
            layer.weight.zero_()
            for channel in range(layer.weight.shape[1]):
                layer.weight[channel, channel, 1, 1] = 1

    def forward(self, first_frame: Tensor, masks: Tensor, origins: Origins) -> Moved:
        """A first frame with masks (B, R, Y, X); regions that are not asked to move stay."""
        rows, columns = first_frame.shape[-2:]
        x, y = origins.rest.to(first_frame.dtype).unbind(-1)
        powers = torch.stack([x**i * y**j for i, j in POWERS], dim=-1)  # (B, R, F, S, P)
        every = rearrange(self.cut(first_frame), "b t y x -> b 1 (y x) t")
        pieces = take(every, origins.nearest).unflatten(-1, (len(POWERS), self.channels))
        pieces = torch.einsum("brfspc,brfsp->brfsc", pieces, powers)
        asked = origins.asked.to(first_frame.dtype)[:, :, None, None]
        masks = masks.to(first_frame.dtype)
        cut = self.cut_mask(rearrange(masks, "b r y x -> (b r) 1 y x"))
        cut = rearrange(cut, "(b r) p y x -> b r (y x) p", r=masks.shape[1])
        covered = (take(cut, origins.nearest) * powers).sum(dim=-1).clamp(0, 1) * asked  # (B, R, F, S)
        frames = rearrange(_fill(first_frame, masks * asked), "b c y x -> b 1 (y x) c")
        for piece, over in zip(pieces.unbind(1), covered.unbind(1), strict=True):
            share = (over / FULL).clamp(max=1).unsqueeze(-1)
            frames = frames + share * (piece - frames)
        return Moved(
            rearrange(frames, "b f (y x) c -> b f c y x", y=rows),
            rearrange(covered, "b r f (y x) -> b f r y x", x=columns),
        )


def _fill(first_frame: Tensor, masks: Tensor) -> Tensor:
    """The first frame with what is around in place of what is under masks (B, R, Y, X)."""
    hidden = (masks.amax(dim=1, keepdim=True) / FULL).clamp(max=1)
    seen = 1 - hidden

    def mean(of: Tensor, reach: int) -> Tensor:
        return F.avg_pool2d(of, reach, stride=1, padding=reach // 2, count_include_pad=True)

    whole = (first_frame * seen).sum(dim=(2, 3), keepdim=True) / seen.sum(dim=(2, 3), keepdim=True).clamp_min(1e-3)
    weight = mean(seen, REACH)
    near = (mean(first_frame * seen, REACH) + 1e-3 * whole) / (weight + 1e-3)
    return first_frame * seen + near * hidden
