"""Mattes: hard edges stay hard, soft ones become soft, and hair is followed to its tips at any size of the image."""

import cv2
import numpy as np
import pytest

from dianjing.pipelines.video.matting import compute_matte, get_edge_radius_px


def test_the_matte_keeps_a_hard_edge_hard_and_is_soft_where_the_image_is():
    image = np.full((80, 120, 3), 230, np.uint8)
    image[:, :60] = (30, 60, 90)
    truth = np.zeros((80, 120), bool)
    truth[:, :60] = True
    assert (
        np.abs(
            compute_matte(image, truth)[:, [*range(56), *range(64, 120)]] - truth[:, [*range(56), *range(64, 120)]]
        ).max()
        < 1e-3
    )
    soft = cv2.GaussianBlur(image, (0, 0), 2.0)
    matte = compute_matte(soft, np.roll(truth, 1, axis=1) | truth)
    opacity = (230 - soft[..., 0].astype(float)) / 200
    assert np.abs(matte - opacity)[:, 57:64].mean() < 0.5 * np.abs(truth - opacity)[:, 57:64].mean() + 0.12


def make_hairy_ball(width):
    """A ball with hair on a light ground: its image, its opacity, and the mask of the ball without its hair."""
    rng = np.random.default_rng(0)
    height, radius = width * 3 // 4, width / 8
    opacity = np.zeros((height, width), np.uint8)
    cv2.circle(opacity, (width // 2, height // 2), round(radius), 255, thickness=-1)
    mask = opacity > 0
    for angle, bend, length in zip(
        rng.uniform(0, 2 * np.pi, 150), rng.normal(0, 0.1, 150), rng.uniform(1.02, 1.12, 150), strict=True
    ):
        ends = [
            (round(16 * (width / 2 + r * radius * np.cos(a))), round(16 * (height / 2 + r * radius * np.sin(a))))
            for r, a in ((0.95, angle), (length, angle + bend))
        ]
        cv2.line(opacity, *ends, 255, max(1, width // 1000), cv2.LINE_AA, 4)
    shares = opacity[..., None] / np.float32(255)
    ground = np.array([176, 190, 150]) + rng.integers(-12, 13, (height, width, 1), np.int16)
    image = np.array([96, 62, 38]) * shares + ground * (1 - shares)
    return image.astype(np.uint8), shares[..., 0], mask


@pytest.mark.parametrize("width", [1000, 4000])
def test_hair_beyond_the_band_of_a_mask_is_followed_to_its_tips(width):
    image, opacity, mask = make_hairy_ball(width)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    is_tip = (opacity > 0.5) & (distance > 1.5 * get_edge_radius_px(mask))
    assert is_tip.sum() > 100
    matte = compute_matte(image, mask)
    assert (matte[is_tip] > 0).mean() > 0.95
    assert np.abs(matte - opacity)[~mask].sum() < 0.4 * opacity[~mask].sum()


def test_what_is_wide_or_apart_is_no_hair():
    """A block of the color of an object touches it; a line of that color does not."""
    image = np.full((200, 300, 3), 220, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[50:150, 100:200] = True
    image[mask] = (60, 90, 30)
    image[80:120, 200:280] = (60, 90, 30)
    image[100, 70:94] = (60, 90, 30)
    matte = compute_matte(image, mask)
    assert matte[:, 200 + get_edge_radius_px(mask) + 1 :].max() == 0
    assert matte[:, :95].max() == 0
