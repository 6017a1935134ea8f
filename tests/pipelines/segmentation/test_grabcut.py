"""GrabCut, measured against the exact masks of the sticker world."""

import cv2
import numpy as np
import pytest
import skimage.data

from dianjing.pipelines.segmentation.base import Point, check_points
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.train.stickers import CurriculumStage, StickerWorld

WORLD = StickerWorld(
    size_px=128, stages=[CurriculumStage(scene_weights={"single": 1.0, "pair": 1.0, "trio": 1.0}, grid_px=(2,))]
)


def predict_mask(image, *points):
    segmenter = GrabCutSegmenter()
    segmenter.set_image(image)
    return segmenter.predict(points)


def find_center(mask):
    """Find the point of a mask that is furthest from its edge."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return Point(x=float(x), y=float(y))


def compute_iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_one_point_selects_the_object_in_most_scenes():
    ious = []
    for position in range(20):
        sample = WORLD.get_image_sample(9, position)
        truth = sample.masks[position % len(sample.masks)]
        ious.append(compute_iou(predict_mask(sample.image, find_center(truth)), truth))
    assert np.median(ious) > 0.9
    assert np.mean(np.array(ious) > 0.5) >= 0.8


def test_a_disc_on_a_plain_background_is_segmented_exactly():
    image = np.full((90, 120, 3), (200, 220, 250), np.uint8)
    cv2.circle(image, (40, 50), 20, (200, 40, 30), thickness=-1)
    truth = np.hypot(*np.meshgrid(np.arange(120) - 40, np.arange(90) - 50)) <= 20
    assert compute_iou(predict_mask(image, Point(x=40, y=50)), truth) > 0.95


def test_a_second_point_adds_an_object_and_a_negative_one_excludes_it():
    image = np.full((90, 160, 3), 235, np.uint8)
    for x in (40, 120):
        cv2.circle(image, (x, 45), 20, (30, 60, 200), thickness=-1)
    one = predict_mask(image, Point(x=40, y=45))
    two = predict_mask(image, Point(x=40, y=45), Point(x=120, y=45))
    excluded = predict_mask(image, Point(x=40, y=45), Point(x=120, y=45, positive=False))
    assert (one[45, 40], one[45, 120]) == (True, False)
    assert (two[45, 40], two[45, 120]) == (True, True)
    assert (excluded[45, 40], excluded[45, 120]) == (True, False)


def test_a_further_click_only_adds_to_a_mask_or_only_takes_away():
    """Each click is where the mask is wrong, as a user corrects it; the truth is the world's own."""
    for position in range(8):
        sample = WORLD.get_image_sample(3, position)
        truth = sample.masks[position % len(sample.masks)]
        first = find_center(truth)
        mask = predict_mask(sample.image, first)
        for wrong, positive in ((truth & ~mask, True), (mask & ~truth, False)):
            if not wrong.any():
                continue
            point = find_center(wrong)
            changed = predict_mask(sample.image, first, Point(x=point.x, y=point.y, positive=positive))
            assert not ((mask & ~changed) if positive else (changed & ~mask)).any()
            assert changed[int(point.y), int(point.x)] == positive


def compose_photo(name, side=160):
    """A lighter piece of one photograph, blurred at its edge, on a piece of another, and its exact mask."""
    generator = np.random.default_rng(len(name))
    background, surface = (
        cv2.resize(getattr(skimage.data, each)()[..., :3], (side, side), interpolation=cv2.INTER_AREA).astype(float)
        for each in name
    )
    y, x = np.mgrid[:side, :side]
    angles = np.arctan2(y - 75, x - 85)
    radius = 36 * (1 + 0.2 * np.cos(3 * angles + generator.uniform(0, 6)) + 0.1 * np.cos(5 * angles))
    mask = np.hypot(y - 75, x - 85) <= radius
    opacity = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[..., None]
    image = background * (1 - opacity) + (surface * 0.7 + 40) * opacity
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.mark.parametrize("name", [("coffee", "chelsea"), ("chelsea", "rocket"), ("rocket", "astronaut")], ids="-".join)
def test_a_true_second_click_never_makes_a_mask_worse(name):
    """Photographs of scikit-image, composed so that the truth is known; clicks anywhere, right by the truth."""
    image, truth = compose_photo(name)
    first = find_center(truth)
    before = compute_iou(predict_mask(image, first), truth)
    generator = np.random.default_rng(0)
    for positive in (True, False):
        depth = cv2.distanceTransform((truth if positive else ~truth).astype(np.uint8), cv2.DIST_L2, 3)
        for y, x in generator.permutation(np.argwhere(depth > 3))[:4]:
            second = Point(x=float(x), y=float(y), positive=positive)
            assert compute_iou(predict_mask(image, first, second), truth) >= before


def test_a_click_that_the_mask_agrees_with_changes_nothing():
    sample = WORLD.get_image_sample(9, 1)
    first = find_center(sample.masks[0])
    mask = predict_mask(sample.image, first)
    y, x = np.argwhere(mask)[len(np.argwhere(mask)) // 3]
    np.testing.assert_array_equal(predict_mask(sample.image, first, Point(x=float(x), y=float(y))), mask)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (20, 5), (64, 64)])
def test_images_without_an_object_still_give_a_mask_with_the_point_in_it(size):
    image = np.full((*size, 3), 128, np.uint8)
    mask = predict_mask(image, Point(x=size[1] // 2, y=size[0] // 2))
    assert mask.shape == size
    assert mask[size[0] // 2, size[1] // 2]


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "no point"),
        ([Point(x=10, y=10)] * 100_000, "100,000 points"),
        ([Point(x=float("nan"), y=1)], "is no position"),
        ([Point(x=64, y=0)], r"outside the image of 64 x 32 px; x is from 0 to 63"),
        ([Point(x=-0.5, y=0)], "outside the image"),
        ([Point(x=1, y=1, positive=False)], "all points are negative"),
    ],
)
def test_unusable_points_are_refused(points, reason):
    with pytest.raises(ValueError, match=reason):
        check_points(points, width=64, height=32)


def test_a_point_between_pixels_is_accepted():
    assert check_points([Point(x=63.9, y=0.2)], width=64, height=32)


def test_a_mask_depends_on_the_image_and_the_points_alone(monkeypatch):
    """Neither on a slow machine nor on OpenCV's random numbers before it."""
    sample = WORLD.get_image_sample(9, 1)
    point = find_center(sample.masks[0])
    expected = predict_mask(sample.image, point)
    cv2.setRNGSeed(5)
    slow = iter(range(0, 10_000_000, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(slow))
    np.testing.assert_array_equal(predict_mask(sample.image, point), expected)


@pytest.mark.parametrize(
    ("click", "top"), [((322, 200), 180), ((322, 128), 140), ((328, 136), 140)], ids=["body", "tip", "edge"]
)
def test_a_click_on_a_rocket_selects_no_sky(click, top):
    """A photograph of scikit-image: the rocket's box is known, and around it are sky and towers."""
    mask = predict_mask(skimage.data.rocket(), Point(x=click[0], y=click[1]))
    rocket = np.zeros(mask.shape, bool)
    rocket[100:400, 295:345] = True
    assert mask[top:260, 318:328].mean() > 0.9
    assert (mask & ~rocket).sum() < 0.1 * mask.sum()


@pytest.mark.parametrize("click", [(322, 134), (316, 140), (328, 140), (330, 155), (316, 165), (328, 175)])
def test_a_click_near_the_edge_of_the_nose_selects_no_sky_around_it(click):
    """A disc around such a click lies partly on the sky."""
    image = skimage.data.rocket()
    mask = predict_mask(image, Point(x=click[0], y=click[1]))
    assert mask[click[1], click[0]]
    is_sky = image[..., 2].astype(int) > image[..., 0] + 40  # blue, which nothing else is at this height
    nose, sky = mask[:180], is_sky[:180]
    assert (nose & sky).sum() < 0.05 * nose.sum()


def test_a_click_on_a_cup_selects_all_of_it_and_its_saucer():
    """A photograph of scikit-image: the white of the cup has sharper edges than the red of cup and saucer."""
    mask = predict_mask(skimage.data.coffee(), Point(x=300, y=180))
    red, table = [(120, 250), (440, 250), (260, 380), (230, 300)], [(40, 60), (560, 100), (540, 380), (30, 350)]
    assert all(mask[y, x] for x, y in red)
    assert not any(mask[y, x] for x, y in table)
