"""Turns that come closest to a flow: what sways about a joint keeps its shape, as a head does.

F frames, G flow points along a side, N points; masks are bool (H, W). Points are (x, y) in px of the image.
"""

import numpy as np

from dianjing.pipelines.video.image_warp import XY, sample_linear

MAX_POINTS = 2000  # of a mask, at which a flow is looked at


def fit_turn(flow: np.ndarray, mask: np.ndarray, *, square: tuple[float, float, float], pivot: XY) -> np.ndarray:
    """Replace the flow of an object by that of a turn about a pivot, which moves its points most nearly as far.

    flow: backward, (F, G, G, 2) in sides of the square (left, top, side) in px; the result is the same.
    Source: the rotation of least squares, as in Schonemann 1966, "A generalized solution of the orthogonal Procrustes
    problem".
    """
    left, top, side = square
    rows, columns = np.nonzero(mask)
    step = max(1, len(rows) // MAX_POINTS)
    x, y = columns[::step] + 0.5, rows[::step] + 0.5
    cells = flow.shape[1] - 1
    grid = side * np.linspace(0, 1, cells + 1)
    across, down = np.meshgrid(left + grid - pivot[0], top + grid - pivot[1])
    rotated = np.empty_like(flow)
    for index, frame in enumerate(flow):
        moved = side * sample_linear(frame, (x - left) / side * cells, (y - top) / side * cells)
        to_x, to_y = x - pivot[0] + moved[..., 0], y - pivot[1] + moved[..., 1]
        cross = ((x - pivot[0]) * to_y - (y - pivot[1]) * to_x).sum()
        angle = np.arctan2(cross, ((x - pivot[0]) * to_x + (y - pivot[1]) * to_y).sum())
        c, s = np.cos(angle), np.sin(angle)
        rotated[index] = np.stack([c * across - s * down - across, s * across + c * down - down], axis=-1) / side
    return rotated
