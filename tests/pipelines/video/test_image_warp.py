"""Images moved by their own pixels: paths are followed, what does not move stays, parts bend without a tear."""

import cv2
import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.video.bending import plan_bend
from dianjing.pipelines.video.inpainting import inpaint
from dianjing.pipelines.video.warp_image import warp_image
from dianjing.pipelines.video.warped_image import make_warped_image


def make_scene(width, height, *, center, radius, alpha=False):
    """A disc with dots on a noisy gradient, and its mask."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(-6, 7, (height, width, 3))
    image = np.stack([90 + x * 60 / width, 150 + y * 40 / height, 200 - x * 50 / width], axis=-1) + noise
    mask = np.hypot(x + 0.5 - center[0], y + 0.5 - center[1]) <= radius
    image[mask] = (220, 40, 30)
    image[mask & ((x // 4 + y // 4) % 3 == 0)] = (250, 210, 60)
    image = image.clip(0, 255).astype(np.uint8)
    if alpha:
        image = np.concatenate([image, np.where(mask, 255, 90)[..., None].astype(np.uint8)], axis=-1)
    return image, mask


def find_center(frame, still):
    """Center of the red and yellow disc: its colors are nowhere else in the scene."""
    is_disc = frame[..., 0].astype(int) - frame[..., 2] > 60
    y, x = np.nonzero(is_disc)
    return x.mean() + 0.5, y.mean() + 0.5


@pytest.mark.parametrize(
    ("width", "height", "allowed_px"), [(64, 64, 1.0), (96, 64, 1.0), (480, 270, 0.003 * 480), (300, 600, 0.003 * 300)]
)
def test_a_region_stays_on_the_circle_that_its_path_was_sampled_from(width, height, allowed_px):
    """The truth is the circle: a smooth curve through 9 of its points leaves it by less than a part in a thousand."""
    side = min(width, height)
    circle_center, orbit, radius = (width / 2, height / 2), 0.25 * side, 0.11 * side
    angles = np.linspace(0, np.pi, 9)
    path = [(circle_center[0] + orbit * np.cos(a), circle_center[1] - orbit * np.sin(a)) for a in angles]
    image, mask = make_scene(width, height, center=path[0], radius=radius)
    frames, _ = warp_image(image, [Region(path=path, mask=mask)], 7)
    centers = np.array([find_center(frame, image) for frame in frames])
    distances = np.abs(np.hypot(*(centers - circle_center).T) - orbit)
    assert distances.mean() <= allowed_px
    steps = np.hypot(*np.diff(centers, axis=0).T)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.15)  # an even pace
    assert np.hypot(*(centers[-1] - path[-1])) <= 2 * allowed_px


def test_times_set_the_pace_between_the_points_of_a_path():
    image, mask = make_scene(120, 80, center=(20, 40), radius=9)
    region = Region(path=[(20, 40), (60, 40), (100, 40)], times=[0, 0.75, 1], mask=mask)
    frames, _ = warp_image(image, [region], 9)
    xs = [find_center(frame, image)[0] for frame in frames]
    np.testing.assert_allclose(xs, [*np.linspace(20, 60, 7), 80, 100], atol=0.7)


@pytest.mark.parametrize("alpha", [False, True], ids=["rgb", "alpha"])
def test_pixels_that_no_region_covers_are_those_of_the_image(alpha):
    image, mask = make_scene(160, 90, center=(50, 45), radius=16, alpha=alpha)
    region = Region(path=[(50, 45), (110, 50)], turn=90, scale=0.7, mask=mask)
    frames, covered = warp_image(image, [region], 6)
    np.testing.assert_array_equal(frames[0], image)
    assert frames.shape == (6, *image.shape)
    for frame, is_covered in zip(frames, covered, strict=True):
        still = ~(is_covered | covered[0])
        np.testing.assert_array_equal(frame[still], image[still])
        assert still.mean() > 0.7
    assert np.abs(frames[-1][covered[-1]].astype(int) - image[covered[-1]]).mean() > 20


def test_a_region_that_turns_in_a_wide_image_is_not_sheared():
    """A quarter turn of a bar is the bar that stands; about the same pivot, NumPy's rot90 is exact."""
    image = np.full((90, 200, 3), 200, np.uint8)
    image[40:50, 70:130] = (200, 30, 30)
    mask = image[..., 1] == 30
    frames, _ = warp_image(image, [Region(turn=90, mask=mask)], 2)
    expected = np.full((90, 200, 3), 200, np.uint8)
    expected[15:75, 95:105] = (200, 30, 30)
    inner = np.zeros(mask.shape, bool)
    inner[18:72, 98:102] = True
    assert (np.abs(frames[1].astype(int) - expected).max(axis=-1) > 60).sum() < 0.12 * mask.sum()
    np.testing.assert_allclose(frames[1][inner], expected[inner], atol=2)


def test_two_regions_move_each_by_its_own_path_and_what_is_behind_appears():
    image, left = make_scene(160, 90, center=(40, 45), radius=12)
    right = np.zeros_like(left)
    right[35:55, 110:130] = True
    image[right] = (40, 200, 60)
    regions = [Region(path=[(40, 45), (40, 70)], mask=left), Region(path=[(120, 45), (120, 20)], mask=right)]
    frames, _ = warp_image(image, regions, 4)
    assert find_center(frames[-1], image)[1] == pytest.approx(70, abs=1)
    assert frames[-1][12:26, 113:127, 1].mean() > 190
    assert frames[-1][48:54, 112:128, 0].mean() > 110  # the background, which is not green


def test_an_object_far_smaller_than_its_image_shrinks_without_aliasing():
    """Shrunk eight times, a fine checkerboard is its mean, not a coarse pattern."""
    image = np.full((256, 256, 3), 60, np.uint8)
    mask = np.zeros((256, 256), bool)
    mask[48:208, 48:208] = True
    y, x = np.mgrid[:256, :256]
    image[mask & ((x + y) % 2 == 0)] = 255
    image[mask & ((x + y) % 2 == 1)] = 1
    frames, _ = warp_image(image, [Region(scale=0.125, mask=mask)], 2)
    assert np.abs(frames[1][122:134, 122:134].astype(int) - 128).max() < 16


def test_a_hole_in_stripes_is_filled_with_stripes():
    """The texture goes on: smoothing filling, such as push and pull, would leave a flat patch."""
    image = np.zeros((96, 96, 3), np.uint8)
    image[:, (np.arange(96) // 6) % 2 == 0] = (200, 160, 90)
    hole = np.zeros((96, 96), bool)
    hole[32:64, 34:62] = True
    damaged = image.copy()
    damaged[hole] = (0, 255, 0)
    filled = inpaint(damaged, hole)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    assert np.abs(filled[hole].astype(int) - image[hole]).mean() < 20


def make_shaded_scene():
    """A textured plane with a disc and its shadow below, the hole of the disc, and the plane as it is in truth."""
    y, x = np.mgrid[:180, :240]
    noise = cv2.GaussianBlur(np.random.default_rng(3).normal(0, 40, (180, 240)).astype(np.float32), (0, 0), 1.5)
    plane = np.stack([170 + noise, 110 + noise, 60 + noise], axis=-1).clip(0, 255).astype(np.uint8)
    hole = np.hypot(x - 120, y - 80) <= 50
    shadow = (np.hypot(x - 120, y - 88) <= 50) & ~hole
    image = plane.copy()
    image[shadow] = image[shadow] // 6
    image[hole] = (20, 60, 220)
    return image, hole, plane


def test_a_hole_at_a_shadow_is_filled_with_what_is_beyond_the_shadow():
    """The truth is the plane without a shadow; at the shadow the filling starts as dark and has no step."""
    image, hole, plane = make_shaded_scene()
    filled = inpaint(image, hole)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5)
    smooth, truth = (cv2.GaussianBlur(part, (0, 0), 4).astype(float).mean(axis=-1) for part in (filled, plane))
    assert np.abs(smooth - truth)[depth > 18].mean() < 8
    column = filled[120:131, 115:126].astype(float).mean(axis=(1, 2))  # towards the shadow's middle, at row 131
    assert column[-1] < 0.55 * truth.mean()
    assert np.abs(np.diff(column)).max() < 0.25 * truth.mean()


def make_part():
    """A stalk with a head on a plain background; the part is the head with half of the stalk."""
    image = np.full((120, 120, 3), 225, np.uint8)
    image[60:115, 52:68] = (60, 110, 70)
    cv2.circle(image, (60, 40), 24, (60, 110, 70), -1)
    noise = np.random.default_rng(1).integers(-8, 9, image.shape)
    image = (image + noise).clip(0, 255).astype(np.uint8)
    mask = (image[..., 0] < 150) & (np.arange(120) < 90)[:, None]
    return image, mask


@pytest.mark.parametrize("anchor", [None, Point(x=60, y=89)], ids=["found", "given"])
def test_a_part_stays_where_it_joins_the_rest(anchor):
    image, mask = make_part()
    bend = plan_bend(image, mask, motion="sway", anchor=None if anchor is None else (anchor.x, anchor.y))
    assert bend.weight[88:90, 54:66].max() < 0.02
    assert bend.weight[20:40, 50:70].min() > 0.9


def test_a_part_that_bends_leaves_no_tear_at_its_joint():
    """Along the stalk no pixel shows the background, which a part that moves as a whole would uncover."""
    image, mask = make_part()
    regions = {
        "bent": Region(path=[(60, 40), (80, 40)], mask=mask, anchor=Point(x=60, y=89)),
        "rigid": Region(path=[(60, 40), (80, 40)], mask=mask),
    }
    widths = {}
    for name, region in regions.items():
        frame = warp_image(image, [region], 2)[0][1]
        is_stalk = frame[60:115, :, 0] < 150
        widths[name] = is_stalk.sum(axis=1)
        shift = np.abs(np.diff([np.nonzero(row)[0].mean() for row in is_stalk]))
        assert (shift.max() > 5) == (name == "rigid")
        if name == "bent":
            np.testing.assert_array_equal(frame[92:], image[92:])
    assert widths["bent"].min() >= 13


@pytest.mark.parametrize(
    "image",
    [
        Image.new("CMYK", (48, 32), (10, 200, 30, 0)),
        Image.fromarray(np.full((32, 48), 40_000, np.uint16)),
        Image.new("L", (48, 32), 90),
    ],
    ids=["CMYK", "16 bit", "gray"],
)
def test_images_of_any_mode_keep_their_size(image):
    mask = np.zeros((32, 48), bool)
    mask[10:20, 10:20] = True
    warped = make_warped_image(image, [Region(path=[(15, 15), (30, 15)], mask=mask)], num_frames=3)
    assert warped.frames.shape == (3, 32, 48, 3)


def test_an_image_rotated_by_exif_is_upright_and_its_path_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    import io

    stored, buffer = Image.new("RGB", (40, 60), (90, 90, 90)), io.BytesIO()
    stored.save(buffer, format="JPEG", exif=exif)
    with Image.open(buffer) as image:
        warped = make_warped_image(image, [Region(path=[(50, 20), (30, 20)], points=[Point(x=50, y=20)])], num_frames=2)
    assert warped.frames.shape[1:3] == (40, 60)


def test_a_smaller_size_takes_the_path_along():
    image, mask = make_scene(240, 160, center=(60, 80), radius=20)
    region = Region(path=[(60, 80), (180, 80)], mask=mask)
    warped = make_warped_image(image, [region], num_frames=3, width=120)
    frames = np.stack(list(warped.frames))
    assert frames.shape == (3, 80, 120, 3)
    assert find_center(frames[2], frames[0])[0] == pytest.approx(90, abs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": [(5, 5)]}, "1 point"),
        ({"path": []}, "0 point"),
        ({"path": [(5.0, 5.0)] * 100_000}, "100,000 points"),
        ({"path": [(5, 5), (float("nan"), 3)]}, "is no position"),
        ({"path": "5,5 6,6"}, "is no path"),
        ({"path": [(5, 5), (6,)]}, "is no path"),
        ({"path": [(5, 5), (9, 9), (12, 9)], "times": [0, 0.8, 0.4]}, "from 0.8 to 0.4"),
        ({"path": [(5, 5), (9, 9)], "times": [0, 0.5, 1]}, "3 times for a path of 2 points"),
        ({"path": [(5, 5), (9, 9)], "times": [0, float("nan")]}, "times is nan"),
        ({"times": [0, 1], "turn": 5}, "without a path"),
        ({"scale": 0}, "scale is 0"),
        ({"turn": float("inf")}, "turn is inf"),
        ({"target": "image", "path": [(5, 5), (9, 9)], "motion": "jump"}, "takes no points, mask or motion"),
        ({"target": "image"}, "give path, turn or scale"),
        ({"target": "sky", "turn": 4}, "target is|target cannot be|target"),
    ],
)
def test_an_unusable_path_is_refused_when_the_region_is_made(settings, message):
    selection = {} if "target" in settings else {"points": [Point(x=5, y=5)]}
    with pytest.raises(ValueError, match=message):
        Region(**selection, **settings)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([Region(path=[(5, 5), (64, 5)], points=[Point(x=5, y=5)])], "outside the image of 64 x 64"),
        ([Region(turn=5, points=[Point(x=5, y=5)], anchor=Point(x=5, y=-1))], "outside the image"),
        ([Region(turn=5, points=[Point(x=5, y=5)])] * 17, "17 regions .* 1 to 16"),
        ([], "0 regions"),
    ],
)
def test_regions_that_do_not_fit_the_image_are_refused(regions, message):
    with pytest.raises(ValueError, match=message):
        make_warped_image(np.zeros((64, 64, 3), np.uint8), regions)
