"""Videos without a background: objects cut out once, whose alpha moves with them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dianjing import ImageToVideoPipeline, TextToVideoPipeline
from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.transparency.transparent_video import cut_out_regions, limit_strengths, warp_transparent
from dianjing.pipelines.video.warped_image import make_warped_image
from dianjing.train.evaluation.transparency import render_true_sprites, sample_scenes
from tests.pipelines.transparency.test_background_removal import make_disc

SHIFT_PX = 6


def make_scene():
    """A disc and a square before a blue background, uint8 (H, W, 3), with the masks of both."""
    image, alpha = make_disc()
    image = np.concatenate([image, image[:, :48]], axis=1)
    image[:, 96:] = image[0, 0]
    square = np.zeros(image.shape[:2], bool)
    square[30:50, 110:130] = True
    image[square] = (30, 160, 60)
    disc = np.zeros_like(square)
    disc[:, :96] = alpha > 0.5
    return image, disc, square


@pytest.fixture(scope="module")
def moved():
    """The frames of a disc that moves to the right, without a background, beside a square that stays."""
    image, disc, square = make_scene()
    region = Region(mask=disc, path=[(48, 48), (48 + 2 * SHIFT_PX, 48)])
    cut = cut_out_regions(image, [region], segmenter=GrabCutSegmenter(), still_mask=square)
    return np.stack(list(make_warped_image(cut.image, cut.regions, num_frames=3).frames))


def test_alpha_and_colors_move_with_the_object_and_leave_nothing_behind(moved):
    first = moved[0].astype(int)
    for index, frame in enumerate(moved[1:], start=1):
        shifted = np.roll(first[:, :96], index * SHIFT_PX, axis=1)
        assert np.abs(frame[:, :96, 3] - shifted[..., 3]).max() < 16
        visible = shifted[..., 3] > 127
        assert np.abs(frame[:, :96, :3] - shifted[..., :3])[visible].max() < 24


def test_the_area_of_an_object_does_not_flicker(moved):
    areas = moved[:, :, :96, 3].sum(axis=(1, 2), dtype=float)
    assert np.ptp(areas) < 0.01 * areas[0]


def test_what_no_region_selects_stays_where_it_is_and_the_background_is_gone(moved):
    _, _, square = make_scene()
    for frame in moved:
        np.testing.assert_array_equal(frame[:, 100:], moved[0, :, 100:])
    assert moved[0, :, 100:, 3][square[:, 100:]].min() > 200
    assert moved[0, 0].max() == 0


def test_an_image_with_an_alpha_of_its_own_keeps_it():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:24, 8:24] = (200, 40, 40, 128)
    region = Region(mask=pixels[..., 3] > 0, path=[(16, 16), (20, 16)])
    cut = cut_out_regions(Image.fromarray(pixels), [region], segmenter=GrabCutSegmenter())
    np.testing.assert_array_equal(np.asarray(cut.image), pixels)


def test_a_camera_move_selects_no_object():
    image, _ = make_disc()
    with pytest.raises(DianjingError, match="camera move"):
        cut_out_regions(image, [Region(target="image", path=[(4, 4), (8, 8)])], segmenter=GrabCutSegmenter())


@pytest.mark.parametrize("value", [False, True])
def test_clicks_that_select_nothing_or_all_are_refused(value):
    image, _ = make_disc()
    segmenter = SimpleNamespace(set_image=lambda image: None, predict=lambda points: np.full((96, 96), value))
    region = Region(points=[Point(x=48, y=48)], path=[(4, 4), (8, 8)])
    with pytest.raises(DianjingError, match="select nothing or the whole image"):
        cut_out_regions(image, [region], segmenter=segmenter)


@pytest.fixture(scope="module")
def pipe():
    pipe = TextToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_object_of_a_prompt_jumps_without_its_background(pipe, monkeypatch):
    sample = next(
        each
        for each in sample_scenes(80, seed=3, size_px=128)
        if len(each.boxes) == 1 and min(each.boxes[0][1:3]) >= 48
    )
    image = Image.fromarray(np.asarray(sample.image))
    monkeypatch.setattr(  # in place of the sampling of the first frame
        TextToVideoPipeline, "__call__", lambda self, prompt, **settings: SimpleNamespace(frames=[[image]])
    )
    frames = np.stack(list(pipe.generate_transparent(f"{sample.text_en} jumping", num_frames=5).frames))
    truth = render_true_sprites(sample)[..., 3] > 0.5
    found = frames[0, ..., 3] > 127
    assert (found & truth).sum() / (found | truth).sum() > 0.6
    heights = [np.nonzero(frame[..., 3] > 127)[0].mean() for frame in frames]
    assert min(heights) < heights[0] - 1
    areas = (frames[..., 3] / 255).sum(axis=(1, 2))
    assert np.ptp(areas) < 0.1 * areas[0]


@pytest.mark.parametrize(("prompt", "part"), [("a cat", "what moves and how"), ("on the beach, jumping", "no object")])
def test_prompts_without_a_motion_or_an_object_are_refused_before_sampling(pipe, monkeypatch, prompt, part):
    monkeypatch.setattr(TextToVideoPipeline, "__call__", None)
    with pytest.raises(DianjingError, match=part):
        pipe.generate_transparent(prompt)


def test_a_motion_is_weakened_until_the_object_stays_in_the_image(pipe):
    image, alpha = make_disc(size_px=48)
    animator = ImageToVideoPipeline.from_pipe(pipe)
    raised = np.roll(image, -8, axis=0)
    region = Region(motion="jump", mask=np.roll(alpha > 0.5, -8, axis=0), strength=1.0)
    cut = cut_out_regions(raised, [region], segmenter=GrabCutSegmenter())

    def is_cut_off(each):
        frames = list(warp_transparent(animator, each).frames)
        return max(int((frame[0, :, 3] > 127).sum()) for frame in frames) > 4

    assert is_cut_off(replace(cut, regions=tuple(replace(each, strength=1.0) for each in cut.regions)))
    assert not is_cut_off(limit_strengths(animator, cut))
