"""Smooth filling of a hole in an image: of its colors, and of the differences that pieces copied into it leave.

H height, W width, N missing pixels; images are float32 (H, W, C) on [0, 1], holes bool (H, W). Offsets (row, column),
int (H, W, 2), lead from a missing pixel to the one that it is copied from.
"""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve

from dianjing.dit.motion.warp import push_pull_inpaint

SCREENING = 0.002  # weight of the copied colors, relative to that of a difference between neighbors
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def push_pull(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill the hole of an image (H, W, C) smoothly."""
    tensors = [
        torch.from_numpy(np.ascontiguousarray(part, np.float32)).permute(2, 0, 1)[None]
        for part in (np.where(hole[..., None], 0, image), hole[..., None])
    ]
    return push_pull_inpaint(*tensors)[0].permute(1, 2, 0).numpy()


def copy_seamlessly(image: np.ndarray, hole: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Copy pieces into a hole so that neither its rim nor the seams between pieces show.

    What is copied are differences between neighbors, at a seam the mean of those of both pieces; the colors are the
    rim's, and far from it those of the pieces. Where the source is missing as well, the colors are smooth.
    Source: Perez et al. 2003, "Poisson image editing"; the screening is that of Bhat et al. 2008, "Fourier analysis of
    the 2D screened Poisson equation for gradient domain problems".
    """
    places = np.argwhere(hole)  # (N, 2)
    index = np.full(hole.shape, -1)
    index[hole] = np.arange(len(places))
    sources = places + offsets[hole]
    own_weight = SCREENING * _is_known(sources, hole)
    diagonal = own_weight + 0
    right = own_weight[:, None] * _take(image, sources)
    rows, columns = [np.arange(len(places))], [np.arange(len(places))]
    for step in STEPS:
        neighbors = places + step
        is_inside = np.all((neighbors >= 0) & (neighbors < hole.shape), axis=1)
        is_missing = is_inside & _take(hole, neighbors)
        is_rim = is_inside & ~is_missing
        change, weight = _get_change(image, hole, sources, step)
        other, other_weight = _get_change(image, hole, places + _take(offsets, neighbors), step)
        other_weight = other_weight * is_missing
        total = np.maximum(weight + other_weight, 1)[:, None]
        mean = (change * weight[:, None] + other * other_weight[:, None]) / total
        diagonal += is_inside
        right += mean * is_inside[:, None] + _take(image, neighbors) * is_rim[:, None]
        rows.append(np.nonzero(is_missing)[0])
        columns.append(index[tuple(neighbors[is_missing].T)])
    values = np.concatenate([diagonal, np.full(sum(map(len, rows)) - len(places), -1.0)])
    matrix = sparse.csc_matrix((values, (np.concatenate(rows), np.concatenate(columns))), shape=(len(places),) * 2)
    filled = image.copy()
    filled[hole] = spsolve(matrix, right).reshape(len(places), -1).clip(0, 1)
    return filled


def _take(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values (H, W, ...) at places (N, 2), or at the nearest ones inside."""
    return values[tuple(places.clip(0, np.array(values.shape[:2]) - 1).T)]


def _is_known(places: np.ndarray, hole: np.ndarray) -> np.ndarray:
    is_inside = np.all((places >= 0) & (places < hole.shape), axis=1)
    return is_inside & ~_take(hole, places)


def _get_change(
    image: np.ndarray, hole: np.ndarray, places: np.ndarray, step: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """How much places (N, 2) differ from their neighbors (N, C), and 1 where both are known, else 0."""
    weight = (_is_known(places, hole) & _is_known(places + step, hole)).astype(float)
    return (_take(image, places) - _take(image, places + step)) * weight[:, None], weight
