"""Image to video: what reaches the model, what is returned, what is refused."""

import dataclasses
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


def make_image(left: int = 20, side: int = 24, size: int = 64) -> np.ndarray:
    """A red square on gray."""
    image = np.full((size, size, 3), 128, np.uint8)
    image[left : left + side, left : left + side] = (220, 30, 30)
    return image


def make_mask(left: int = 20, side: int = 24, size: int = 64) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[left : left + side, left : left + side] = True
    return mask


@pytest.fixture
def pipe(video_folder):
    pipe = ImageToVideoPipeline.from_pretrained(video_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def motion_controls(pipe, monkeypatch):
    """Motion controls that the transformer gets."""
    controls, compute_conditioning = [], pipe.transformer.compute_conditioning

    def record(*args, **kwargs):
        controls.append(kwargs["motion_control"])
        return compute_conditioning(*args, **kwargs)

    monkeypatch.setattr(pipe.transformer, "compute_conditioning", record)
    return controls


def animate(pipe, image=None, regions=None, **settings):
    regions = regions or [Region(motion="jump", mask=make_mask())]
    settings = {"num_inference_steps": 2, "num_frames": 3, "generator": torch.Generator().manual_seed(0), **settings}
    return pipe(make_image() if image is None else image, regions, **settings)


def test_the_first_frame_is_the_image_itself(pipe):
    result = animate(pipe, output_type="uint8")
    assert result.frames.shape == (1, 3, 64, 64, 3)
    np.testing.assert_array_equal(result.frames[0, 0], make_image())


def test_two_regions_reach_the_model_in_one_run(pipe, motion_controls):
    pipe.motion_vocabulary = MOTIONS
    regions = [
        Region(motion="jump", mask=make_mask(), strength=1.0),
        Region(motion="向左", mask=make_mask(0, 8), strength=0.5),
    ]
    animate(pipe, regions=regions, guidance_scale=4.0)
    (control,) = motion_controls
    assert control.masks.shape == (2, 2, 8, 8)
    assert control.masks[1, 1, 0, 0] == 1
    assert control.masks[1, 1].sum() == 1
    assert control.masks[1, 0].sum() == pytest.approx(9)  # 24 x 24 px in latents of 8 x 8
    torch.testing.assert_close(control.strengths[1], torch.tensor([0.4, 0.1]))
    assert not control.phrase_mask[0].any()  # the unconditional half
    assert control.phrase_mask[1].any(dim=-1).all()
    assert torch.equal(control.first_frame[0], control.first_frame[1])


def test_unused_regions_are_empty(pipe, motion_controls):
    animate(pipe, guidance_scale=1.0)
    (control,) = motion_controls
    assert control.masks.shape[0] == 1
    assert not control.masks[0, 1].any()
    assert not control.phrase_mask[0, 1].any()


def test_a_point_becomes_the_mask_of_its_object(pipe):
    region = Region(motion="jump", points=[Point(x=30, y=30)])
    (mask,) = pipe.predict_masks(make_image(), [region])
    assert (mask & make_mask()).sum() / (mask | make_mask()).sum() > 0.9
    np.testing.assert_array_equal(animate(pipe, regions=[region]).masks[0], mask)


@pytest.mark.parametrize(("size", "expected"), [((1600, 900), (80, 48)), ((300, 400), (48, 64))])
def test_without_a_size_the_video_has_the_aspect_of_the_image(pipe, size, expected):
    image = Image.fromarray(make_image()).resize(size)
    mask = np.zeros(size[::-1], bool)
    mask[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] // 2] = True
    result = animate(pipe, image=image, regions=[Region(motion="jump", mask=mask)], output_type="pil")
    assert result.frames[0][0].size == expected
    assert result.masks[0].shape == expected[::-1]


def test_an_image_of_another_size_is_cropped_and_the_result_says_how(pipe):
    wide = Image.fromarray(make_image()).resize((256, 128))
    mask = np.zeros((128, 256), bool)
    mask[40:80, 120:200] = True
    regions = [Region(motion="jump", mask=mask)]
    result = animate(pipe, image=wide, regions=regions, output_type="pil", height=64, width=64)
    assert result.frames[0][0].size == (64, 64)
    assert str(result.crop_transform) == "256 x 128 px scaled by 0.5 to 64 x 64 px, 64 px of its width cut off"
    assert result.crop_transform.transform_point(128, 64) == (32, 32)
    rows, columns = np.nonzero(result.masks[0])
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (20, 40, 28, 64)  # cut on the right


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(make_image()).convert("CMYK"),
        Image.fromarray(make_image()).convert("P"),
        Image.fromarray(make_image()).convert("RGBA"),
        Image.fromarray(np.full((64, 64), 40_000, np.uint16)),
        Image.fromarray(make_image()).convert("L"),
    ],
    ids=["CMYK", "palette", "alpha", "16 bit", "grey"],
)
def test_images_of_any_mode_are_accepted(pipe, image):
    assert animate(pipe, image=image).frames[0][0].mode == "RGB"


def make_points(count):
    return [Point(x=1, y=1)] * count


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([], "0 regions"),
        ([Region(motion="jump", mask=make_mask())] * 3, "3 regions .* 1 to 2"),
        ([Region(motion="jump", points=[Point(x=64, y=3)])], r"outside the image of 64 x 64 px"),
        ([Region(motion="jump", points=[Point(x=float("nan"), y=3)])], "is no position"),
        ([Region(motion="jump", points=make_points(100_000))], "100,000 points"),
        ([Region(motion="jump", points=[Point(x=3, y=3, positive=False)])], "all points are negative"),
        ([Region(motion="jump", mask=np.zeros((64, 64), bool))], "empty"),
        ([Region(motion="jump", mask=np.ones((64, 64), bool))], "whole image"),
        ([Region(motion="jump", mask=np.ones((9, 64), bool))], r"has 64 x 9 px"),
    ],
)
def test_unusable_regions_are_refused_by_name(pipe, regions, message):
    with pytest.raises(ValueError, match=message):
        pipe(make_image(), regions)


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
def test_an_unusable_region_is_refused_when_it_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        Region(**{"motion": "jump", "mask": make_mask(), **settings})


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
def test_an_unusable_image_is_refused(pipe, image, message):
    with pytest.raises(ValueError, match=message):
        pipe(image, [Region(motion="jump", mask=make_mask())])


def test_one_frame_cannot_move(pipe):
    with pytest.raises(ValueError, match="at least 2"):
        animate(pipe, num_frames=1)


def test_an_unknown_motion_is_warned_about_and_tried(pipe, caplog):
    pipe.motion_vocabulary = MOTIONS
    with caplog.at_level(logging.WARNING):
        animate(pipe, regions=[Region(motion="explode", mask=make_mask())])
    assert "not trained on the motion 'explode'" in caplog.text
    assert "jump, move left" in caplog.text


def test_the_warning_about_a_motion_names_what_the_reader_can_type(pipe, caplog, monkeypatch):
    pipe.motion_vocabulary = dataclasses.replace(
        MOTIONS, motions=[dataclasses.replace(motion, phrases=("跳", "jump")) for motion in MOTIONS.motions[:1]]
    )
    for language, known, other in (("en", "jump", "跳"), ("zh", "跳", "jump")):
        caplog.clear()
        monkeypatch.setenv("DIANJING_LANG", language)
        with caplog.at_level(logging.WARNING):
            animate(pipe, regions=[Region(motion="explode", mask=make_mask())])
        assert known in caplog.text
        assert other not in caplog.text


def test_motions_are_found_by_their_longest_phrase_and_as_separate_words():
    assert MOTIONS.find("Make it JUMP").name == "jump"
    assert MOTIONS.find("jumper") is None
    assert MOTIONS.find("跳起来").name == "jump"
    assert MOTIONS.find("move left and jump").name == "long"
    assert MOTIONS.get_speed("jump", 0.5) == pytest.approx(0.2)
    assert MOTIONS.get_speed("explode", 1.0) == pytest.approx(0.4)  # the median of the known motions


def test_motions_are_saved_and_loaded(tmp_path):
    MOTIONS.save(tmp_path / "motions.json")
    assert MotionVocabulary.from_file(tmp_path / "motions.json") == MOTIONS
    (tmp_path / "motions.json").write_text('{"jump": 1}')
    with pytest.raises(ValueError, match="no list of motions"):
        MotionVocabulary.from_file(tmp_path / "motions.json")


def test_static_parts_keep_the_pixels_of_the_image_and_moving_parts_do_not():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blurred = np.full((2, 64, 64, 3), 120, np.uint8)
    blurred[1, :20, :20] = 250
    restored = restore_detail(blurred, image[None].repeat(2, 0), blurred[:1].repeat(2, 0), scale_factor=8)
    np.testing.assert_array_equal(restored[0], image)
    np.testing.assert_array_equal(restored[1, 32:, 32:], image[32:, 32:])
    np.testing.assert_array_equal(restored[1, :10, :10], blurred[1, :10, :10])


def test_warped_parts_keep_their_detail():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    warped = np.stack([image, np.roll(image, 5, axis=1)])
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in warped])
    np.testing.assert_array_equal(restore_detail(blurred, warped, blurred, scale_factor=8), warped)
