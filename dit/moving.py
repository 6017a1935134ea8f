"""The first frame, moved: what a motion field says, done to a picture.

B batch, R regions, F frames, C channels, H height, W width; pictures have any range.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dianjing.dit.motion_field import corners, region_sizes

FINE = 65  # points along a side among which a place is looked for
EDGE_PX = 1  # around a mask, where an object's colours still show


class Moved(NamedTuple):
    """Frames (B, F, C, H, W) made of the first one, and where regions are in them (B, F, R, H, W), 0 to 1: a picture's
    or, with Y and X in place of H and W, latents.
    """

    frames: Tensor
    covered: Tensor

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Moved":
        return Moved(*(change(part) for part in self))

    def first(self, num_frames: int) -> "Moved":
        return Moved(*(part[:, :num_frames] for part in self))


class Path(NamedTuple):
    """How regions have come to where they are now: masks of the picture (B, R, H, W) and of now, and the ways back from
    now to the picture (B, R, P, Q, 2), (x, y) in picture sides, at points that span it to its borders.
    """

    masks: Tensor
    covered: Tensor
    ways: Tensor

    @classmethod
    def start(cls, masks: Tensor, *, span: int) -> "Path":
        return cls(masks, masks, masks.new_zeros(*masks.shape[:2], span, span, 2, dtype=torch.float32))

    def sizes(self) -> Tensor:
        """Of the regions as they are now, as `region_sizes` has them: middles come along with what is around them."""
        middles, spreads = region_sizes(self.masks)[..., :2], region_sizes(self.covered)[..., 2:]
        return torch.cat([self.come_to(middles), spreads], dim=-1)

    def come_to(self, places: Tensor) -> Tensor:
        """Where places of the picture (B, R, 2) are now; beyond its border as if they went on with what is at it."""
        ways = rearrange(self.ways, "b r p q c -> (b r) c p q")
        fine = F.interpolate(ways, (FINE, FINE), mode="bilinear", align_corners=True)
        at = corners(FINE, device=ways.device)
        off = at + rearrange(fine, "(b r) c p q -> b r (p q) c", b=len(places)) - places.unsqueeze(2)
        nearest = off.square().sum(dim=-1).argmin(dim=-1)  # (B, R)
        return at[nearest] - off.take_along_dim(nearest[..., None, None], dim=2).squeeze(2)

    def on(self, ways: Tensor) -> Tensor:
        """Ways back to now (B, R, F, P, Q, 2), made into ways back to the picture."""
        sides = ways.shape[3:5]
        y, x = (torch.linspace(-1, 1, side, device=ways.device) for side in sides)
        own = torch.stack([x.expand(sides), y.unsqueeze(1).expand(sides)], dim=-1)
        before = rearrange(self.ways, "b r p q c -> (b r) c p q")
        there = rearrange(own + 2 * ways, "b r f p q c -> (b r) (f p) q c")
        found = F.grid_sample(before, there, padding_mode="border", align_corners=True)
        return ways + rearrange(found, "(b r) c (f p) q -> b r f p q c", b=len(ways), f=ways.shape[2])


def still(first_frame: Tensor, regions: int, num_frames: int) -> Moved:
    """A first frame (B, C, H, W) that nothing is asked of."""
    frames = first_frame.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)
    return Moved(frames, frames.new_zeros(*frames.shape[:2], regions, *frames.shape[3:]))


def move(picture: Tensor, masks: Tensor, ways: Tensor, asked: Tensor) -> Moved:
    """A picture (B, C, H, W) of which each region of masks (B, R, H, W) goes its own way, over what was behind it.

    ways (B, R, F, P, Q, 2) lead back, (x, y) in picture sides, from points that span the picture to its borders. What
    is asked (B, R) moves; later regions lie over earlier ones, and what was behind is filled in from around.
    """
    size, frames = picture.shape[-2:], ways.shape[2]
    asked = asked.to(picture.dtype)[:, :, None, None]
    y, x = (2 * (torch.arange(n, dtype=ways.dtype, device=ways.device) + 0.5) / n - 1 for n in size)
    own = torch.stack([x.expand(size), y.unsqueeze(1).expand(size)], dim=-1)  # (H, W, 2)
    there = own.expand(ways.shape[0] * ways.shape[1] * frames, -1, -1, -1)
    way = F.grid_sample(rearrange(ways, "b r f p q c -> (b r f) c p q"), there, align_corners=True)
    origins = (own + 2 * way.permute(0, 2, 3, 1)).to(picture.dtype)
    how = {"b": len(picture), "f": frames}
    pieces = F.grid_sample(
        picture[:, None, None].expand(-1, masks.shape[1], frames, -1, -1, -1).flatten(0, 2), origins,
        mode="bicubic", padding_mode="border", align_corners=False,
    )  # fmt: skip
    covered = F.grid_sample(
        (masks * asked)[:, :, None, None].expand(-1, -1, frames, -1, -1, -1).flatten(0, 2), origins, align_corners=False
    )
    pieces = rearrange(pieces, "(b r f) c h w -> b f r c h w", **how)
    covered = rearrange(covered, "(b r f) 1 h w -> b f r h w", **how)
    behind = fill(picture, (masks * asked).amax(dim=1, keepdim=True))
    moved = behind.unsqueeze(1).expand(-1, frames, -1, -1, -1)
    for piece, over in zip(pieces.unbind(2), covered.unbind(2), strict=True):
        moved = torch.lerp(moved, piece, over.unsqueeze(2))
    moved = moved.clamp(picture.amin(), picture.amax())  # a cubic goes beyond
    return Moved(moved, covered)


def fill(picture: Tensor, hidden: Tensor) -> Tensor:
    """A picture (B, C, H, W) with what is around in place of what is hidden (B, 1, H, W).

    Source: push and pull (Gortler et al. 1996, "The Lumigraph", Sec. 3.4).
    """
    hidden = F.max_pool2d(hidden, 2 * EDGE_PX + 1, stride=1, padding=EDGE_PX)
    values, weights = [picture * (1 - hidden)], [1 - hidden]
    while max(values[-1].shape[-2:]) > 1:
        values, weights = (
            [*parts, F.avg_pool2d(parts[-1], 2, ceil_mode=True, count_include_pad=False)] for parts in (values, weights)
        )
    filled = values.pop() / weights.pop().clamp_min(1e-6)
    for value, weight in zip(reversed(values), reversed(weights), strict=True):
        around = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        filled = value + (1 - weight) * around
    return filled
