"""Sways: a part turns about its joint as far as the flow slants it, and keeps its shape."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from dianjing.pipelines.segmentation.base import Region
from dianjing.pipelines.video.rigid_turn import fit_turn
from dianjing.pipelines.video.warp_image import warp_image

SIDE, CELLS = 120.0, 32
PIVOT = (60.0, 90.0)
Y, X = np.mgrid[:120, :120]
HEAD = np.hypot(X - 60, Y - 40) <= 24
GRID = np.stack(np.meshgrid(*2 * [np.linspace(0, SIDE, CELLS + 1)]), axis=-1) - PIVOT


def make_flow(*matrices):
    """The backward flows (F, G, G, 2) that map each point about the pivot by a matrix."""
    return np.stack([(GRID @ np.array(matrix).T - GRID) / SIDE for matrix in matrices])


def rotate(angle):
    c, s = np.cos(angle), np.sin(angle)
    return [[c, -s], [s, c]]


def fit(*matrices):
    return fit_turn(make_flow(*matrices), HEAD, square=(0, 0, SIDE), pivot=PIVOT)


@pytest.mark.parametrize("angle", [-0.6, 0.0, 0.3])
def test_a_flow_that_turns_stays_and_growth_is_left_out(angle):
    np.testing.assert_allclose(fit(rotate(angle)), make_flow(rotate(angle)), atol=1e-9)
    grown = (1.3 * np.array(rotate(angle))).tolist()
    np.testing.assert_allclose(fit(grown), make_flow(rotate(angle)), atol=1e-9)


def test_the_turn_of_a_slant_is_that_of_least_squares():
    """SciPy finds the rotation of the same points by a singular value decomposition."""
    from scipy.spatial.transform import Rotation

    slant = [[1, 0.5], [0, 1]]
    points = np.argwhere(HEAD)[:, ::-1] + 0.5 - PIVOT
    moved = points @ np.array(slant).T
    flat = [np.concatenate([part, np.zeros((len(part), 1))], axis=1) for part in (moved, points)]
    expected = Rotation.align_vectors(*flat)[0].as_matrix()[:2, :2]
    np.testing.assert_allclose(fit([[1, 0], [0, 1]], slant), make_flow([[1, 0], [0, 1]], expected), atol=1e-3)


class Slanting:
    """A flow field that slants what it is asked to move about the pivot, to the right, as sprites sway."""

    def __init__(self, name):
        self.motion_vocabulary = SimpleNamespace(find=lambda phrase: SimpleNamespace(name=name))

    def predict(self, masks, phrases, strengths, *, num_frames, fps):
        return make_flow([[1, 0], [0, 1]], [[1, 0.5], [0, 1]])[None]


def measure_roundness(frame):
    """The shorter axis of the head relative to its longer one, by the moments of its pixels."""
    rows, columns = np.nonzero(frame[..., 0] > 150)
    high = rows < 70
    values = np.linalg.eigvalsh(np.cov(np.stack([rows[high], columns[high]])))
    return float(np.sqrt(values[0] / values[1]))


def test_a_head_that_sways_stays_round_and_its_neck_stays_where_it_is():
    image = np.full((120, 120, 3), (60, 90, 120), np.uint8)
    mask = HEAD | ((np.abs(X - 60) < 7) & (Y > 50) & (Y < 90))
    image[mask] = (220, 180, 160)
    image[90:, 20:100] = (220, 180, 160)
    image = cv2.GaussianBlur(image, (0, 0), 0.6)
    region = Region(mask=mask, motion="sway")
    swayed, slanted = (warp_image(image, [region], 2, phrase_flow=Slanting(name))[0][1] for name in ("sway", "other"))
    assert measure_roundness(swayed) > 0.93 * measure_roundness(image)
    assert measure_roundness(slanted) < 0.7 * measure_roundness(image)
    columns = np.nonzero(swayed[30][:, 0] > 150)[0]
    assert abs(columns.mean() - 60) > 8
    np.testing.assert_array_equal(swayed[92:], image[92:])
