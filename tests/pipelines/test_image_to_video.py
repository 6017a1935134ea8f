"""Clicks on a picture: what reaches the model, what comes back, what is refused."""

import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.prompting.motions import MotionConcept, MotionVocabulary
from dianjing.pipelines.segmentation.base import Point, Region
from dianjing.pipelines.video.detail import restore_detail

MOTIONS = MotionVocabulary(
    (
        MotionConcept(name="jump", phrases=("jump", "跳"), speed=0.4),
        MotionConcept(name="left", phrases=("move left", "向左"), speed=0.2),
        MotionConcept(name="long", phrases=("move left and jump",), speed=1.0),
    )
)


def square(left: int = 20, side: int = 24, size: int = 64) -> np.ndarray:
    """A red square on grey."""
    picture = np.full((size, size, 3), 128, np.uint8)
    picture[left : left + side, left : left + side] = (220, 30, 30)
    return picture


def mask_of(left: int = 20, side: int = 24, size: int = 64) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[left : left + side, left : left + side] = True
    return mask


@pytest.fixture
def pipe(video_folder):
    pipe = ImageToVideoPipeline.from_pretrained(video_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def clicks(pipe, monkeypatch):
    """The clicks that the transformer was given."""
    seen, condition = [], pipe.transformer.compute_conditioning

    def listen(*args, **kwargs):
        seen.append(kwargs["motion_control"])
        return condition(*args, **kwargs)

    monkeypatch.setattr(pipe.transformer, "compute_conditioning", listen)
    return seen


def move(pipe, image=None, regions=None, **settings):
    regions = regions or [Region(motion="jump", mask=mask_of())]
    settings = {"num_inference_steps": 2, "num_frames": 3, "generator": torch.Generator().manual_seed(0), **settings}
    return pipe(square() if image is None else image, regions, **settings)


def test_the_first_frame_is_the_picture_itself(pipe):
    result = move(pipe, output_type="uint8")
    assert result.frames.shape == (1, 3, 64, 64, 3)
    np.testing.assert_array_equal(result.frames[0, 0], square())


def test_two_regions_reach_the_model_in_one_run(pipe, clicks):
    pipe.motion_vocabulary = MOTIONS
    regions = [
        Region(motion="jump", mask=mask_of(), strength=1.0),
        Region(motion="向左", mask=mask_of(0, 8), strength=0.5),
    ]
    move(pipe, regions=regions, guidance_scale=4.0)
    (click,) = clicks
    assert click.masks.shape == (2, 2, 8, 8)
    assert click.masks[1, 1, 0, 0] == 1
    assert click.masks[1, 1].sum() == 1
    assert click.masks[1, 0].sum() == pytest.approx(9)  # 24 x 24 px in latents of 8 x 8
    torch.testing.assert_close(click.strengths[1], torch.tensor([0.4, 0.1]))
    assert not click.phrase_mask[0].any()  # the half that guidance leads away from
    assert click.phrase_mask[1].any(dim=-1).all()
    assert torch.equal(click.first_frame[0], click.first_frame[1])


def test_a_region_without_a_partner_leaves_the_others_empty(pipe, clicks):
    move(pipe, guidance_scale=1.0)
    (click,) = clicks
    assert click.masks.shape[0] == 1
    assert not click.masks[0, 1].any()
    assert not click.phrase_mask[0, 1].any()


def test_a_click_becomes_the_mask_of_what_it_is_on(pipe):
    region = Region(motion="jump", points=[Point(x=30, y=30)])
    (mask,) = pipe.predict_masks(square(), [region])
    assert (mask & mask_of()).sum() / (mask | mask_of()).sum() > 0.9
    np.testing.assert_array_equal(move(pipe, regions=[region]).masks[0], mask)


def test_a_picture_of_another_size_is_fitted_and_the_result_says_how(pipe):
    wide = Image.fromarray(square()).resize((256, 128))
    mask = np.zeros((128, 256), bool)
    mask[40:80, 120:200] = True
    result = move(pipe, image=wide, regions=[Region(motion="jump", mask=mask)], output_type="pil")
    assert result.frames[0][0].size == (64, 64)
    assert str(result.crop_transform) == "256 x 128 px scaled by 0.5 to 64 x 64 px, 64 px of its width cut off"
    assert result.crop_transform.transform_point(128, 64) == (32, 32)
    rows, columns = np.nonzero(result.masks[0])
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (20, 40, 28, 64)  # cut on the right


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(square()).convert("CMYK"),
        Image.fromarray(square()).convert("P"),
        Image.fromarray(square()).convert("RGBA"),
        Image.fromarray(np.full((64, 64), 40_000, np.uint16)),
        Image.fromarray(square()).convert("L"),
    ],
    ids=["CMYK", "palette", "alpha", "16 bit", "grey"],
)
def test_pictures_of_any_mode_are_taken(pipe, image):
    assert move(pipe, image=image).frames[0][0].mode == "RGB"


def many(count):
    return [Point(x=1, y=1)] * count


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([], "0 regions"),
        ([Region(motion="jump", mask=mask_of())] * 3, "3 regions .* 1 to 2"),
        ([Region(motion="jump", points=[Point(x=64, y=3)])], r"outside the image of 64 x 64 px"),
        ([Region(motion="jump", points=[Point(x=float("nan"), y=3)])], "is no position"),
        ([Region(motion="jump", points=many(100_000))], "100,000 points"),
        ([Region(motion="jump", points=[Point(x=3, y=3, positive=False)])], "all points are negative"),
        ([Region(motion="jump", mask=np.zeros((64, 64), bool))], "empty"),
        ([Region(motion="jump", mask=np.ones((64, 64), bool))], "whole image"),
        ([Region(motion="jump", mask=np.ones((9, 64), bool))], r"shape \(9, 64\)"),
    ],
)
def test_regions_that_cannot_be_moved_are_refused_by_name(pipe, regions, message):
    with pytest.raises(ValueError, match=message):
        pipe(square(), regions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"motion": ""}, "motion is empty"),
        ({"strength": 1.5}, r"strength is 1\.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"points": (), "mask": None}, "points or a mask"),
        ({"points": [Point(x=1, y=1)]}, "one of the two"),
    ],
)
def test_a_region_says_at_once_what_is_wrong_with_it(settings, message):
    with pytest.raises(ValueError, match=message):
        Region(**{"motion": "jump", "mask": mask_of(), **settings})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.uint8), "uint8"),
        (np.zeros((64, 64, 3)), "float64"),
        ("cat.png", "of type str"),
        (Image.new("L", (1, 20_000)), "20 times"),
        (Image.new("L", (9000, 9000)), "64,000,000 pixels"),
    ],
)
def test_what_is_no_picture_is_refused(pipe, image, message):
    with pytest.raises(ValueError, match=message):
        pipe(image, [Region(motion="jump", mask=mask_of())])


def test_one_frame_cannot_move(pipe):
    with pytest.raises(ValueError, match="at least 2"):
        move(pipe, num_frames=1)


def test_an_unknown_motion_is_said_and_tried(pipe, caplog):
    pipe.motion_vocabulary = MOTIONS
    with caplog.at_level(logging.WARNING):
        move(pipe, regions=[Region(motion="explode", mask=mask_of())])
    assert "not trained on the motion 'explode'" in caplog.text
    assert "jump, move left" in caplog.text


def test_motions_are_found_by_their_longest_phrase_and_as_whole_words():
    assert MOTIONS.find("Make it JUMP").name == "jump"
    assert MOTIONS.find("jumper") is None
    assert MOTIONS.find("跳起来").name == "jump"
    assert MOTIONS.find("move left and jump").name == "long"
    assert MOTIONS.get_speed("jump", 0.5) == pytest.approx(0.2)
    assert MOTIONS.get_speed("explode", 1.0) == pytest.approx(0.4)  # the median of what is known


def test_motions_come_back_from_their_file(tmp_path):
    MOTIONS.save(tmp_path / "motions.json")
    assert MotionVocabulary.from_file(tmp_path / "motions.json") == MOTIONS
    (tmp_path / "motions.json").write_text('{"jump": 1}')
    with pytest.raises(ValueError, match="no list of motions"):
        MotionVocabulary.from_file(tmp_path / "motions.json")


def test_what_stands_still_keeps_the_pixels_of_the_picture_and_what_moves_does_not():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blurred = np.full((2, 64, 64, 3), 120, np.uint8)
    blurred[1, :20, :20] = 250
    kept = restore_detail(blurred, picture[None].repeat(2, 0), blurred[:1].repeat(2, 0))
    np.testing.assert_array_equal(kept[0], picture)
    np.testing.assert_array_equal(kept[1, 32:, 32:], picture[32:, 32:])
    np.testing.assert_array_equal(kept[1, :10, :10], blurred[1, :10, :10])


def test_what_has_moved_keeps_its_details_too():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    moved = np.stack([picture, np.roll(picture, 5, axis=1)])
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in moved])
    np.testing.assert_array_equal(restore_detail(blurred, moved, blurred), moved)
