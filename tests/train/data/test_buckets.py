"""Which picture comes when, in which shape: every one once an epoch, a function of (seed, step)."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dianjing.train.data.buckets import FileSchedule, find_nearest_bucket, make_bucket_shapes, sample_epoch_indices
from dianjing.train.data.samples import LocalFile, SampleRecord
from dianjing.train.data.schedule import BatchShards

LAYOUT = BatchShards(global_batch_size=4, accumulation_steps=1, num_processes=1, rank=0)


def entries(names):
    return [SampleRecord(name=name, source=LocalFile(Path(name)), text_zh=None, text_en=name) for name in names]


def plan_of(counts, *, repeats=1.0, seed=0):
    pictures = {shape: entries(f"{shape[0]}/{i}" for i in range(count)) for shape, count in counts.items()}
    return FileSchedule(pictures, {s: [repeats] * len(p) for s, p in pictures.items()}, shards=LAYOUT, seed=seed)


def test_every_picture_comes_once_an_epoch_and_short_batches_are_filled_up():
    plan = plan_of({(64, 64): 10, (48, 80): 3})
    assert plan.steps_per_epoch == 3 + 1
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = Counter(name for step in steps for name in plan.get_names(step))
        assert set(seen) == {f"64/{i}" for i in range(10)} | {f"48/{i}" for i in range(3)}
        assert sum(seen.values()) == 16
        assert max(seen.values()) <= 2


def test_a_batch_has_one_shape_and_the_order_changes_with_epoch_and_seed():
    plan = plan_of({(64, 64): 40, (48, 80): 40})
    for step in range(plan.steps_per_epoch):
        bucket = plan.bucket_at(step)
        assert all(name.startswith(f"{bucket.height}/") for name in plan.get_names(step))
    orders = [
        [plan.get_names(epoch * plan.steps_per_epoch + s) for s in range(plan.steps_per_epoch)] for epoch in (0, 1)
    ]
    assert orders[0] != orders[1]
    assert orders[0] != [
        plan_of({(64, 64): 40, (48, 80): 40}, seed=1).get_names(s) for s in range(plan.steps_per_epoch)
    ]
    assert plan.get_names(7) == plan_of({(64, 64): 40, (48, 80): 40}).get_names(7)  # whatever was asked before


@pytest.mark.parametrize("repeats", [0.25, 1.5, 3.0])
def test_pictures_come_as_often_as_they_are_repeated(repeats):
    plan = plan_of({(64, 64): 64}, repeats=repeats)
    assert plan.steps_per_epoch == 16 * repeats
    seen = Counter(name for step in range(8 * plan.steps_per_epoch) for name in plan.get_names(step))
    assert sum(seen.values()) == 8 * 64 * repeats
    assert len(seen) > 50


def test_at_least_one_picture_of_a_shape_comes_in_every_epoch():
    assert len(sample_epoch_indices([0.1, 0.1], random.Random(0))) == 1


def test_shapes_have_the_same_area_and_sides_that_the_model_takes():
    found = make_bucket_shapes(512, multiple_px=64, max_aspect_ratio=2.0)
    assert found[0] == (512, 512)
    assert {(384, 640), (640, 384)} <= set(found)
    for height, width in found:
        assert height % 64 == width % 64 == 0
        assert max(height, width) / min(height, width) <= 2
        assert 0.75 <= height * width / 512**2 <= 1.25


def test_a_picture_goes_where_least_of_it_is_cut_off():
    among = make_bucket_shapes(512, multiple_px=64, max_aspect_ratio=2.0)
    wide = find_nearest_bucket((1600, 1000), among)
    assert wide.shape[1] > wide.shape[0]
    assert wide.cropped_fraction < 0.1
    assert find_nearest_bucket((1000, 1000), among).shape == (512, 512)
    assert find_nearest_bucket((1000, 1000), among).cropped_fraction == pytest.approx(0)
    assert find_nearest_bucket((256, 256), among).scale == 2


def test_a_sample_is_scaled_and_cut_in_the_middle(tmp_path):
    picture = Image.new("RGB", (90, 30), "blue")
    picture.paste("red", (30, 0, 60, 30))
    picture.save(tmp_path / "a.png")
    (entry,) = entries([str(tmp_path / "a.png")])
    plan = FileSchedule({(32, 32): [entry]}, {(32, 32): [1.0]}, shards=LAYOUT, seed=0)
    sample = plan.get_sample(0, 3)
    assert sample.image.shape == (32, 32, 3)
    assert np.abs(sample.image[:, 4:-4].astype(int) - (255, 0, 0)).max() < 8
    assert sample.text_zh == sample.text_en == entry.name
