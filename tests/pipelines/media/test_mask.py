"""Masks of every color type select the same pixels, and wrong ones are refused with their name and size."""

import io

import numpy as np
import pytest
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.media.mask import read_mask, select_opaque, to_mask
from dianjing.pipelines.segmentation.base import Region, check_region

SIZE = (6, 4)
SELECTED = np.zeros((4, 6), bool)
SELECTED[1:3, 2:5] = True


def make_masks():
    """The same mask as images of every mode, and as arrays of every type."""
    levels = Image.fromarray(SELECTED.astype(np.uint8) * 255)
    uint16, floats = SELECTED.astype(np.uint16) * 65535, SELECTED.astype(np.float32)
    masks = {mode: levels.convert(mode) for mode in ("1", "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F")}
    masks |= {"I;16": Image.fromarray(uint16), "F on 0 to 1": Image.fromarray(floats), "P": levels.convert("P")}
    strokes = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    strokes.paste((255, 255, 255, 255), (2, 1, 5, 3))
    classes = Image.fromarray(SELECTED.astype(np.uint8)).convert("P")
    classes.putpalette([0, 0, 0, 128, 0, 0])  # as VOC colours its classes
    masks |= {"white strokes on transparency": strokes, "palette of classes": classes}
    masks |= {"red": Image.merge("RGB", [levels, Image.new("L", SIZE), Image.new("L", SIZE)])}
    masks |= {"levels 0 and 1": Image.fromarray(SELECTED.astype(np.uint8))}
    arrays = {"bool": SELECTED, "uint8": np.asarray(levels), "0 and 1": SELECTED.astype(int), "uint16": uint16}
    arrays |= {"float": floats, "float to 255": floats * 255, "channels": np.asarray(levels.convert("RGB"))}
    arrays |= {"one channel": SELECTED[..., None], "rgba": np.asarray(strokes), "int64": SELECTED * 255}
    return masks | {f"array: {name}": array for name, array in arrays.items()}


@pytest.mark.parametrize("kind", make_masks())
def test_white_is_selected_in_every_color_type(kind):
    np.testing.assert_array_equal(to_mask(make_masks()[kind]), SELECTED)


@pytest.mark.parametrize("kind", [name for name, mask in make_masks().items() if isinstance(mask, Image.Image)])
def test_a_region_takes_a_mask_of_every_color_type(kind):
    region = Region(motion="jump", mask=make_masks()[kind])
    check_region(region, size=SIZE)
    np.testing.assert_array_equal(region.mask, SELECTED)


@pytest.mark.parametrize("mask", [np.zeros((4, 6), object), np.zeros(4), np.zeros((4, 6, 2)), "mask.png", None])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(DianjingError, match="the sky is an array of"):
        to_mask(mask, name="the sky")


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(DianjingError, match="mask has pixels that are no numbers"):
        to_mask(np.full((4, 6), np.nan))


def test_opaque_pixels_are_selected_by_alpha():
    image = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    image.paste((9, 9, 9, 255), (2, 1, 5, 3))
    np.testing.assert_array_equal(select_opaque(image), SELECTED)
    assert select_opaque(Image.new("RGB", SIZE)).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (6, 5), 255), r"sky\.png has 6 x 5 px, but its image has 6 x 4 px"),
        (Image.new("L", SIZE), r"sky\.png is empty"),
        (Image.new("1", SIZE, 1), r"sky\.png covers the whole image"),
        (Image.new("RGBA", SIZE, (255, 255, 255, 0)), r"sky\.png is empty"),
    ],
)
def test_a_wrong_mask_is_refused_with_its_name_and_size(mask, message):
    file = io.BytesIO()
    mask.save(file, "PNG")
    with pytest.raises(DianjingError, match=message):
        read_mask(file, size=SIZE, name="sky.png")


def test_a_wrong_mask_of_a_region_is_refused_with_its_motion():
    with pytest.raises(DianjingError, match=r"the mask of 'jump' has 6 x 4 px") as caught:
        check_region(Region(motion="jump", mask=SELECTED), size=(7, 4))
    assert "动作“jump”的蒙版" in caught.value.render("zh")
