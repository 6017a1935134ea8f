"""Prompts of masked parts: the object that the rest of an image lacks, against the exact truth of the sticker world."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dianjing import DianjingError, ImageToImagePipeline, InpaintPipeline
from dianjing.pipelines.conversation.scene import POSITIONS
from dianjing.pipelines.editing.edit import ImageEdit, run_edit
from dianjing.pipelines.editing.region_prompt import find_position, make_region_prompt
from dianjing.pipelines.editing.variation import check_variation
from dianjing.train.evaluation.edits import get_rim_px, has_target, keeps_rest, make_masks, sample_edit
from dianjing.train.stickers.matching import SpriteMatcher
from dianjing.train.stickers.sprite_classes import load_sprite_classes

SEED = 1000  # of samples that the method was developed on


@pytest.fixture(scope="module")
def sticker():
    pipe = InpaintPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_box_mask(left, top, right, bottom):
    """A mask of 128 px; the box is in 64ths of it."""
    mask = np.zeros((128, 128), bool)
    mask[2 * top : 2 * bottom, 2 * left : 2 * right] = True
    return mask


def read_objects(pipe, prompt):
    return [(each.name, each.count) for each in pipe.prompt_normalizer.read_scene(prompt).objects]


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("margin_px", [0, 5])
def test_the_position_is_that_of_the_box_with_or_without_a_margin(index, margin_px):
    row, column = divmod(index, 3)
    mask = make_box_mask(
        max(0, 16 * column - margin_px), max(0, 16 * row - margin_px), 16 * column + 32 + margin_px, 16 * row + 32
    )
    assert find_position(mask) == POSITIONS[index]


def test_a_mask_around_objects_has_no_position():
    assert find_position(np.ones((128, 128), bool)) is None
    assert find_position(~make_box_mask(0, 16, 32, 48)) is None


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("kind", ["replace", "add", "recolour"])
def test_the_object_that_the_rest_lacks_is_named_alone(sticker, kind, language):
    for position in range(4):
        sample = sample_edit(kind, position, seed=SEED, size_px=sticker.default_size_px)
        [mask] = make_masks(sticker, [sample], language)
        image, prompt = Image.fromarray(sample.source), sample.texts[language]
        result = make_region_prompt(sticker, image, mask, prompt, is_cropped=False)
        name = load_sprite_classes()[sample.target.class_id].names_en[0]
        assert len(read_objects(sticker, prompt)) == 2
        assert read_objects(sticker, result) == [(name, 1)]
        read = sticker.prompt_normalizer.read_scene
        assert read(result).background == read(prompt).background is not None
        assert read(result).objects[0].position == POSITIONS[sample.target.cell]
        assert read(result).objects[0].colour in [each.colour for each in read(prompt).objects if each.name == name]


def test_a_prompt_stays_where_nothing_is_new_or_the_scene_is_replaced(sticker):
    sample = sample_edit("add", 0, seed=SEED, size_px=sticker.default_size_px)
    empty, image, prompt = sample.painted_mask, Image.fromarray(sample.source), "a penguin at sea"
    assert read_objects(sticker, sample.texts["en"])[0] == ("penguin", 1)  # the one that the source shows
    assert make_region_prompt(sticker, image, empty, prompt, is_cropped=False) == prompt
    for mask in (np.ones((128, 128), bool), ~make_box_mask(16, 32, 48, 64)):
        assert make_region_prompt(sticker, image, mask, sample.texts["en"], is_cropped=False) == sample.texts["en"]


def test_another_model_and_a_trigger_word_get_the_prompt_as_it_is(sticker, monkeypatch):
    mask, image = make_box_mask(0, 0, 32, 32), Image.new("RGB", (128, 128))
    other = SimpleNamespace(prompt_normalizer=None)
    assert make_region_prompt(other, image, mask, "a cat and a dog", is_cropped=False) == "a cat and a dog"
    monkeypatch.setattr(sticker, "list_trigger_words", lambda: ["zyx"])
    assert make_region_prompt(sticker, image, mask, "a cat and a zyx", is_cropped=False) == "a cat and a zyx"


@pytest.mark.parametrize("position", [5, 13])
def test_an_edit_shows_the_new_object_and_not_its_neighbour_again(sticker, position):
    """The model draws the neighbour a second time in these two with the prompt of the whole scene."""
    sample = sample_edit("replace", position, seed=SEED, size_px=sticker.default_size_px)
    [mask] = make_masks(sticker, [sample], "en")
    edit = ImageEdit(image=Image.fromarray(sample.source), mask=mask)
    [image] = run_edit(sticker, edit, sample.texts["en"], seeds=[SEED + position])
    assert has_target(sample, np.asarray(image), SpriteMatcher.for_images(sticker.default_size_px))
    assert keeps_rest(sample, np.asarray(image), mask, rim_px=get_rim_px(sticker))


def test_without_a_prompt_a_foreign_image_is_refused_and_a_sticker_is_not(sticker):
    sample = sample_edit("replace", 0, seed=SEED, size_px=sticker.default_size_px)
    check_variation(sticker, Image.fromarray(sample.source))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 96, 3), np.uint8))
    check_variation(SimpleNamespace(prompt_normalizer=None), noise)
    vary = ImageToImagePipeline.from_pipe(sticker)
    with pytest.raises(DianjingError, match="Give a prompt"):
        run_edit(vary, ImageEdit(image=noise), "", seeds=[0])
    [image] = run_edit(vary, ImageEdit(image=noise, strength=0), "", seeds=[0])
    assert image.size == noise.size
