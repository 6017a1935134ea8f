"""Filling of a hole in an image with patches from elsewhere in it, from coarse to fine.

H height, W width; images are float32 (H, W, 3) on [0, 1], holes bool (H, W). N target patches touch the hole; a patch
has D numbers. Positions are (row, column), offsets lead from a patch to the one that it is like: int (H, W, 2).
Sources: Wexler et al. 2007, "Space-time completion of video" (patches that overlap vote for a pixel); Barnes et al.
2009, "PatchMatch" (the search).
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import unfold

from dianjing.dit.motion.warp import push_pull_inpaint

PATCH_PX = 7
HALF = PATCH_PX // 2
LEVEL_SCALE = 1.5  # of the sides, from one level to the next
MAX_COARSE_DEPTH_PX = 4  # of the hole at the coarsest level
NUM_ITERATIONS = (12, 6, 4, 3, 3, 2)  # of search and vote, from the coarsest level on; the last for all others
# per pixel of a patch, relative to a squared difference of colors: of a squared distance in sides of the image, and of
# the squared contrast of the smoothed image around a source, since a hole seldom shows an object once more
DISTANCE_WEIGHT, CONTRAST_WEIGHT = 0.1, 0.3
SMOOTHING_FRACTION = 1 / 64  # of the longer side
PROPAGATION_STEPS = (4, 2, 1)
PROPAGATION_TOLERANCE = 1.02  # the offset of a neighbor may be so much worse, so that pieces stay connected
RANDOM_TOLERANCE = 0.9  # a random offset has to be so much better
CONFIDENCE_BASE = 1.2  # a vote counts less by this factor for every px within the hole
RANDOM_SEED = 0


def push_pull(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill the hole of an image (H, W, C) smoothly."""
    tensors = [
        torch.from_numpy(np.ascontiguousarray(part, np.float32)).permute(2, 0, 1)[None]
        for part in (np.where(hole[..., None], 0, image), hole[..., None])
    ]
    return push_pull_inpaint(*tensors)[0].permute(1, 2, 0).numpy()


def fill_by_patches(image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Fill a hole; return the image and the offsets of its pixels, None where no whole patch is outside the hole."""
    generator = np.random.default_rng(RANDOM_SEED)
    sizes = _list_sizes(hole)
    filled, offsets = None, None
    for index, size in enumerate(sizes):
        small, small_hole = _shrink(image, hole, size)
        if filled is not None:
            enlarged = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)
        else:
            enlarged = push_pull(small, small_hole)
        small[small_hole] = enlarged[small_hole]
        level = _Level(small, small_hole, generator)
        if not len(level.sources):
            continue  # the surroundings are narrower than a patch at this size
        level.start(None if offsets is None else _enlarge_offsets(offsets, size))
        level.run(NUM_ITERATIONS[min(index, len(NUM_ITERATIONS) - 1)])
        filled, offsets = level.image, level.get_offsets()
    if filled is None or offsets is None or filled.shape != image.shape:
        return None
    return filled, offsets


def _list_sizes(hole: np.ndarray) -> list[tuple[int, int]]:
    """List the sizes (width, height) of levels, from one at which the hole is a few px deep to its own."""
    height, width = hole.shape
    sizes, shrink = [(width, height)], 1.0
    depth = float(cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3).max())
    while depth / shrink > MAX_COARSE_DEPTH_PX and min(sizes[0]) > 2 * PATCH_PX + 4:
        shrink *= LEVEL_SCALE
        sizes.insert(0, (max(1, round(width / shrink)), max(1, round(height / shrink))))
    return sizes


def _shrink(image: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Shrink an image by the mean of its pixels outside the hole, and the hole to the pixels that it touches."""
    known = (~hole).astype(np.float32)
    weights = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    values = cv2.resize(image * known[..., None], size, interpolation=cv2.INTER_AREA)
    return values / np.maximum(weights, 1e-3)[..., None], weights < 1 - 1e-3


def _enlarge_offsets(offsets: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.minimum(np.arange(new) * old // new, old - 1) for new, old in zip(size[::-1], offsets.shape, strict=False)
    )
    scale = np.array([size[1] / offsets.shape[0], size[0] / offsets.shape[1]])
    return np.round(offsets[rows[:, None], columns] * scale).astype(int)


def _to_patches(image: np.ndarray) -> Tensor:
    """The patch around each pixel: (H W, D)."""
    padded = np.pad(image, ((HALF, HALF), (HALF, HALF), (0, 0)), mode="edge")
    return unfold(torch.from_numpy(padded).permute(2, 0, 1)[None], PATCH_PX)[0].T.contiguous()


class _Level:
    """State of the filling at one size: the image, and the source of each target patch."""

    def __init__(self, image: np.ndarray, hole: np.ndarray, generator: np.random.Generator) -> None:
        self.image, self.hole, self.generator = image, hole, generator
        square = np.ones((PATCH_PX, PATCH_PX), np.uint8)
        self.is_source = cv2.erode((~hole).astype(np.uint8), square, borderValue=0) > 0
        self.sources = np.argwhere(self.is_source)  # (M, 2)
        is_target = cv2.dilate(hole.astype(np.uint8), square) > 0
        self.targets = np.argwhere(is_target)  # (N, 2)
        self.target_index = np.full(hole.shape, -1)
        self.target_index[is_target] = np.arange(len(self.targets))
        self.source_patches = _to_patches(image)
        sigma = max(1.0, SMOOTHING_FRACTION * max(hole.shape))
        smooth = cv2.GaussianBlur(image, (0, 0), sigma)
        edges = [cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1))]
        self.contrast = sum(edge**2 for edge in edges).sum(axis=-1) * (sigma / 8) ** 2  # type: ignore[union-attr]
        depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3)
        self.confidence = (CONFIDENCE_BASE**-depth)[is_target]  # (N,)

    def start(self, offsets: np.ndarray | None) -> None:
        """Choose sources by the offsets of the level before, or at random, and copy the pixels from them."""
        self.chosen = self._draw(len(self.targets))  # (N, 2)
        if offsets is None:
            return
        limits = np.array(self.hole.shape) - 1
        positions = (self.targets + offsets[tuple(self.targets.T)]).clip(0, limits)
        is_valid = self.is_source[tuple(positions.T)]
        self.chosen[is_valid] = positions[is_valid]
        is_missing = self.hole[tuple(self.targets.T)]
        self.image[tuple(self.targets[is_missing].T)] = self.image[tuple(self.chosen[is_missing].T)]

    def run(self, num_iterations: int) -> None:
        """Search and vote in turn."""
        for _ in range(num_iterations):
            self._search()
            self._vote()

    def get_offsets(self) -> np.ndarray:
        """Offsets of all pixels, zero outside the targets."""
        offsets = np.zeros((*self.hole.shape, 2), int)
        offsets[tuple(self.targets.T)] = self.chosen - self.targets
        return offsets

    def _draw(self, count: int) -> np.ndarray:
        return self.sources[self.generator.integers(0, len(self.sources), count)]

    def _compute_cost(self, indices: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Cost (n,) of sources at these positions (n, 2), for the targets of these indices."""
        source = torch.from_numpy(positions[:, 0] * self.hole.shape[1] + positions[:, 1])
        difference = (self.target_patches[indices] - self.source_patches[source]).square().sum(dim=1).numpy()
        distance = (((positions - self.targets[indices]) / max(self.hole.shape)) ** 2).sum(axis=1)
        prior = DISTANCE_WEIGHT * distance + CONTRAST_WEIGHT * self.contrast[tuple(positions.T)]
        return difference + PATCH_PX**2 * prior

    def _search(self) -> None:
        """Improve the sources by the offsets of neighbors, then by ever smaller random steps."""
        rows, columns = self.targets.T
        self.target_patches = _to_patches(self.image)[torch.from_numpy(rows * self.hole.shape[1] + columns)]
        self.cost = self._compute_cost(np.arange(len(self.targets)), self.chosen)
        limits = np.array(self.hole.shape) - 1
        for step in PROPAGATION_STEPS:
            for offset in ((0, step), (0, -step), (step, 0), (-step, 0)):
                index = self.target_index[tuple((self.targets + offset).clip(0, limits).T)]
                self._try(np.where(index[:, None] >= 0, self.chosen[index] - offset, -1), PROPAGATION_TOLERANCE)
        reach = max(self.hole.shape) // 2
        while reach:
            self._try(self.chosen + self.generator.integers(-reach, reach + 1, self.chosen.shape), RANDOM_TOLERANCE)
            reach //= 2
        self._try(self._draw(len(self.targets)), RANDOM_TOLERANCE)

    def _try(self, positions: np.ndarray, tolerance: float) -> None:
        """Take these positions (N, 2) where they are sources and cost less than `tolerance` times the present ones."""
        is_inside = ((positions >= 0) & (positions < self.hole.shape)).all(axis=1)
        inside = positions.clip(0, np.array(self.hole.shape) - 1)
        (indices,) = np.nonzero(is_inside & self.is_source[tuple(inside.T)])
        cost = self._compute_cost(indices, positions[indices])
        is_better = cost < self.cost[indices] * tolerance
        self.chosen[indices[is_better]] = positions[indices[is_better]]
        self.cost[indices[is_better]] = cost[is_better]

    def _vote(self) -> None:
        """Set each missing pixel to the mean of what the sources of all patches over it show."""
        weights = np.exp(-self.cost / (2 * np.percentile(self.cost, 60) + 1e-6)) * self.confidence + 1e-9
        padded = np.pad(self.image, ((HALF, HALF), (HALF, HALF), (0, 0)), mode="edge")
        votes, total = np.zeros(padded.shape), np.zeros((*padded.shape[:2], 1))
        for row in range(PATCH_PX):
            for column in range(PATCH_PX):
                shift = np.array([row, column])
                to, origin = (tuple((part + shift).T) for part in (self.targets, self.chosen))
                votes[to] += weights[:, None] * padded[origin]
                total[to] += weights[:, None]
        inner = slice(HALF, -HALF), slice(HALF, -HALF)
        self.image[self.hole] = (votes[inner] / np.maximum(total[inner], 1e-9))[self.hole]
