"""Point prompts to masks, trained on exact masks."""

import random

import numpy as np
import torch

from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.segmentation.unet import UNetSegmenter
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.config.segmenter import SegmenterModelConfig
from dianjing.train.data.loader import MicroBatchDataset
from dianjing.train.data.schedule import BatchShards, make_image_schedule
from dianjing.train.run import train_model
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.tasks.segmenter import (
    PointPromptEncoder,
    SegmenterTask,
    dice_loss,
    intersection_over_union,
    sample_points,
)
from tests.train.tiny import make_run_tree


def make_batch(count: int, *, seed: int = 0):
    world = StickerWorld(size_px=32, stages=[CurriculumStage(scene_weights={"pair": 1.0}, grid_px=(32,))])
    shards = BatchShards(global_batch_size=count, accumulation_steps=1, num_processes=1, rank=0)
    return MicroBatchDataset(
        make_image_schedule(world, shards, seed=seed), seed=seed, caption_encoder=PointPromptEncoder()
    )[0]


def test_positive_points_are_on_the_object_and_negative_ones_are_not():
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 2:6, 2:6], masks[1, 9:14, 9:14] = True, True
    points = [point for seed in range(50) for point in sample_points(masks, 0, random.Random(seed))]
    assert {point.positive for point in points} == {True, False}
    assert all(masks[0, int(point.y), int(point.x)] == point.positive for point in points)


def test_losses_are_zero_for_the_true_mask_and_maximal_for_its_complement():
    mask = torch.zeros(1, 8, 8)
    mask[0, :4] = 1
    assert dice_loss(mask, mask) < 1e-6
    assert dice_loss(1 - mask, mask) > 0.9
    assert intersection_over_union(mask > 0, mask > 0) == 1
    assert intersection_over_union(mask > 0, mask == 0) == 0


def test_it_learns_which_of_two_objects_the_point_is_on():
    torch.manual_seed(0)
    batch = make_batch(8)
    model = SegmenterModelConfig(block_out_channels=(16, 16), norm_num_groups=4)
    task = SegmenterTask(model, size_px=32, validation_batch=batch)
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    for _ in range(120):
        loss = task(batch, {})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert task.validate()["validation_iou"] > 0.8


def test_larger_blocks_give_a_larger_mask_for_the_same_positions():
    batch = make_batch(2)
    task = SegmenterTask(SegmenterModelConfig(block_px=4), size_px=32, validation_batch=batch)
    assert task.unet.config.sample_size == 8
    assert UNetSegmenter(task.unet).side_px == 32
    assert task._predict_masks().shape == (2, 32, 32)


def test_a_run_exports_a_segmenter_that_loads(tmp_path):
    tree = {"task": "segmenter", **make_run_tree(tmp_path, total_steps=2)}
    tree["data"]["size_px"] = 32
    tree["model"] = {"block_out_channels": [8, 8], "norm_num_groups": 4}
    world = StickerWorld(size_px=32, stages=[CurriculumStage(scene_weights={"single": 1.0})])
    train_model(parse_run_config(tree), world, resume="auto", should_stop=lambda: False)
    segmenter = UNetSegmenter.from_pretrained(tmp_path / "export" / "segmenter")
    segmenter.set_image(world.get_image_sample(0, 0).image)
    assert segmenter.predict([Point(x=16, y=16)]).shape == (32, 32)
    assert "UNetSegmenter" in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
