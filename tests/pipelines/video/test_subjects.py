"""Motion without regions: the moving objects of an image are found from the prompt."""

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import DianjingError, ImageToVideoPipeline
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser, parse_moving_subjects
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.pipelines.vae import encode_images, frames_to_pixels
from dianjing.pipelines.video.subjects import find_subjects, select_objects
from dianjing.train.stickers import CurriculumStage, StickerWorld

PAIRS = 12


@pytest.fixture(scope="module")
def pipe():
    return ImageToVideoPipeline.from_pretrained("sticker")


@pytest.fixture(scope="module")
def parser(pipe):
    return MotionPromptParser(pipe.motion_vocabulary, pipe.concept_vocabulary)


def frame(picture, margin):
    """The picture, twice as large, with a margin at its left and right that the crop to a square removes."""
    large = Image.fromarray(picture).resize((256, 256), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (256 + 2 * margin, 256), (200, 200, 200))
    framed.paste(large, (margin, 0))
    return framed


@pytest.mark.parametrize("margin", [0, 30])
def test_the_click_is_on_the_object_that_the_prompt_moves(pipe, parser, margin):
    """In held-out scenes of two objects, one of which moves; clicks are in pixels of the image as it was uploaded."""
    world = StickerWorld(
        size_px=128, stages=[CurriculumStage(scene_weights={"pair": 1.0}, grid_px=(32,))], split="held_out"
    )
    num_correct = 0
    for position in range(PAIRS):
        scene = world.get_captioned_clip(2, position, num_frames=1, fps=8)
        subjects = parser.parse(scene.text_en).subjects
        index = position % 2
        names = [f"{subject.phrase} jumping" if n == index else subject.phrase for n, subject in enumerate(subjects)]
        regions = pipe.locate_regions(frame(scene.frames[0], margin), " and ".join(names))
        assert [region.motion for region in regions] == ["jumping"]
        first, *others = regions[0].points
        assert first.positive
        assert [point.positive for point in others] == [False]
        x, y, width, height = (2 * side for side in scene.boxes[0][index])
        num_correct += x <= first.x - margin < x + width and y <= first.y < y + height
    assert num_correct >= 0.8 * PAIRS


def test_one_object_moves_once_for_a_prompt_of_two(pipe, parser):
    """The image lacks one subject: both are found on the other, which would be seen twice if it moved as both."""
    world = StickerWorld(size_px=128, stages=[CurriculumStage(scene_weights={"single": 1.0}, grid_px=(32,))])
    num_found = []
    for position in range(4):
        scene = world.get_captioned_clip(2, position, num_frames=1, fps=8)
        (subject,) = parser.parse(scene.text_en).subjects
        prompt = parser.parse(f"{subject.phrase} jumping and a red balloon rising")
        pixels = frames_to_pixels(scene.frames[:1], device=torch.device("cpu"), dtype=torch.float32)
        with torch.no_grad():
            latents = encode_images(pipe.vae, pixels)[0]
            found = find_subjects(pipe, latents, scene.frames[0], prompt, pipe.unet_segmenter)
        num_found.append(len(found))
    assert num_found.count(1) >= 3


def test_of_masks_of_one_object_the_most_relevant_is_selected():
    cat, dog = np.zeros((2, 8, 8), bool)
    cat[:, :4] = dog[:, 5:] = True
    shifted = np.roll(cat, 1, axis=0)
    shifted[0] = False
    assert select_objects([cat, shifted, dog], [0.2, 0.9, 0.1]) == [1, 2]
    assert select_objects([cat, dog], [0.2, 0.1]) == [0, 1]


def test_where_the_image_shows_nothing_there_is_no_object():
    cat, nothing = np.zeros((2, 64, 64), bool)
    cat[:, :4] = nothing[0, :3] = True
    assert select_objects([nothing, cat, nothing], [0.9, 0.2, 0.3]) == [1]
    assert select_objects([nothing, nothing], [0.2, 0.1]) == [0]


@pytest.mark.parametrize("prompt", ["a cat", "jumping", "a quaggle jumping", "quaggle"])
def test_a_prompt_that_moves_nothing_known_is_refused(parser, prompt):
    with pytest.raises(DianjingError) as caught:
        parse_moving_subjects(parser, prompt)
    assert caught.value.message_id == "prompt_without_motion"
    assert "jump" in caught.value.render("en")
    assert caught.value.render("en").isascii()
    assert "跳" in caught.value.render("zh")


def test_a_model_without_named_motions_needs_regions(parser):
    nameless = MotionPromptParser(MotionVocabulary(), parser.concept_vocabulary)
    with pytest.raises(DianjingError) as caught:
        parse_moving_subjects(nameless, "a cat jumping")
    assert caught.value.message_id == "motions_without_names"


def test_a_prompt_is_refused_before_the_image_is_computed(pipe, monkeypatch):
    monkeypatch.setattr(type(pipe), "encode_texts", lambda *_: pytest.fail("texts were encoded"))
    with pytest.raises(DianjingError):
        pipe.locate_regions(np.zeros((64, 64, 3), np.uint8), "a cat")
