"""Cut-outs of images of the sticker world, whose true sprites with alpha are known exactly."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from dianjing import TextToImagePipeline
from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.transparency.background_removal import cut_out, find_object_mask
from dianjing.pipelines.transparency.closed_form import estimate_foreground, solve_alpha
from dianjing.pipelines.transparency.mask_refinement import refine_mask
from dianjing.train.evaluation.transparency import (
    classify_background,
    measure_generation_error,
    measure_rim,
    render_true_sprites,
    sample_scenes,
)

MAX_RIM_LEVELS = 8
NUM_SCENES = {64: 12, 128: 6}


def make_disc(size_px=96, colour=(200, 40, 40), background=(40, 60, 220)):
    """A disc with a soft rim before a background, uint8 (H, W, 3), and its alpha on [0, 1]."""
    alpha = Image.new("L", (4 * size_px,) * 2, 0)
    ImageDraw.Draw(alpha).ellipse([size_px, size_px, 3 * size_px, 3 * size_px], fill=255)
    alpha = np.asarray(alpha.resize((size_px,) * 2, Image.Resampling.BOX)) / 255
    image = alpha[..., None] * np.array(colour) + (1 - alpha[..., None]) * np.array(background)
    return image.round().astype(np.uint8), alpha


@pytest.mark.parametrize("size_px", [64, 128])
def test_rims_of_cut_outs_are_within_eight_levels_of_the_true_sprites_on_white_and_on_black(size_px):
    errors = []
    for sample in sample_scenes(NUM_SCENES[size_px], seed=5, size_px=size_px):
        truth = render_true_sprites(sample)
        errors.append(measure_rim(cut_out(sample.image, truth[..., 3] > 0.5), truth))
    white, black = np.array([(each["white"], each["black"]) for each in errors]).T
    assert white.mean() < MAX_RIM_LEVELS
    assert black.mean() < MAX_RIM_LEVELS
    # a fringe is an error of one sign
    assert abs(np.mean([each["white_bias"] for each in errors])) < 3
    assert abs(np.mean([each["black_bias"] for each in errors])) < 3


def test_the_rim_of_a_disc_loses_the_color_of_its_background():
    image, alpha = make_disc()
    cut = cut_out(image, alpha > 0.5)
    np.testing.assert_allclose(cut[..., 3] / 255, alpha, atol=0.06)
    rim = (alpha > 0.2) & (alpha < 0.8)
    assert np.abs(cut[rim][:, :3].astype(int) - (200, 40, 40)).max() < 12
    assert np.abs(image[rim].astype(int) - (200, 40, 40)).mean() > 40  # as it was
    assert not cut[alpha == 0][:, 3].any()


def test_alpha_of_two_colors_that_mix_linearly_is_solved_exactly():
    ramp = np.linspace(0, 1, 24)[None].repeat(16, axis=0)
    colors = ramp[..., None] * np.array([0.9, 0.2, 0.1]) + (1 - ramp[..., None]) * np.array([0.1, 0.3, 0.8])
    unknown = (ramp > 0) & (ramp < 1)
    solved = solve_alpha(colors, (ramp > 0.5).astype(float), unknown)
    np.testing.assert_allclose(solved, ramp, atol=0.01)


def test_the_foreground_over_the_old_background_is_the_image_again():
    image, alpha = make_disc()
    foreground = estimate_foreground(image, alpha, alpha == 1, alpha == 0)
    again = alpha[..., None] * foreground * 255 + (1 - alpha[..., None]) * np.array([40, 60, 220])
    assert np.abs(again - image).max() < 12


def test_masks_that_are_right_stay_as_they_are():
    overlaps = []
    for sample in sample_scenes(24, seed=7, size_px=128):
        mask = render_true_sprites(sample)[..., 3] > 0.5
        refined = refine_mask(sample.image, mask)
        overlaps.append((refined & mask).sum() / (refined | mask).sum())
    assert np.mean(overlaps) > 0.975


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_rough_mask_moves_to_the_edges_of_the_object(is_plain):
    image, alpha = make_disc()
    if not is_plain:
        noise = np.random.default_rng(0).integers(-60, 60, (96, 96, 3))
        texture = cv2.GaussianBlur((np.array([40, 120, 120]) + noise).astype(np.float32), (0, 0), 2)
        image = (alpha[..., None] * image + (1 - alpha[..., None]) * texture).astype(np.uint8)
    truth = alpha > 0.5
    rough = np.roll(cv2.erode(truth.astype(np.uint8), np.ones((3, 3))), 2, axis=1) > 0
    refined = refine_mask(image, rough)

    def get_iou(mask):
        return (mask & truth).sum() / (mask | truth).sum()

    assert get_iou(rough) < 0.92
    assert get_iou(refined) > 0.97


def test_all_objects_before_a_plain_background_are_cut_out_though_one_was_found():
    image, alpha = make_disc()
    pair, alphas = np.concatenate([image, image], axis=1), np.concatenate([alpha, alpha], axis=1)
    found = alphas > 0.5
    found[:, 96:] = False
    refined = refine_mask(pair, found)
    assert refined[alphas > 0.6].all()
    assert not refined[alphas < 0.4].any()
    assert not refined[alphas == 0].any()


def test_rims_before_plain_backgrounds_are_within_eight_levels_though_masks_are_rough():
    errors = []
    plain = [each for each in sample_scenes(40, seed=8, size_px=128) if classify_background(each) == "plain"]
    for sample in plain[:10]:
        truth = render_true_sprites(sample)
        rough = cv2.erode((truth[..., 3] > 0.5).astype(np.uint8), np.ones((5, 5))) > 0
        errors.append(measure_rim(cut_out(sample.image, refine_mask(sample.image, rough)), truth))
    assert np.mean([each["white"] for each in errors]) < MAX_RIM_LEVELS
    assert np.mean([each["black"] for each in errors]) < MAX_RIM_LEVELS


def test_pale_and_thin_parts_before_a_plain_background_are_cut_out():
    image = np.full((128, 128, 3), (188, 222, 250), np.uint8)
    image[40:80, 40:80] = (240, 240, 240)
    image[10:40, 60] = (120, 120, 120)  # a line of one pixel
    image[40:80, 80:90] = (200, 226, 250)  # 12 levels from the background
    found = np.zeros((128, 128), bool)
    found[40:80, 40:80] = True
    alpha = cut_out(image, refine_mask(image, found))[..., 3]
    assert alpha[12:38, 60].min() > 127
    assert not alpha[12:38, [55, 65]].any()
    assert alpha[44:76, 82:87].min() > 200
    assert not alpha[:, 100:].any()


def test_an_object_at_the_border_before_a_plain_background_is_cut_out_completely():
    image = np.full((128, 128, 3), (30, 30, 34), np.uint8)
    image[30:100, 80:110] = (230, 60, 50)
    image[30:100, 110:] = (220, 220, 220)  # the part that was not found
    found = np.zeros((128, 128), bool)
    found[30:100, 80:110] = True
    alpha = cut_out(image, refine_mask(image, found))[..., 3]
    assert alpha[34:96, 112:].min() > 200


def test_the_error_of_a_generation_is_that_of_the_sprite_which_it_is_not():
    samples = sample_scenes(3, seed=5, size_px=64)
    truths = [render_true_sprites(sample) for sample in samples]
    true = measure_generation_error([sample.image for sample in samples], truths)
    moved = measure_generation_error([np.roll(sample.image, 2, axis=1) for sample in samples], truths)
    for paper in ("white", "black"):
        assert true[paper] < 3
        assert moved[paper] > true[paper] + 5


@pytest.fixture(scope="module")
def pipe():
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_what_the_prompt_names_is_found_in_the_image_and_cut_out(pipe):
    sample = next(each for each in sample_scenes(40, seed=5, size_px=128) if each.scene.scene_type == "single")
    truth = render_true_sprites(sample)
    for prompt in (sample.text_en, sample.text_zh):
        cut = pipe.remove_background(Image.fromarray(sample.image), prompt)
        assert (cut.mode, cut.size) == ("RGBA", (128, 128))
        mask, expected = np.asarray(cut)[..., 3] > 127, truth[..., 3] > 0.5
        assert (mask & expected).sum() / (mask | expected).sum() > 0.8


def test_a_prompt_without_an_object_is_refused(pipe):
    with pytest.raises(DianjingError, match="names no object"):
        pipe.remove_background(Image.new("RGB", (64, 64)), "on the grass")


def test_an_image_in_which_nothing_is_found_is_refused(pipe):
    class Empty:
        def set_image(self, image):
            self.shape = image.shape[:2]

        def predict(self, points):
            assert all(isinstance(point, Point) for point in points)
            return np.ones(self.shape, bool)

    white = np.full((64, 64, 3), 255, np.uint8)
    with pytest.raises(DianjingError, match="was not found"):
        find_object_mask(pipe, white, "a cat", segmenter=Empty())
