"""Choice of a shift for each pixel of a hole: pieces that agree with the rim, and with each other along their seams.

H height, W width, K shifts, F features; images are float32 (H, W, 3) on [0, 1], holes bool (H, W), labels int (H, W).
Shifts (K, 2) are (row, column), from a missing pixel to the one that it is copied from.
Source: Pritch et al. 2009, "Shift-map image editing"; the minimum is sought by min-sum belief propagation in sweeps
(Tappen and Freeman 2003, "Comparison of graph cuts with belief propagation for stereo").
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from scipy import ndimage

from dianjing.pipelines.video.smooth_filling import STEPS, push_pull

RIM_PX = 3  # width of the known band that a piece has to agree with
COLOR_WEIGHT, CHANGE_WEIGHT = 1.0, 2.0  # of colors, and of differences between neighbors, when pieces are compared
# per missing pixel, relative to a squared difference of features: of disagreement with the rim, of the length of a
# shift in sides of the image, of the squared difference of the blurred colors from what the rim lets expect, and of
# the same of the logarithm of the contrast, where there is more than expected, and where there is less
RIM_WEIGHT, DISTANCE_WEIGHT, SMOOTH_COLOR_WEIGHT = 6.0, 0.005, 0.05
MORE_CONTRAST_WEIGHT, LESS_CONTRAST_WEIGHT = 0.05, 0.001
MIN_CONTRAST = 0.01
MAX_CONTRAST_RATIO = 1.5  # logarithm: an edge is as good as a texture
SMOOTHING_FRACTION = 1 / 64  # of the longer side
UNUSABLE_COST = 30.0  # of a source that is missing itself
MIN_RIM_FRACTION = 0.3  # of the known pixels around a place: so many have to be known at its source too
NUM_SWEEPS = 6
NUM_REFINEMENTS = 4


@dataclass(frozen=True)
class Features:
    """Features that are compared of an image: values (H, W, F), and where they are known, bool (H, W)."""

    values: np.ndarray
    is_known: np.ndarray


def compute_features(image: np.ndarray, hole: np.ndarray) -> Features:
    """Compute the colors of an image and the differences of neighbors, with their weights."""
    is_known = cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    changes = [CHANGE_WEIGHT * change for change in _get_changes(image)]
    return Features(np.concatenate([COLOR_WEIGHT * image, *changes], axis=-1).astype(np.float32), is_known)


def shift_values(values: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The values (H, W, ...) at every place plus the shift, zero beyond the borders."""
    shifted = np.zeros_like(values)
    to, source = [], []
    for step, side in zip(shift.tolist(), values.shape, strict=False):
        to.append(slice(max(0, -step), max(0, side - max(0, step))))
        source.append(slice(max(0, step), max(0, side + min(0, step))))
    shifted[tuple(to)] = values[tuple(source)]
    return shifted


class ShiftLabeling:
    """Costs of the shifts of a hole, and of two different ones side by side."""

    def __init__(self, image: np.ndarray, hole: np.ndarray, shifts: np.ndarray) -> None:
        self.hole, features = hole, compute_features(image, hole)
        self.shifted = np.stack([shift_values(features.values, shift) for shift in shifts], axis=2)  # (H, W, K, F)
        self.costs = _compute_costs(image, hole, features, self.shifted, shifts)  # (H, W, K)

    def find_labels(self) -> np.ndarray:
        """Find the labels that cost least, from scratch."""
        box = tuple(slice(part.min(), part.max() + 1) for part in np.nonzero(self.hole))
        labels = np.zeros(self.hole.shape, int)
        labels[box] = _propagate_beliefs(self.costs[box], self.shifted[box], self.hole[box]).argmin(axis=-1)
        return labels

    def refine_labels(self, labels: np.ndarray) -> np.ndarray:
        """Improve labels, such as those of a smaller image: each pixel may take the label of a neighbor."""
        costs = np.take_along_axis(self.costs, labels[..., None], axis=-1)[..., 0]
        is_usable = self.hole & (costs < UNUSABLE_COST)
        if not is_usable.any():
            return labels
        rows, columns = ndimage.distance_transform_edt(~is_usable, return_distances=False, return_indices=True)
        labels = labels[rows, columns]
        places = np.argwhere(self.hole)
        is_even = places.sum(axis=1) % 2 == 0
        for _ in range(NUM_REFINEMENTS):
            for part in (places[is_even], places[~is_even]):
                self._improve(labels, part)
        return labels

    def _improve(self, labels: np.ndarray, places: np.ndarray) -> None:
        limits = np.array(self.hole.shape) - 1
        neighbors = [tuple((places + step).clip(0, limits).T) for step in STEPS]
        place = tuple(places.T)
        best = labels[place]
        least = self._compute_local_cost(labels, place, neighbors, best)
        for neighbor in neighbors:
            candidate = labels[neighbor]
            cost = self._compute_local_cost(labels, place, neighbors, candidate)
            best, least = np.where(cost < least, candidate, best), np.minimum(cost, least)
        labels[place] = best

    def _compute_local_cost(
        self, labels: np.ndarray, place: tuple, neighbors: list[tuple], candidate: np.ndarray
    ) -> np.ndarray:
        """Cost (N,) of these labels at these places, next to the present ones of their neighbors."""
        here = (*place, candidate)
        cost, own = self.costs[here], self.shifted[here]
        for neighbor in neighbors:
            other = labels[neighbor]
            here, there, there_now = (*place, other), (*neighbor, candidate), (*neighbor, other)
            seam = (own - self.shifted[here]) ** 2 + (self.shifted[there] - self.shifted[there_now]) ** 2
            cost = cost + seam.sum(axis=-1) * self.hole[neighbor]
        return cost


def _get_changes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of neighbors in a row and in a column, zero at the border."""
    across, down = np.zeros_like(image), np.zeros_like(image)
    across[:, :-1] = image[:, 1:] - image[:, :-1]
    down[:-1] = image[1:] - image[:-1]
    return across, down


def _compute_costs(
    image: np.ndarray, hole: np.ndarray, features: Features, shifted: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Cost (H, W, K) of each shift by itself."""
    look = _compute_look(image, hole, features.is_known)
    expected = push_pull(look, ~features.is_known)
    window = (2 * RIM_PX + 1,) * 2
    num_known = cv2.boxFilter(features.is_known.astype(np.float32), -1, window, normalize=False)
    costs = []
    for index, shift in enumerate(shifts):
        is_usable = shift_values(features.is_known, shift)
        both = (features.is_known & is_usable).astype(np.float32)
        difference = ((features.values - shifted[:, :, index]) ** 2).sum(axis=-1) * both
        total, count = (cv2.boxFilter(part, -1, window, normalize=False) for part in (difference, both))
        rim = np.where(count > MIN_RIM_FRACTION * num_known, total / np.maximum(count, 1), 1)
        cost = RIM_WEIGHT * rim * np.minimum(num_known / 8, 1)
        cost += _compare_looks(shift_values(look, shift), expected)
        cost += DISTANCE_WEIGHT * np.hypot(*shift) / max(hole.shape)
        costs.append(np.where(is_usable, cost, UNUSABLE_COST))
    return np.stack(costs, axis=-1).astype(np.float32)


def _compute_look(image: np.ndarray, hole: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Blurred colors of an image, and the logarithm of its contrast: (H, W, 4)."""
    sigma = max(1.0, SMOOTHING_FRACTION * max(hole.shape))
    colors = _blur_known(image, ~hole, sigma)
    energy = sum((change**2).sum(axis=-1, keepdims=True) for change in _get_changes(image))
    contrast = np.sqrt(np.maximum(_blur_known(energy, is_known, sigma), 0))
    return np.concatenate([colors, np.log(contrast + MIN_CONTRAST)], axis=-1).astype(np.float32)


def _blur_known(values: np.ndarray, is_known: np.ndarray, sigma: float) -> np.ndarray:
    """Blur values (H, W, C) by the mean of those that are known."""
    weights = is_known.astype(np.float32)
    blurred = cv2.GaussianBlur(values * weights[..., None], (0, 0), sigma).reshape(values.shape)
    return blurred / np.maximum(cv2.GaussianBlur(weights, (0, 0), sigma), 1e-3)[..., None]


def _compare_looks(look: np.ndarray, expected: np.ndarray) -> np.ndarray:
    difference = look - expected
    more = difference[..., 3].clip(-MAX_CONTRAST_RATIO, MAX_CONTRAST_RATIO)
    weight = np.where(more > 0, MORE_CONTRAST_WEIGHT, LESS_CONTRAST_WEIGHT)
    return SMOOTH_COLOR_WEIGHT * (difference[..., :3] ** 2).sum(axis=-1) + weight * more**2


def _propagate_beliefs(costs: np.ndarray, shifted: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Least cost (h, w, K) of all labels with each label at each place, as far as the messages tell."""
    squares = (shifted**2).sum(axis=-1)
    pairs = squares[..., :, None] + squares[..., None, :] - 2 * shifted @ shifted.swapaxes(-1, -2)  # (h, w, K, K)
    messages = np.zeros((4, *costs.shape), np.float32)  # from the left, the right, above and below
    for _ in range(NUM_SWEEPS):
        for direction, (down, across) in enumerate(STEPS):
            axis = 0 if down else 1
            lines = [(line, slice(None)) if down else (slice(None), line) for line in range(hole.shape[axis])]
            for at, to in pairwise(lines[:: down + across]):
                known = costs[at] + sum(part[at] for part in messages) - messages[direction ^ 1][at]
                message = (known[..., None] + pairs[at] + pairs[to]).min(axis=-2)
                message -= message.min(axis=-1, keepdims=True)
                messages[direction][to] = message * (hole[at] & hole[to])[..., None]
    return costs + messages.sum(axis=0)
