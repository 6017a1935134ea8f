"""Fitting to bucket shapes: what is cropped, padded or mirrored, and which part the loss counts."""

import dataclasses
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.buckets import find_nearest_bucket, make_bucket_shapes
from dianjing.train.data.fitting import fit_image, make_loss_mask
from dianjing.train.data.index import build_index
from dianjing.train.data.inspect import inspect_records
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.sources import list_dataset
from dianjing.train.diffusion.objectives import average_errors

PHOTO_SIZES = [(4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16), (5, 4), (1, 1)]


class Content:
    """An image as a byte source."""

    def __init__(self, image):
        file = BytesIO()
        image.save(file, "PNG")
        self.content = file.getvalue()

    def read(self):
        return self.content


def make_record(image, **settings):
    return SampleRecord(name="a.png", source=Content(image), text_zh=None, text_en="a cat", **settings)


def make_halves(size=(40, 20)):
    """The left half red, the right half blue."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    return image


@pytest.mark.parametrize("size_px", [64, 96, 128, 256, 512, 1024])
@pytest.mark.parametrize("multiple_px", [8, 16])
def test_photos_lose_little(size_px, multiple_px):
    shapes = make_bucket_shapes(size_px, multiple_px=multiple_px, max_aspect_ratio=2.0)
    assert len(shapes) == len(set(shapes))
    for size in PHOTO_SIZES:
        assert find_nearest_bucket(size, shapes).cropped_fraction <= (0.1001 if size_px < 128 else 0.05)
    assert find_nearest_bucket((4, 3), shapes).cropped_fraction < 0.05


def test_padding_keeps_all_of_the_image_and_the_loss_counts_nothing_else():
    image, record = make_halves(), make_record(make_halves(), fit="pad")
    padded = np.asarray(fit_image(image, record, height=40, width=40))
    assert (padded[:10] == 255).all()
    assert (padded[30:] == 255).all()
    assert (padded[10:30] == np.asarray(image)).all()
    counted = make_loss_mask(record, image.size, height=40, width=40)
    assert counted[10:30].all()
    assert not counted[:10].any()
    assert not counted[30:].any()
    assert make_loss_mask(record, image.size, height=20, width=40) is None


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_mirrored_record_is_the_mirror_image_with_its_mask(fit):
    image, mask = make_halves((40, 24)), Image.new("L", (40, 24), 0)
    mask.paste(255, (0, 0, 20, 24))
    record = make_record(image, fit=fit, loss_mask=Content(mask))
    mirrored = dataclasses.replace(record, is_flipped=True)
    plain = fit_image(image, record, height=32, width=32)
    assert fit_image(image, mirrored, height=32, width=32) == ImageOps.mirror(plain)
    counted = [make_loss_mask(each, image.size, height=32, width=32) for each in (record, mirrored)]
    assert (counted[1] == counted[0][:, ::-1]).all()
    assert counted[0].any()
    red = np.asarray(plain)[..., 0] > 128
    blue = np.asarray(plain)[..., 2] > 128
    assert (counted[0] == (red & ~blue)).mean() > 0.9


def test_alpha_is_the_mask_of_the_loss_only_if_the_data_set_says_so(tmp_path):
    image = Image.new("RGBA", (32, 32), (255, 0, 255, 0))
    image.paste((200, 30, 30, 255), (8, 8, 24, 24))
    image.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    (record,) = list_dataset(DatasetConfig(path=tmp_path)).records
    assert make_loss_mask(record, (32, 32), height=32, width=32) is None
    (record,) = list_dataset(DatasetConfig(path=tmp_path, loss_mask="alpha")).records
    counted = make_loss_mask(record, (32, 32), height=32, width=32)
    assert counted[8:24, 8:24].all()
    assert counted.sum() == 16 * 16


def test_alpha_is_upright_like_its_image(tmp_path):
    image = Image.new("RGBA", (32, 24), (255, 0, 255, 0))
    image.paste((200, 30, 30, 255), (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x112] = 6  # the first row is the right side
    image.save(tmp_path / "a.png", exif=exif)
    (record,) = list_dataset(DatasetConfig(path=tmp_path, default_caption="a cat", loss_mask="alpha")).records
    counted = make_loss_mask(record, (24, 32), height=32, width=24)
    assert counted[:, 16:].all()
    assert not counted[:, :16].any()


@pytest.mark.parametrize("ending", [".mask.png", "-masklabel.png", ".MASK.PNG"])
def test_a_mask_next_to_an_image_is_found(tmp_path, ending):
    make_halves((32, 32)).save(tmp_path / "a.png")
    mask = Image.new("1", (32, 32), 0)
    mask.paste(1, (0, 0, 16, 32))
    mask.save(tmp_path / f"a{ending}", "PNG")
    (tmp_path / "a.txt").write_text("a cat")
    listing = list_dataset(DatasetConfig(path=tmp_path))
    assert [record.name for record in listing.records] == ["a.png"]
    assert make_loss_mask(listing.records[0], (32, 32), height=32, width=32).sum() == 16 * 32
    (record,) = list_dataset(DatasetConfig(path=tmp_path, loss_mask="none")).records
    assert record.loss_mask is None


@pytest.mark.parametrize(
    ("mask", "part"), [(Image.new("L", (16, 16), 255), "16 x 16"), (Image.new("L", (32, 32), 0), "nothing to train on")]
)
def test_wrong_masks_are_named_when_the_data_are_inspected(tmp_path, mask, part):
    make_halves((32, 32)).save(tmp_path / "a.png")
    mask.save(tmp_path / "a.mask.png")
    (tmp_path / "a.txt").write_text("a cat")
    result = inspect_records(list_dataset(DatasetConfig(path=tmp_path)).records, min_side_px=16)
    assert not result.records
    assert part in str(result.rejected["a.png"])


def test_errors_outside_of_the_mask_do_not_count():
    errors = torch.rand(2, 3, 4, 5)
    mask = torch.ones(2, 4, 5)
    torch.testing.assert_close(average_errors(errors, mask), average_errors(errors, None))
    mask[1, :, 2:] = 0
    averages = average_errors(errors, mask)
    torch.testing.assert_close(averages[0], errors[0].mean())
    torch.testing.assert_close(averages[1], errors[1, :, :, :2].mean())
    clip = torch.rand(2, 3, 6, 4, 5)
    torch.testing.assert_close(average_errors(clip, mask)[1], clip[1, :, :, :, :2].mean())


def test_half_of_the_samples_of_a_flipped_set_are_mirrored(tmp_path):
    for name in "abcd":
        make_halves((32, 32)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name)
    config = DatasetConfig(path=tmp_path, flip=True, repeats=3)
    index = build_index([config], lambda _: [(32, 32)], min_side_px=16, max_rejected_fraction=0.0)
    assert [record.is_flipped for record in index.list_records()] == [False, True] * 4
    assert index.repeats == {(32, 32): [1.5] * 8}
