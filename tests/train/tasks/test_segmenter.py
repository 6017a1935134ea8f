"""Point prompts to masks, trained on exact masks."""

import random

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.segmentation.unet import UNetSegmenter
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.config.segmenter import SegmenterModelConfig, SegmenterObjectiveConfig
from dianjing.train.data.loader import MicroBatchDataset
from dianjing.train.data.schedule import BatchShards, Bucket, make_image_schedule
from dianjing.train.export import load_autoencoder
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

TWO_LEVELS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
SHARDS = BatchShards(global_batch_size=8, accumulation_steps=1, num_processes=1, rank=0)


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


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_images_are_reconstructed_as_often_as_configured(share, tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **TWO_LEVELS)
    vae.save_pretrained(tmp_path / "vae")
    objective = SegmenterObjectiveConfig(vae=tmp_path / "vae", reconstructed_share=share, latent_noise=0.5)
    model = SegmenterModelConfig(block_out_channels=(16, 16), norm_num_groups=4)
    batch = make_batch(8)
    task = SegmenterTask(model, objective, size_px=32, validation_batch=batch)
    noise = task.sample_noise(Bucket(shards=SHARDS), torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = task(batch, noise)["loss"]
        pixels = batch["images"].permute(0, 3, 1, 2) / 127.5 - 1
        if share:
            pixels = vae.decode(vae.encode(pixels).latent_dist.mode() + noise["latents"]).sample.clamp(-1, 1)
        expected = task.compute_losses(pixels, batch["point_maps"], batch["masks"])["loss"]
    torch.testing.assert_close(loss, expected)
    assert 0 < noise["latents"].std() < 0.5
    assert not any(name.startswith("vae") for name, _ in task.named_parameters())


def test_an_autoencoder_that_is_not_there_or_not_in_safetensors_is_refused(tmp_path):
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **TWO_LEVELS)
    vae.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    vae.save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    for name in ("nowhere", "pickled", "broken"):
        with pytest.raises(DianjingError) as caught:
            load_autoencoder(tmp_path / name)
        assert caught.value.message_id == "autoencoder_unreadable"
        assert str(tmp_path / name) in caught.value.render("en")
