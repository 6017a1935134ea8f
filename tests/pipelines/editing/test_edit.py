"""Edits: what words and clicks select, parts of an extension, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import DianjingError, InpaintPipeline, Point
from dianjing.pipelines.editing.background import names_background
from dianjing.pipelines.editing.edit import ImageEdit
from dianjing.pipelines.editing.extension import Extension, parse_extension
from dianjing.pipelines.editing.localization import locate_words, make_indefinite
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.train.evaluation.edits import sample_edit


@pytest.fixture(scope="module")
def sticker():
    pipe = InpaintPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("language", ["zh", "en"])
def test_words_select_the_object_that_they_name(sticker, language):
    """In pictures of two objects whose positions are known exactly."""
    covered = []
    for position in range(4):
        sample = sample_edit("words", position, seed=0, size_px=sticker.default_size_px)
        words = sample.words[language].replace("a ", "the ", 1).replace("一", "那", 1)
        mask = ImageEdit(image=Image.fromarray(sample.source), words=words).select(sticker)
        x, y, side, _ = sample.box
        covered.append(mask[y : y + side, x : x + side].mean() > 0.5 and mask.mean() < 0.6)
    assert sum(covered) >= 3


def test_a_click_selects_the_object_at_it_with_room_around():
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[20:40, 10:30] = (200, 30, 30)
    edit = ImageEdit(image=Image.fromarray(pixels), points=[Point(x=20, y=30)])
    mask = edit.select(None, GrabCutSegmenter())
    assert mask[16:44, 6:34].mean() > 0.9
    assert not mask[:, 50:].any()


def test_unknown_words_are_refused_before_anything_is_computed():
    pipe = SimpleNamespace(find_unknown_words=lambda text: [word for word in text.split() if word == "zyzzyva"])
    with pytest.raises(DianjingError, match="zyzzyva"):
        locate_words(pipe, Image.new("RGB", (64, 64)), "the zyzzyva")


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("the cat", "a cat"),
        ("That red cat", "a red cat"),
        ("那只猫", "一只猫"),
        ("这朵花", "一朵花"),
        ("a cat", "a cat"),
    ],
)
def test_a_definite_article_becomes_that_of_captions(phrase, expected):
    assert make_indefinite(phrase) == expected


def test_parts_of_an_extension_give_its_canvas_one_side_at_a_time():
    extension, image = Extension(left=70, top=10, bottom=32), Image.new("RGB", (96, 64))
    expected, mask = extension.apply(image)
    assert expected.size == (166, 106)
    assert mask.sum() == 166 * 106 - 96 * 64
    assert not mask[10:74, 70:].any()
    parts = extension.split(image.size)
    assert all(sum(vars(part).values()) <= 32 and sum(map(bool, vars(part).values())) == 1 for part in parts)
    for part in parts:
        image, _ = part.apply(image)
    assert image.size == expected.size


def test_a_canvas_repeats_the_border_of_the_image():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    canvas, mask = Extension(right=4).apply(Image.fromarray(pixels))
    assert (np.asarray(canvas)[~mask].reshape(8, 8, 3) == pixels).all()
    assert (np.asarray(canvas)[:, 8:] == pixels[:, 7:]).all()


@pytest.mark.parametrize(
    "texts", [[], [""], ["left"], ["left=-4"], ["left=1.5"], ["left=4", "left=4"], ["up=4"], ["left=99999"]]
)
def test_a_malformed_extension_is_refused(texts):
    with pytest.raises(DianjingError):
        parse_extension(texts)
    assert parse_extension(["left=4,top=2", "right = 1"]) == Extension(left=4, top=2, right=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.zeros((64, 64), bool)}, "mask is empty"),
        ({"mask": np.ones((32, 64), bool)}, "64 x 32 px"),
        ({"mask": np.ones((64, 64), bool), "words": "a cat"}, "several ways"),
        ({"points": [Point(x=64, y=3)]}, "outside"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": 2}, "strength"),
        ({"words": "\0"}, "words"),
        ({"padding_mask_crop": 3}, "padding_mask_crop"),
        ({"extension": Extension(left=8000)}, "8064 x 64"),
        ({"image": torch.zeros(3, 64, 64)}, "Tensor"),
    ],
    ids=str,
)
def test_an_edit_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(DianjingError, match=message):
        ImageEdit(**{"image": Image.new("RGB", (64, 64)), **arguments})


@pytest.mark.parametrize("words", ["the background", "Background", "the whole background", "背景", "整个背景", "雪地"])
def test_words_for_the_background_select_what_lies_around_the_objects(sticker, words):
    overlaps = []
    for position in range(6):
        sample = sample_edit("replace", position, seed=1, size_px=sticker.default_size_px)
        x, y, side, _ = sample.box
        inside = np.zeros(sample.source.shape[:2], bool)
        inside[y : y + side, x : x + side] = True
        mask = ImageEdit(image=Image.fromarray(sample.source), words=words).select(sticker)
        overlaps.append((mask[[0, -1]].mean() + mask[:, [0, -1]].mean()) / 2 > 0.9 and mask[inside].mean() < 0.7)
    assert sum(overlaps) >= 5


def test_words_for_objects_do_not_name_the_background(sticker):
    for words in ("the cat", "那只猫", "a star", "the background of the cat"):
        assert not names_background(sticker, words)
