"""Warp: regions of an image moved along a flow, over an inpainted background.

B batch, R regions, F frames, C channels, H height, W width, P x Q flow points from border to border of the image.
Points and flow are (x, y) in fractions of the image's sides; pixels have any range.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dianjing.dit.motion.flow_field import grid_points, region_moments

SEARCH_GRID = 65  # points along a side that a forward map chooses from
MASK_DILATION_PX = 1  # around a mask, where an object's colours still show


class Warp(NamedTuple):
    """Frames (B, F, C, H, W) warped from the first one, and the coverage (B, F, R, H, W) by each region, 0 to 1.

    Both are of pixels or of latents.
    """

    frames: Tensor
    coverage: Tensor

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "Warp":
        """Return a warp with `fn` applied to every tensor."""
        return Warp(*(fn(part) for part in self))

    def truncate(self, num_frames: int) -> "Warp":
        """Return the warp of the first `num_frames` frames; tensors are views."""
        return Warp(*(part[:, :num_frames] for part in self))


class MotionTrack(NamedTuple):
    """The motion of regions up to the present frame.

    initial_masks: (B, R, H, W) in the first image. coverage: (B, R, H, W) in the present frame. backward_flow:
    (B, R, P, Q, 2) from the present frame to the first image.
    """

    initial_masks: Tensor
    coverage: Tensor
    backward_flow: Tensor

    @classmethod
    def from_masks(cls, masks: Tensor, *, grid_size: int) -> "MotionTrack":
        """Begin a track with masks (B, R, H, W) and a flow of zero at grid_size x grid_size points."""
        return cls(masks, masks, masks.new_zeros(*masks.shape[:2], grid_size, grid_size, 2, dtype=torch.float32))

    def compute_moments(self) -> Tensor:
        """Compute the moments (B, R, 4) of the regions as they are now, see `region_moments`.

        The centers are those of the first image, mapped forward.
        """
        centers, stds = region_moments(self.initial_masks)[..., :2], region_moments(self.coverage)[..., 2:]
        return torch.cat([self.forward_map(centers), stds], dim=-1)

    def forward_map(self, points: Tensor) -> Tensor:
        """Map points (B, R, 2) of the first image to the present frame by inverting sampled backward flow.

        Points that have left the frame continue with the displacement at its border.
        """
        flow = rearrange(self.backward_flow, "b r p q c -> (b r) c p q")
        dense_flow = F.interpolate(flow, (SEARCH_GRID, SEARCH_GRID), mode="bilinear", align_corners=True)
        search_points = grid_points(SEARCH_GRID, device=flow.device)
        origins = search_points + rearrange(dense_flow, "(b r) c p q -> b r (p q) c", b=len(points))
        displacement = origins - points.unsqueeze(2)
        nearest = displacement.square().sum(dim=-1).argmin(dim=-1)  # (B, R)
        return search_points[nearest] - displacement.take_along_dim(nearest[..., None, None], dim=2).squeeze(2)

    def compose(self, backward_flow: Tensor) -> Tensor:
        """Extend flow (B, R, F, P, Q, 2) of frames back to the present one to flow back to the first image."""
        sizes = backward_flow.shape[3:5]
        y, x = (torch.linspace(-1, 1, size, device=backward_flow.device) for size in sizes)
        sample_grid = torch.stack([x.expand(sizes), y.unsqueeze(1).expand(sizes)], dim=-1)
        sample_grid = rearrange(sample_grid + 2 * backward_flow, "b r f p q c -> (b r) (f p) q c")
        track_flow = rearrange(self.backward_flow, "b r p q c -> (b r) c p q")
        earlier_flow = F.grid_sample(track_flow, sample_grid, padding_mode="border", align_corners=True)
        batch, frames = len(backward_flow), backward_flow.shape[2]
        return backward_flow + rearrange(earlier_flow, "(b r) c (f p) q -> b r f p q c", b=batch, f=frames)


def identity_warp(first_frame: Tensor, num_regions: int, num_frames: int) -> Warp:
    """Return the warp of a first frame (B, C, H, W) in which nothing moves and no region covers anything."""
    frames = first_frame.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)
    return Warp(frames, frames.new_zeros(*frames.shape[:2], num_regions, *frames.shape[3:]))


def warp_regions(
    image: Tensor, masks: Tensor, backward_flow: Tensor, active: Tensor, *, background: Tensor | None = None
) -> Warp:
    """Move each active region of an image (B, C, H, W) along its flow, over the background.

    masks: (B, R, H, W). backward_flow: (B, R, F, P, Q, 2). active: (B, R), regions that move; the others stay part of
    the background. Later regions lie over earlier ones. background: the image (B, C, H, W) without the active regions;
    None: it is filled from their surroundings (`push_pull_inpaint`).
    """
    size, num_frames = image.shape[-2:], backward_flow.shape[2]
    active_masks = masks * active.to(image.dtype)[:, :, None, None]
    origins = _upsample_origins(backward_flow, size).to(image.dtype)
    layers = F.grid_sample(
        image[:, None, None].expand(-1, masks.shape[1], num_frames, -1, -1, -1).flatten(0, 2),
        origins,
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    coverage = F.grid_sample(
        active_masks[:, :, None, None].expand(-1, -1, num_frames, -1, -1, -1).flatten(0, 2),
        origins,
        align_corners=False,
    )
    axes = {"b": len(image), "f": num_frames}
    layers = rearrange(layers, "(b r f) c h w -> b f r c h w", **axes)
    coverage = rearrange(coverage, "(b r f) 1 h w -> b f r h w", **axes)
    if background is None:
        background = push_pull_inpaint(image, active_masks.amax(dim=1, keepdim=True))
    frames = background.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)
    for layer, alpha in zip(layers.unbind(2), coverage.unbind(2), strict=True):
        frames = torch.lerp(frames, layer, alpha.unsqueeze(2))
    frames = frames.clamp(image.amin(), image.amax())  # bicubic interpolation overshoots
    return Warp(frames, coverage)


def _upsample_origins(backward_flow: Tensor, size: tuple[int, ...]) -> Tensor:
    """Turn flow (B, R, F, P, Q, 2) into the origin of every pixel, from -1 to 1 as `grid_sample` takes it.

    Returns (B R F, H, W, 2).
    """
    y, x = (2 * (torch.arange(n, dtype=backward_flow.dtype, device=backward_flow.device) + 0.5) / n - 1 for n in size)
    pixel_grid = torch.stack([x.expand(size), y.unsqueeze(1).expand(size)], dim=-1)  # (H, W, 2)
    flow = rearrange(backward_flow, "b r f p q c -> (b r f) c p q")
    flow = F.grid_sample(flow, pixel_grid.expand(len(flow), -1, -1, -1), align_corners=True)
    return pixel_grid + 2 * flow.permute(0, 2, 3, 1)


def push_pull_inpaint(image: Tensor, mask: Tensor) -> Tensor:
    """Fill the masked pixels (B, 1, H, W) of an image (B, C, H, W) from their surroundings.

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
        coarse = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        filled = value + (1 - weight) * coarse
    return filled
