"""Inpainting of the background behind a region that moves away, so that the texture goes on.

H height, W width; images are uint8 (H, W, 3), holes bool (H, W). N patches with missing pixels, M whole ones; a patch
has D numbers.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from dianjing.dit.motion.warp import push_pull_inpaint

PATCH_PX = 9
CONTEXT_FRACTION = 0.6  # of the hole's sides: how far around it patches are taken from
MIN_CONTEXT_PX = 12
WORKING_SIDE_PX = 128  # longest side of a hole with its context at which patches are compared
MAX_SOURCES = 8000  # patches that a patch is compared with
MIN_EDGE = 0.05  # of the range of gray: the weight of an area without edges in the order of filling
# per missing pixel, relative to a squared difference of a color: of a squared distance in sides of the image, and of a
# squared difference of the mean color from a smooth filling of the hole
DISTANCE_WEIGHT, GUIDE_WEIGHT = 0.1, 0.25
HALF = PATCH_PX // 2


def inpaint(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill the hole of an image with what patches from around it show; other pixels stay as they are.

    On a smaller image, patch after patch at the edge of the hole is completed from the patch elsewhere that it is most
    like, edges first. Every pixel of the hole then is a copy of a place outside, and takes the fine detail from there.
    Source: Criminisi et al. 2004, "Region filling and object removal by exemplar-based image inpainting".
    """
    if not hole.any():
        return image.copy()
    box = _get_context(hole)
    part, part_hole = image[box], hole[box]
    if part_hole.all():
        return image.copy()  # nothing to take the background from
    filled = image.copy()
    filled[box] = _fill(part, part_hole)
    return filled


def _get_context(hole: np.ndarray) -> tuple[slice, slice]:
    """The box of a hole and its surroundings."""
    box = []
    for axis in (1, 0):
        (indices,) = np.nonzero(hole.any(axis=axis))
        first, last = int(indices[0]), int(indices[-1]) + 1
        margin = max(MIN_CONTEXT_PX, round(CONTEXT_FRACTION * (last - first)))
        box.append(slice(max(0, first - margin), min(hole.shape[1 - axis], last + margin)))
    return box[0], box[1]


def _fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    height, width = hole.shape
    shrink = max(1.0, max(height, width) / WORKING_SIDE_PX)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    small_hole = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 1e-3
    small = _shrink_known(image, hole, size)
    filling = _PatchFilling(small, small_hole)
    if not len(filling.sources):  # the surroundings are narrower than a patch
        smooth = cv2.inpaint(small.astype(np.uint8), small_hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        enlarged = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.where(hole[..., None], enlarged, image)
    filled, origins = filling.run()
    return _enlarge(image, hole, small, filled, origins)


def _shrink_known(image: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink an image by the mean of its pixels outside the hole: float32, zero where there are none."""
    known = (~hole).astype(np.float32)
    weights = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    values = cv2.resize(image.astype(np.float32) * known[..., None], size, interpolation=cv2.INTER_AREA)
    return values / np.maximum(weights, 1e-3)[..., None]


def _to_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).permute(2, 0, 1)[None]


class _PatchFilling:
    """State while the hole of an image, float32 (h, w, 3), is filled; arrays are wider by half a patch on each side."""

    def __init__(self, image: np.ndarray, hole: np.ndarray) -> None:
        pad = ((HALF, HALF), (HALF, HALF))
        self.pixels = np.pad(image / 255, (*pad, (0, 0)))
        guide = push_pull_inpaint(_to_tensor(image / 255), _to_tensor(hole[..., None].astype(np.float32)))
        self.guide = np.pad(guide[0].permute(1, 2, 0).numpy(), (*pad, (0, 0)))
        self.is_inside = np.pad(np.ones_like(hole), pad)
        self.is_known = np.pad(~hole, pad)
        self.confidence = self.is_known.astype(np.float32)
        self.origins = np.moveaxis(
            np.indices(self.is_known.shape), 0, -1
        ).copy()  # (row, column) that a pixel is a copy of
        square = np.ones((PATCH_PX, PATCH_PX), np.uint8)
        centers = np.argwhere(cv2.erode(self.is_known.astype(np.uint8), square, borderValue=0) > 0)
        if len(centers) > MAX_SOURCES:
            centers = centers[np.linspace(0, len(centers) - 1, MAX_SOURCES).astype(int)]
        self.sources = centers  # (M, 2)
        if len(centers):
            windows = np.lib.stride_tricks.sliding_window_view(self.pixels, (PATCH_PX, PATCH_PX), axis=(0, 1))
            patches = windows[centers[:, 0] - HALF, centers[:, 1] - HALF]  # (M, 3, PATCH_PX, PATCH_PX)
            self.patches = torch.from_numpy(np.ascontiguousarray(patches).reshape(len(centers), 3, -1))
            self.squares = self.patches.square().sum(dim=1)  # (M, PATCH_PX ** 2)
            self.means = self.patches.mean(dim=2)  # (M, 3)

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Fill the hole; return the image, float32, and the place (row, column) that each pixel is a copy of."""
        while (self.is_inside & ~self.is_known).any():
            row, column, confidence = self._choose_center()
            self._complete(row, column, confidence)
        inner = slice(HALF, -HALF), slice(HALF, -HALF)
        return self.pixels[inner] * 255, self.origins[inner] - HALF

    def _choose_center(self) -> tuple[int, int, float]:
        """Choose the patch at the edge of the hole that is known best and has the strongest edges."""
        known = self.is_known.astype(np.float32)
        missing = (self.is_inside & ~self.is_known).astype(np.uint8)
        front = (missing > 0) & (cv2.dilate(known, np.ones((3, 3), np.uint8)) > 0)
        if not front.any():
            front = missing > 0
        confidence = cv2.blur(self.confidence, (PATCH_PX, PATCH_PX), borderType=cv2.BORDER_CONSTANT)
        gray = self.pixels.mean(axis=-1)
        edges = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)) / 8
        edges *= cv2.erode(known, np.ones((3, 3), np.uint8))
        edges = cv2.dilate(edges, np.ones((PATCH_PX, PATCH_PX), np.uint8))
        priority = np.where(front, confidence * (MIN_EDGE + edges), -1)
        row, column = np.unravel_index(priority.argmax(), priority.shape)
        return int(row), int(column), float(confidence[row, column])

    def _complete(self, row: int, column: int, confidence: float) -> None:
        """Copy the missing pixels of a patch from the whole patch that is most like it."""
        window = slice(row - HALF, row + HALF + 1), slice(column - HALF, column + HALF + 1)
        known = torch.from_numpy(self.is_known[window].reshape(-1)).float()
        target = torch.from_numpy(self.pixels[window].reshape(-1, 3).T.copy()) * known  # (3, D / 3)
        difference = self.squares @ known - 2 * (self.patches.flatten(1) @ target.flatten())
        offset = self.sources - np.array([row, column])
        distance = (offset / max(self.is_known.shape)) ** 2
        missing = self.is_inside[window] & ~self.is_known[window]
        guide = torch.from_numpy(self.guide[window][missing].mean(axis=0))
        color = (self.means - guide).square().sum(dim=1).numpy()
        prior = DISTANCE_WEIGHT * distance.sum(axis=1) + GUIDE_WEIGHT * color
        cost = difference.numpy() + float(missing.sum()) * prior
        source_row, source_column = self.sources[int(cost.argmin())]
        from_window = (
            slice(source_row - HALF, source_row + HALF + 1),
            slice(source_column - HALF, source_column + HALF + 1),
        )
        self.pixels[window][missing] = self.pixels[from_window][missing]
        self.origins[window][missing] = self.origins[from_window][missing]
        self.confidence[window][missing] = confidence
        self.is_known[window] |= missing


def _enlarge(
    image: np.ndarray, hole: np.ndarray, small: np.ndarray, filled: np.ndarray, origins: np.ndarray
) -> np.ndarray:
    """Enlarge a small filled image, with the detail of the places that its pixels are copies of."""
    height, width = hole.shape
    small_height, small_width = filled.shape[:2]
    smooth = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
    own = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    detail = np.where(hole[..., None], 0, image.astype(np.float32) - own)
    rows, columns = np.nonzero(hole)
    small_rows = np.minimum(rows * small_height // height, small_height - 1)
    small_columns = np.minimum(columns * small_width // width, small_width - 1)
    offsets = origins[small_rows, small_columns] - np.stack([small_rows, small_columns], axis=-1)
    from_rows = (rows + np.round(offsets[:, 0] * (height / small_height)).astype(int)).clip(0, height - 1)
    from_columns = (columns + np.round(offsets[:, 1] * (width / small_width)).astype(int)).clip(0, width - 1)
    result = image.copy()
    result[rows, columns] = (smooth[rows, columns] + detail[from_rows, from_columns]).round().clip(0, 255)
    return result
