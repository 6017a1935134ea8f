"""Buckets and the schedule over them: every sample occurs once an epoch, as a function of (seed, step)."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dianjing.train.data.buckets import FileSchedule, find_nearest_bucket, make_bucket_shapes, sample_epoch_indices
from dianjing.train.data.samples import LocalFile, SampleRecord
from dianjing.train.data.schedule import BatchShards

SHARDS = BatchShards(global_batch_size=4, accumulation_steps=1, num_processes=1, rank=0)


def make_records(names):
    return [SampleRecord(name=name, source=LocalFile(Path(name)), text_zh=None, text_en=name) for name in names]


def make_schedule(counts, *, repeats=1.0, seed=0):
    records = {shape: make_records(f"{shape[0]}/{i}" for i in range(count)) for shape, count in counts.items()}
    return FileSchedule(records, {s: [repeats] * len(p) for s, p in records.items()}, shards=SHARDS, seed=seed)


def test_every_sample_occurs_once_an_epoch_and_short_batches_are_filled_up():
    schedule = make_schedule({(64, 64): 10, (48, 80): 3})
    assert schedule.steps_per_epoch == 3 + 1
    for epoch in range(3):
        steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
        counts = Counter(name for step in steps for name in schedule.get_names(step))
        assert set(counts) == {f"64/{i}" for i in range(10)} | {f"48/{i}" for i in range(3)}
        assert sum(counts.values()) == 16
        assert max(counts.values()) <= 2


def test_a_batch_has_one_shape_and_the_order_changes_with_epoch_and_seed():
    schedule = make_schedule({(64, 64): 40, (48, 80): 40})
    for step in range(schedule.steps_per_epoch):
        bucket = schedule.bucket_at(step)
        assert all(name.startswith(f"{bucket.height}/") for name in schedule.get_names(step))
    orders = [
        [schedule.get_names(epoch * schedule.steps_per_epoch + s) for s in range(schedule.steps_per_epoch)]
        for epoch in (0, 1)
    ]
    assert orders[0] != orders[1]
    assert orders[0] != [
        make_schedule({(64, 64): 40, (48, 80): 40}, seed=1).get_names(s) for s in range(schedule.steps_per_epoch)
    ]
    assert schedule.get_names(7) == make_schedule({(64, 64): 40, (48, 80): 40}).get_names(
        7
    )  # whatever was requested before


@pytest.mark.parametrize("repeats", [0.25, 1.5, 3.0])
def test_samples_occur_as_often_as_their_repeats_say(repeats):
    schedule = make_schedule({(64, 64): 64}, repeats=repeats)
    assert schedule.steps_per_epoch == 16 * repeats
    counts = Counter(name for step in range(8 * schedule.steps_per_epoch) for name in schedule.get_names(step))
    assert sum(counts.values()) == 8 * 64 * repeats
    assert len(counts) > 50


def test_at_least_one_sample_of_a_shape_occurs_in_every_epoch():
    assert len(sample_epoch_indices([0.1, 0.1], random.Random(0))) == 1


def test_shapes_have_the_same_area_and_sides_that_the_model_takes():
    shapes = make_bucket_shapes(512, multiple_px=64, max_aspect_ratio=2.0)
    assert shapes[0] == (512, 512)
    assert {(384, 640), (640, 384)} <= set(shapes)
    for height, width in shapes:
        assert height % 64 == width % 64 == 0
        assert max(height, width) / min(height, width) <= 2
        assert 0.75 <= height * width / 512**2 <= 1.25


def test_an_image_goes_to_the_shape_that_crops_it_least():
    shapes = make_bucket_shapes(512, multiple_px=64, max_aspect_ratio=2.0)
    wide = find_nearest_bucket((1600, 1000), shapes)
    assert wide.shape[1] > wide.shape[0]
    assert wide.cropped_fraction < 0.1
    assert find_nearest_bucket((1000, 1000), shapes).shape == (512, 512)
    assert find_nearest_bucket((1000, 1000), shapes).cropped_fraction == pytest.approx(0)
    assert find_nearest_bucket((256, 256), shapes).scale == 2


def test_a_sample_is_resized_and_center_cropped(tmp_path):
    image = Image.new("RGB", (90, 30), "blue")
    image.paste("red", (30, 0, 60, 30))
    image.save(tmp_path / "a.png")
    (record,) = make_records([str(tmp_path / "a.png")])
    schedule = FileSchedule({(32, 32): [record]}, {(32, 32): [1.0]}, shards=SHARDS, seed=0)
    sample = schedule.get_sample(0, 3)
    assert sample.image.shape == (32, 32, 3)
    assert np.abs(sample.image[:, 4:-4].astype(int) - (255, 0, 0)).max() < 8
    assert sample.text_zh == sample.text_en == record.name
