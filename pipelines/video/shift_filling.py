"""Filling of a hole in an image with pieces of its surroundings, each moved as a whole.

H height, W width; images are float32 (H, W, 3) on [0, 1], holes bool (H, W). S possible shifts and K chosen ones, int
(row, column), lead from a missing pixel to the one that it is copied from; P pixels are at the rim of the hole.
Source: He and Sun 2012, "Statistics of patch offsets for image completion" (few shifts fill a hole well).
"""

import cv2
import numpy as np
from scipy import signal

from dianjing.pipelines.video.shift_labels import RIM_PX, Features, ShiftLabeling, compute_features, shift_values
from dianjing.pipelines.video.smooth_filling import copy_seamlessly

NUM_SHIFTS = 40
# how many of these are chosen for the rim, from shifts that find at least such a fraction of a hole, relative to the
# best: those that find more can go on deep into it. The others reach what is left
RIM_CHOICES = ((0.7, 12), (0.35, 9), (0.0, 9))
LABELING_SIDE_PX = 72  # longest side of the image on which the shifts are chosen
MAX_RIM_PIXELS = 400
MIN_SHIFT_FRACTION = 0.06  # of the longer side
MIN_COVERAGE = 0.02  # of a hole: a shift has to find so much of it
MAX_COST = 2.0  # of a rim pixel
RIM_REACH_PX = 3.5  # along the rim, over which costs are averaged
NUM_CHOICES = 3  # of shifts at each missing pixel, if there are so many
BATCH_SIZE = 2000


def fill_by_shifts(image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Fill a hole; return the image and the offsets of its pixels, None where no shift finds anything known."""
    height, width = hole.shape
    shrink = max(1.0, max(height, width) / LABELING_SIDE_PX)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    small, small_hole = _shrink(image, hole, size)
    if not small_hole.any():
        small_hole = cv2.resize(hole.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    shifts = choose_shifts(small, small_hole)
    if not len(shifts):
        return None
    labels = ShiftLabeling(small, small_hole, shifts).find_labels()
    labels = cv2.resize(labels.astype(np.int16), (width, height), interpolation=cv2.INTER_NEAREST).astype(int)
    shifts = _align(image, hole, np.round(shifts * (height / size[1], width / size[0])).astype(int), shrink)
    labels = ShiftLabeling(image, hole, shifts).refine_labels(labels)
    offsets = shifts[labels] * hole[..., None]
    return copy_seamlessly(image, hole, offsets), offsets


def _shrink(image: np.ndarray, hole: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Shrink an image by the mean of its pixels outside the hole, and the hole."""
    known = (~hole).astype(np.float32)
    weights = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    values = cv2.resize(image * known[..., None], size, interpolation=cv2.INTER_AREA)
    return values / np.maximum(weights, 1e-3)[..., None], weights < 0.5


def choose_shifts(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Choose shifts (K, 2): for each part of the rim those that it agrees with, and some for what lies deeper."""
    features = compute_features(image, hole)
    shifts = _list_shifts(features.is_known, hole)
    rim = _list_rim(features, hole)
    if not len(shifts) or not len(rim):
        return shifts[:0]
    costs = _compute_rim_costs(features, shifts, rim)
    coverage = _count_found(features.is_known, hole, shifts)
    chosen: list[int] = []
    for min_fraction, count in RIM_CHOICES:
        chosen += _choose_for_rim(costs, coverage >= min_fraction * coverage.max(), count, chosen)
    best_part = np.sort(costs, axis=1)[:, : max(1, len(rim) // 4)].mean(axis=1)
    num_choices = sum((shift_values(features.is_known, shifts[index]) for index in chosen), np.zeros(hole.shape, int))
    while len(chosen) < NUM_SHIFTS and num_choices[hole].min() < NUM_CHOICES:
        wanting = hole & (num_choices == num_choices[hole].min())
        score = _count_found(features.is_known, wanting, shifts) / (best_part + 0.02)
        score[chosen] = 0
        if score.max() < 1:
            break
        chosen.append(int(score.argmax()))
        num_choices += shift_values(features.is_known, shifts[chosen[-1]])
    return shifts[chosen]


def _choose_for_rim(costs: np.ndarray, is_eligible: np.ndarray, count: int, others: list[int]) -> list[int]:
    """Choose up to `count` of the eligible shifts, besides others, so that each part of the rim agrees with one."""
    chosen: list[int] = []
    eligible = np.setdiff1d(np.nonzero(is_eligible)[0], others)
    costs = costs[eligible]
    least = np.full(costs.shape[1], MAX_COST, np.float32)
    while len(chosen) < count and len(eligible):
        gain = np.maximum(least - costs, 0).sum(axis=1)
        if gain.max() <= 1e-4:
            break
        best = int(gain.argmax())
        chosen.append(int(eligible[best]))
        least = np.minimum(least, costs[best])
    return chosen


def _list_shifts(is_known: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """All shifts (S, 2) that are not too short, and find some of the hole."""
    steps = (np.arange(2 - side, side - 1) for side in hole.shape)
    shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    shifts = shifts[np.hypot(*shifts.T) >= max(3.0, MIN_SHIFT_FRACTION * max(hole.shape))]
    return shifts[_count_found(is_known, hole, shifts) > MIN_COVERAGE * hole.sum()]


def _count_found(is_known: np.ndarray, places: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """How many of the places, bool (H, W), each shift leads to known ones: (S,)."""
    counts = signal.fftconvolve(is_known.astype(float), places[::-1, ::-1].astype(float)).round()
    return counts[tuple((shifts + np.array(places.shape) - 1).T)]


def _align(image: np.ndarray, hole: np.ndarray, shifts: np.ndarray, shrink: float) -> np.ndarray:
    """Align shifts that were found on an image smaller by `shrink`: by what each finds for its part of the rim."""
    reach = int(np.ceil(shrink / 2))
    if shrink == 1 or not reach:
        return shifts
    features = compute_features(image, hole)
    rim = _list_rim(features, hole)
    if not len(rim):
        return shifts
    steps = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    steps = steps[np.argsort(np.hypot(*steps.T), kind="stable")]  # the first one is zero
    costs = _compute_rim_costs(features, (shifts[:, None] + steps).reshape(-1, 2), rim)
    costs = costs.reshape(len(shifts), len(steps), len(rim))
    nearest = costs.min(axis=1).argmin(axis=0)  # the shift of each part of the rim
    aligned = shifts.copy()
    for index in range(len(shifts)):
        is_own = nearest == index
        if is_own.any():
            aligned[index] += steps[costs[index][:, is_own].sum(axis=1).argmin()]
    return aligned


def _list_rim(features: Features, hole: np.ndarray) -> np.ndarray:
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5)
    rim = np.argwhere(features.is_known & (distance <= RIM_PX))
    return rim[np.linspace(0, len(rim) - 1, min(len(rim), MAX_RIM_PIXELS)).round().astype(int)]


def _compute_rim_costs(features: Features, shifts: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """How much what each shift finds differs from each part of the rim: (S, P)."""
    targets = features.values[tuple(rim.T)]
    costs = np.full((len(shifts), len(rim)), MAX_COST, np.float32)
    limits = np.array(features.is_known.shape) - 1
    for first in range(0, len(shifts), BATCH_SIZE):
        places = rim + shifts[first : first + BATCH_SIZE, None]  # (S, P, 2)
        inside = places.clip(0, limits)
        source = inside[..., 0], inside[..., 1]
        is_usable = (places == inside).all(axis=-1) & features.is_known[source]
        difference = ((features.values[source] - targets) ** 2).sum(axis=-1)
        costs[first : first + BATCH_SIZE] = np.where(is_usable, np.minimum(difference, MAX_COST), MAX_COST)
    is_near = np.hypot(*(rim[:, None] - rim).transpose(2, 0, 1)) <= RIM_REACH_PX
    share = (is_near / is_near.sum(axis=1, keepdims=True)).astype(np.float32)
    return costs @ share.T
