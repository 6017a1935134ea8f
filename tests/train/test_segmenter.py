"""A click to a mask, learnt from exact masks."""

import random

import numpy as np
import torch

from dianjing.pipelines.own_segmenting import OwnSegmenter
from dianjing.pipelines.segmenting import Point
from dianjing.train.config import parse_config
from dianjing.train.data import Layout, MicroBatches, only_pictures
from dianjing.train.running import train
from dianjing.train.sections import SegmenterModel
from dianjing.train.segmenter import Clicked, SegmenterTask, clicks_on, dice_error, intersection_over_union
from dianjing.train.stickers import Stage, World
from tests.train.conftest import run_tree


def pictures(count: int, *, seed: int = 0):
    world = World(size_px=32, stages=[Stage(kinds={"pair": 1.0}, snap_px=(32,))])
    layout = Layout(global_batch=count, accumulation=1, processes=1, rank=0)
    return MicroBatches(only_pictures(world, layout, seed=seed), seed=seed, captions=Clicked())[0]


def test_positive_clicks_are_on_the_object_and_negative_ones_are_not():
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 2:6, 2:6], masks[1, 9:14, 9:14] = True, True
    seen = [point for seed in range(50) for point in clicks_on(masks, 0, random.Random(seed))]
    assert {point.positive for point in seen} == {True, False}
    assert all(masks[0, int(point.y), int(point.x)] == point.positive for point in seen)


def test_errors_are_nothing_for_the_truth_and_all_for_its_contrary():
    mask = torch.zeros(1, 8, 8)
    mask[0, :4] = 1
    assert dice_error(mask, mask) < 1e-6
    assert dice_error(1 - mask, mask) > 0.9
    assert intersection_over_union(mask > 0, mask > 0) == 1
    assert intersection_over_union(mask > 0, mask == 0) == 0


def test_it_learns_which_of_two_objects_was_clicked():
    torch.manual_seed(0)
    batch = pictures(8)
    model = SegmenterModel(block_out_channels=(16, 16), norm_num_groups=4)
    task = SegmenterTask(model, size_px=32, probe=batch)
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    for _ in range(120):
        loss = task(batch, {})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.measure()["held_out_iou"] > 0.8


def test_a_run_exports_a_segmenter_that_loads(tmp_path):
    tree = {"task": "segmenter", **run_tree(tmp_path, total_steps=2)}
    tree["data"]["size_px"] = 32
    tree["model"] = {"block_out_channels": [8, 8], "norm_num_groups": 4}
    world = World(size_px=32, stages=[Stage(kinds={"single": 1.0})])
    train(parse_config(tree), world, resume="auto", wants_stop=lambda: False)
    segmenter = OwnSegmenter.from_pretrained(tmp_path / "export" / "segmenter")
    segmenter.look(world.picture(0, 0).image)
    assert segmenter.mask([Point(x=16, y=16)]).shape == (32, 32)
    assert "OwnSegmenter" in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
