"""The first frame, moved: what a motion field says, done to a picture.

B batch, R regions, F frames, C channels, H height, W width; pictures have any range.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dianjing.dit.motion.flow_field import grid_points, region_moments

SEARCH_GRID = 65  # points along a side among which a place is looked for
MASK_DILATION_PX = 1  # around a mask, where an object's colours still show


class Warp(NamedTuple):
    """Frames (B, F, C, H, W) made of the first one, and where regions are in them (B, F, R, H, W), 0 to 1: a picture's
    or, with Y and X in place of H and W, latents.
    """

    frames: Tensor
    coverage: Tensor

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "Warp":
        return Warp(*(fn(part) for part in self))

    def truncate(self, num_frames: int) -> "Warp":
        return Warp(*(part[:, :num_frames] for part in self))


class MotionTrack(NamedTuple):
    """How regions have come to where they are now: masks of the picture (B, R, H, W) and of now, and the ways back from
    now to the picture (B, R, P, Q, 2), (x, y) in picture sides, at points that span it to its borders.
    """

    initial_masks: Tensor
    coverage: Tensor
    backward_flow: Tensor

    @classmethod
    def from_masks(cls, masks: Tensor, *, grid_size: int) -> "MotionTrack":
        return cls(masks, masks, masks.new_zeros(*masks.shape[:2], grid_size, grid_size, 2, dtype=torch.float32))

    def compute_moments(self) -> Tensor:
        """Of the regions as they are now, as `region_sizes` has them: middles come along with what is around them."""
        middles, spreads = region_moments(self.initial_masks)[..., :2], region_moments(self.coverage)[..., 2:]
        return torch.cat([self.forward_map(middles), spreads], dim=-1)

    def forward_map(self, points: Tensor) -> Tensor:
        """Where places of the picture (B, R, 2) are now; beyond its border as if they went on with what is at it."""
        ways = rearrange(self.backward_flow, "b r p q c -> (b r) c p q")
        fine = F.interpolate(ways, (SEARCH_GRID, SEARCH_GRID), mode="bilinear", align_corners=True)
        at = grid_points(SEARCH_GRID, device=ways.device)
        off = at + rearrange(fine, "(b r) c p q -> b r (p q) c", b=len(points)) - points.unsqueeze(2)
        nearest = off.square().sum(dim=-1).argmin(dim=-1)  # (B, R)
        return at[nearest] - off.take_along_dim(nearest[..., None, None], dim=2).squeeze(2)

    def compose(self, backward_flow: Tensor) -> Tensor:
        """Ways back to now (B, R, F, P, Q, 2), made into ways back to the picture."""
        sides = backward_flow.shape[3:5]
        y, x = (torch.linspace(-1, 1, side, device=backward_flow.device) for side in sides)
        own = torch.stack([x.expand(sides), y.unsqueeze(1).expand(sides)], dim=-1)
        before = rearrange(self.backward_flow, "b r p q c -> (b r) c p q")
        there = rearrange(own + 2 * backward_flow, "b r f p q c -> (b r) (f p) q c")
        found = F.grid_sample(before, there, padding_mode="border", align_corners=True)
        return backward_flow + rearrange(
            found, "(b r) c (f p) q -> b r f p q c", b=len(backward_flow), f=backward_flow.shape[2]
        )


def identity_warp(first_frame: Tensor, num_regions: int, num_frames: int) -> Warp:
    """A first frame (B, C, H, W) that nothing is asked of."""
    frames = first_frame.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)
    return Warp(frames, frames.new_zeros(*frames.shape[:2], num_regions, *frames.shape[3:]))


def warp_regions(image: Tensor, masks: Tensor, backward_flow: Tensor, active: Tensor) -> Warp:
    """A picture (B, C, H, W) of which each region of masks (B, R, H, W) goes its own way, over what was behind it.

    ways (B, R, F, P, Q, 2) lead back, (x, y) in picture sides, from points that span the picture to its borders. What
    is asked (B, R) moves; later regions lie over earlier ones, and what was behind is filled in from around.
    """
    size, frames = image.shape[-2:], backward_flow.shape[2]
    active = active.to(image.dtype)[:, :, None, None]
    y, x = (2 * (torch.arange(n, dtype=backward_flow.dtype, device=backward_flow.device) + 0.5) / n - 1 for n in size)
    own = torch.stack([x.expand(size), y.unsqueeze(1).expand(size)], dim=-1)  # (H, W, 2)
    there = own.expand(backward_flow.shape[0] * backward_flow.shape[1] * frames, -1, -1, -1)
    way = F.grid_sample(rearrange(backward_flow, "b r f p q c -> (b r f) c p q"), there, align_corners=True)
    origins = (own + 2 * way.permute(0, 2, 3, 1)).to(image.dtype)
    how = {"b": len(image), "f": frames}
    pieces = F.grid_sample(
        image[:, None, None].expand(-1, masks.shape[1], frames, -1, -1, -1).flatten(0, 2),
        origins,
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    covered = F.grid_sample(
        (masks * active)[:, :, None, None].expand(-1, -1, frames, -1, -1, -1).flatten(0, 2),
        origins,
        align_corners=False,
    )
    pieces = rearrange(pieces, "(b r f) c h w -> b f r c h w", **how)
    covered = rearrange(covered, "(b r f) 1 h w -> b f r h w", **how)
    behind = push_pull_inpaint(image, (masks * active).amax(dim=1, keepdim=True))
    moved = behind.unsqueeze(1).expand(-1, frames, -1, -1, -1)
    for piece, over in zip(pieces.unbind(2), covered.unbind(2), strict=True):
        moved = torch.lerp(moved, piece, over.unsqueeze(2))
    moved = moved.clamp(image.amin(), image.amax())  # a cubic goes beyond
    return Warp(moved, covered)


def push_pull_inpaint(image: Tensor, mask: Tensor) -> Tensor:
    """A picture (B, C, H, W) with what is around in place of what is hidden (B, 1, H, W).

    Source: push and pull (Gortler et al. 1996, "The Lumigraph", Sec. 3.4).
    """
    mask = F.max_pool2d(mask, 2 * MASK_DILATION_PX + 1, stride=1, padding=MASK_DILATION_PX)
    values, weights = [image * (1 - mask)], [1 - mask]
    while max(values[-1].shape[-2:]) > 1:
        values, weights = (
            [*parts, F.avg_pool2d(parts[-1], 2, ceil_mode=True, count_include_pad=False)] for parts in (values, weights)
        )
    filled = values.pop() / weights.pop().clamp_min(1e-6)
    for value, weight in zip(reversed(values), reversed(weights), strict=True):
        around = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        filled = value + (1 - weight) * around
    return filled
