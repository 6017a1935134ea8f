"""Camera moves: pan, zoom and roll of a whole image, seen through a view that never shows what is beyond its borders.

F frames. Points are (x, y) in px of the image; those of the maps here have the center of the image for their origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from dianjing.pipelines.video.motion_path import XY, Similarity

MIN_VIEW = 0.5  # of the view that zoom and roll leave: a pan that needs a smaller one is shortened
OFFSET_WEIGHT = 1e-4  # of the distance of a view from the center: of views as large, the nearest one is taken
STILL_PX = 1e-3  # a view whose corners are so near to those of the image shows all of it


@dataclass(frozen=True, kw_only=True)
class CameraMove:
    """The view of each frame: backward maps, from points of the frame to those of the image, matrices (F, 2, 3)."""

    matrices: np.ndarray

    def map_backward(
        self, x: np.ndarray, y: np.ndarray, frame_index: int, *, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points (h, w) of a frame to those of the image, of (width, height) px, that they show."""
        (xx, xy, dx), (yx, yy, dy) = self.matrices[frame_index]
        center_x, center_y = size[0] / 2, size[1] / 2
        x, y = x - center_x, y - center_y
        return center_x + xx * x + xy * y + dx, center_y + yx * x + yy * y + dy

    def find_view(self, frame_index: int, *, size: tuple[int, int]) -> np.ndarray:
        """The corners (4, 2) of what a frame shows of the image."""
        x, y = (_get_corners(size) + np.array(size) / 2).T
        return np.stack(self.map_backward(x, y, frame_index, size=size), axis=1)

    def shows_image(self, frame_index: int, *, size: tuple[int, int]) -> bool:
        """True if a frame shows the image as it is."""
        corners = _get_corners(size) + np.array(size) / 2
        return bool(np.abs(self.find_view(frame_index, size=size) - corners).max() < STILL_PX)


def plan_camera(moves: Sequence[tuple[Sequence[Similarity], XY]], *, size: tuple[int, int]) -> CameraMove:
    """Plan the view of each frame: the largest one that stays within the image of (width, height) px as it moves.

    moves: for each camera move the similarity of the image at every frame, and its pivot; they follow one another. What
    grows begins with the whole image, and what shrinks ends with it. A pan so long that less than MIN_VIEW of the view
    would be left is shortened.
    """
    linear, shift = _invert_moves(moves, size=size)
    at_corners = np.einsum("fij,cj->fci", linear, _get_corners(size))
    shifts = np.broadcast_to(shift[:, None], at_corners.shape)
    limits = np.array(size) / 2
    view, offset = _maximize(at_corners, linear, shifts, limits)
    pan, smallest = 1.0, MIN_VIEW * _maximize(at_corners, linear, 0 * shifts, limits)[0]
    if view < smallest:
        view = smallest
        pan, offset = _maximize(-shifts, linear, -view * at_corners, limits)
    return CameraMove(matrices=np.concatenate([view * linear, (linear @ offset - pan * shift)[..., None]], axis=-1))


def _get_corners(size: tuple[int, int]) -> np.ndarray:
    """The corners (4, 2) of an image, about its center."""
    width, height = size
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)


def _invert_moves(
    moves: Sequence[tuple[Sequence[Similarity], XY]], *, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Linear parts (F, 2, 2) and shifts (F, 2) of the map from a frame to the image: linear @ point - shift."""
    num_frames = len(moves[0][0])
    linear, shift = np.tile(np.eye(2), (num_frames, 1, 1)), np.zeros((num_frames, 2))
    for similarities, pivot in moves:
        from_center = np.array(pivot) - (size[0] / 2, size[1] / 2)
        for index, similarity in enumerate(similarities):
            c, s = np.cos(similarity.angle) * similarity.scale, np.sin(similarity.angle) * similarity.scale
            forward = np.array([[c, -s], [s, c]])
            shift[index] += linear[index] @ np.linalg.solve(
                forward, from_center - forward @ from_center + (similarity.dx, similarity.dy)
            )
            linear[index] = linear[index] @ np.linalg.inv(forward)
    return linear, shift


def _maximize(
    factors: np.ndarray, linear: np.ndarray, shifts: np.ndarray, limits: np.ndarray
) -> tuple[float, np.ndarray]:
    """Maximize a share on [0, 1] so that |share * factors + linear @ offset - shifts| <= limits, by linear programming.

    factors, shifts: (F, 4, 2). linear: (F, 2, 2). limits: (2,). The result is the share and the offset (2,), as short
    as it can be; they are 0 where there is no solution.
    """
    unit = float(limits.max())
    by_offset = np.broadcast_to(linear[:, None], (*factors.shape, 2)).reshape(-1, 2)
    bound = np.broadcast_to(limits, factors.shape).reshape(-1) / unit
    share, constant = factors.reshape(-1, 1) / unit, shifts.reshape(-1) / unit
    nothing = np.zeros_like(by_offset)
    length = np.block([[np.zeros((4, 1)), np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]), -np.tile(np.eye(2), (2, 1))]])
    rows = [np.hstack([share, by_offset, nothing]), np.hstack([-share, -by_offset, nothing]), length]
    solution = linprog(
        [-1, 0, 0, OFFSET_WEIGHT, OFFSET_WEIGHT],
        A_ub=np.concatenate(rows),
        b_ub=np.concatenate([bound + constant, bound - constant, np.zeros(4)]),
        bounds=[(0, 1), (None, None), (None, None), (0, None), (0, None)],
    )
    return (float(solution.x[0]), unit * solution.x[1:3]) if solution.success else (0.0, np.zeros(2))
