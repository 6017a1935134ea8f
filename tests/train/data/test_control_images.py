"""Control images for a ControlNet come from files, table columns or a preprocessor, and are fitted as their images."""

import csv

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps

from dianjing.errors import DianjingError
from dianjing.pipelines.control_maps import detect_line_art
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.control_images import ControlImageSource
from dianjing.train.data.inspect import decode_image, inspect_records
from dianjing.train.data.samples import LocalFile, SampleRecord
from dianjing.train.data.sources import list_dataset
from tests.train.finetuning import build_setup

CONTROLNET = {"model": {"trainable": "controlnet"}}


def make_noise(size, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def encode(model, image):
    vae = AutoencoderKL.from_pretrained(model / "vae")
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return vae.encode(pixels).latent_dist.mode()[0] * vae.config.scaling_factor


def test_a_run_takes_control_images_and_preprocesses_the_others(tmp_path, model, datasets_file, finetune_config):
    own = {f"{i}.png": make_noise((16, 16), 100 + i) for i in range(3)}
    for name, image in own.items():
        image.save(tmp_path / "pictures" / name.replace(".png", ".control.png"))
    changes = {"model": {"trainable": "controlnet", "control_preprocessor": "lineart"}}
    setup = build_setup(finetune_config(tmp_path / "run", changes=changes))
    cache = setup.batches.latent_cache
    counts = {True: 0, False: 0}
    for shape, records in setup.batches.schedule.records.items():
        for record in records:
            if shape == (16, 16):
                source = own.get(record.name) or detect_line_art(decode_image(record.source, name=record.name))
                counts[record.name in own] += 1
                expected = encode(model, source)
                torch.testing.assert_close(cache.load_latents(record, shape)["control"], expected)
    assert counts == {True: 3, False: 3}


def test_without_a_preprocessor_every_sample_needs_a_control_image(tmp_path, datasets_file, finetune_config):
    make_noise((16, 16), 1).save(tmp_path / "pictures" / "0.control.png")
    changes = {"model": {"trainable": "controlnet", "control_preprocessor": "none"}}
    with pytest.raises(DianjingError, match=r"8 samples have no control image, the first is 1\.png"):
        build_setup(finetune_config(tmp_path / "run", changes=changes))


@pytest.mark.parametrize("column", ["control_image", "edges"])
def test_a_column_of_a_table_names_control_images(tmp_path, column):
    rows = []
    for index in range(2):
        make_noise((16, 16), index).save(tmp_path / f"{index}.png")
        make_noise((16, 16), index + 10).save(tmp_path / f"map-{index}.png")
        rows.append({"image": f"{index}.png", "text_en": "a cat", column: f"map-{index}.png" if index else ""})
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    listing = list_dataset(DatasetConfig(path=tmp_path / "table.csv", control_image_column=column))
    assert [record.control_image for record in listing.records] == [None, LocalFile(tmp_path / "map-1.png")]


def test_images_in_cells_of_a_parquet_table_are_control_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [make_noise((16, 16), seed) for seed in range(4)]
    features = datasets.Features(
        {"image": datasets.Image(), "text_en": datasets.Value("string"), "control_image": datasets.Image()}
    )
    rows = {"image": images[:2], "text_en": ["a cat", "a dog"], "control_image": images[2:]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "table.parquet")
    listing = list_dataset(DatasetConfig(path=tmp_path / "table.parquet"))
    found = [decode_image(record.control_image, name="map") for record in listing.records]
    assert [image.tobytes() for image in found] == [image.tobytes() for image in images[2:]]


def make_record(tmp_path, size, control_size, **fields):
    make_noise(size, 1).save(tmp_path / "image.png")
    make_noise(control_size, 2).save(tmp_path / "map.png")
    source, control = LocalFile(tmp_path / "image.png"), LocalFile(tmp_path / "map.png")
    return SampleRecord(name="image.png", source=source, text_zh=None, text_en="a", control_image=control, **fields)


def test_a_control_image_of_another_shape_is_refused_by_name(tmp_path):
    record = make_record(tmp_path, (32, 16), (16, 16))
    rejected = inspect_records([record], min_side_px=8).rejected
    assert "16 x 16 px, but the image is 32 x 16" in str(rejected["image.png"])
    assert not inspect_records([make_record(tmp_path, (32, 16), (64, 32))], min_side_px=8).rejected


def test_a_control_image_is_cropped_padded_and_mirrored_as_its_image(tmp_path):
    source = ControlImageSource(preprocessor=None)
    record = make_record(tmp_path, (32, 16), (32, 16), is_flipped=True)
    cropped = source.make(record, Image.new("RGB", (16, 16)))
    expected = ImageOps.mirror(Image.open(tmp_path / "map.png").crop((8, 0, 24, 16)))
    np.testing.assert_array_equal(np.asarray(cropped), np.asarray(expected))
    padded = source.make(make_record(tmp_path, (32, 16), (32, 16), fit="pad"), Image.new("RGB", (32, 32)))
    assert not np.asarray(padded)[:8].any()
    np.testing.assert_array_equal(np.asarray(padded)[8:24], np.asarray(Image.open(tmp_path / "map.png")))
