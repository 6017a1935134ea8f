"""Joining of two pieces of an object: a collar between them is a part of it, the background is not."""

import cv2
import numpy as np

from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.segmentation.joining import join_pieces


def make_figure(*, has_collar, gap=16):
    """A head above a body, with a dark collar between them or none: image, head, body, collar."""
    y, x = np.mgrid[:140, :140]
    image = np.full((140, 140, 3), (200, 205, 215), np.int64)
    head = np.hypot(x - 70, y - 35) < 20
    body = (np.abs(x - 70) < 34) & (y > 55 + gap) & (y < 125)
    collar = (np.abs(x - 70) < 16) & (y > 45) & (y <= 55 + gap) & ~head
    if has_collar:
        image[collar] = (40, 40, 50)
    image[head] = (210, 150, 110)
    image[body] = (220, 90, 40)
    image += np.random.default_rng(0).integers(-6, 7, image.shape)
    return image.clip(0, 255).astype(np.uint8), head, body, collar


def test_a_collar_between_a_head_and_a_body_belongs_to_both():
    image, head, body, collar = make_figure(has_collar=True)
    truth, joined = head | body | collar, join_pieces(image, head, body)
    assert (joined & truth).sum() / (joined | truth).sum() > 0.97


def test_background_between_pieces_stays_out():
    image, head, body, _ = make_figure(has_collar=False)
    np.testing.assert_array_equal(join_pieces(image, head, body), head | body)


def test_pieces_that_are_far_apart_are_objects_of_their_own():
    image, head, body, _ = make_figure(has_collar=True, gap=60)
    np.testing.assert_array_equal(join_pieces(image, head, body), head | body)


def test_two_clicks_select_a_figure_with_its_collar():
    image, head, body, collar = make_figure(has_collar=True)
    segmenter = GrabCutSegmenter()
    segmenter.set_image(cv2.resize(image, (280, 280), interpolation=cv2.INTER_CUBIC))
    mask = segmenter.predict([Point(x=140, y=70), Point(x=140, y=200)])
    truth = cv2.resize((head | body | collar).astype(np.uint8), (280, 280)) > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.93
