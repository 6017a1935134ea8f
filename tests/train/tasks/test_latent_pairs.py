"""Training of a decoder on latents of a diffusion model, beside those of its encoder."""

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dianjing.errors import DianjingError
from dianjing.train.config.autoencoder import (
    AutoencoderModelConfig,
    AutoencoderObjectiveConfig,
    AutoencoderSamplesConfig,
)
from dianjing.train.data.latent_pairs import LatentPairs, read_latent_pairs, write_latent_pairs
from dianjing.train.data.schedule import BatchShards, Bucket
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.backgrounds import render_background
from dianjing.train.tasks.autoencoder import MASKS_KEY, OBJECT_MARGIN_PX, AutoencoderTask, ObjectMaskEncoder
from dianjing.train.tasks.image_losses import weigh_objects

MODEL = AutoencoderModelConfig(latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4)
SHAPES = {"latent_shape": (4, 8, 8), "image_shape": (16, 16, 3)}
BUCKET = Bucket(shards=BatchShards(global_batch_size=64, accumulation_steps=1, num_processes=1, rank=0))


def make_pairs(count):
    images = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8)
    return LatentPairs(torch.randn(count, 4, 8, 8), images, torch.rand(count, 16, 16) < 0.1)


def make_task(share):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    objective = AutoencoderObjectiveConfig(kl=0.0, latent_pairs="pairs.safetensors", latent_pairs_share=share)
    task = AutoencoderTask(MODEL, objective, AutoencoderSamplesConfig(num_images=2), validation_images=images)
    task.latent_pairs = make_pairs(5)
    return task


def test_pairs_take_their_share_of_the_samples():
    noise = make_task(0.25).sample_noise(BUCKET, torch.Generator().manual_seed(0))
    assert noise["is_pair"].shape == noise["pair_index"].shape == (64,)
    assert 6 <= noise["is_pair"].sum() <= 28
    assert set(noise["pair_index"].tolist()) == set(range(5))


def test_the_loss_of_a_pair_is_that_of_its_decoded_latents_and_its_image():
    task = make_task(1.0)
    noise = task.sample_noise(BUCKET, torch.Generator().manual_seed(0))
    with torch.no_grad():
        metrics = task.forward({"images": torch.zeros(64, 16, 16, 3, dtype=torch.uint8)}, noise)
        pairs = LatentPairs(*(each[noise["pair_index"]] for each in task.latent_pairs))
        decoded = task.vae.decode(pairs.latents).sample
    expected = (decoded - (pairs.images.permute(0, 3, 1, 2) / 127.5 - 1)).abs().mean()
    torch.testing.assert_close(metrics["l1"], expected)


def test_samples_that_are_no_pairs_are_trained_on_as_without_them():
    task = make_task(0.0)
    images = torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8)
    noise = task.sample_noise(BUCKET, torch.Generator().manual_seed(0))
    with torch.no_grad():
        metrics = task.forward({"images": images}, noise)
        task.latent_pairs = None
        expected = task.forward({"images": images}, noise)
    torch.testing.assert_close(metrics["loss"], expected["loss"])


def test_masks_of_pairs_take_the_place_of_those_of_samples():
    task, no_masks = make_task(1.0), torch.zeros(64, 16, 16, dtype=torch.bool)
    task.objective = task.objective.model_copy(update={"object_share": 0.9})
    noise = task.sample_noise(BUCKET, torch.Generator().manual_seed(0))
    batch = {"images": torch.zeros(64, 16, 16, 3, dtype=torch.uint8), MASKS_KEY: no_masks}
    with torch.no_grad():
        metrics = task.forward(batch, noise)
        pairs = LatentPairs(*(each[noise["pair_index"]] for each in task.latent_pairs))
        difference = task.vae.decode(pairs.latents).sample - (pairs.images.permute(0, 3, 1, 2) / 127.5 - 1)
    weights = weigh_objects(pairs.masks, share=0.9, margin_px=OBJECT_MARGIN_PX)
    torch.testing.assert_close(metrics["l1"], (difference.abs() * weights).mean())


def test_beyond_the_masks_of_samples_is_nothing_but_background():
    stage = CurriculumStage(scene_weights={"single": 0.5, "pair": 0.5}, grid_px=(16,))
    world = StickerWorld(size_px=64, stages=[stage])
    samples = [world.get_image_sample(0, position) for position in range(8)]
    masks = ObjectMaskEncoder()(samples, np.zeros((8, 2)), kind="image")[MASKS_KEY]
    assert masks.flatten(1).any(dim=1).all()
    for sample, mask in zip(samples, masks.numpy(), strict=True):
        background = render_background(sample.scene.background, sample.scene.variant, size_px=64)
        difference = np.abs(sample.image.astype(float) - background).max(axis=-1)
        far = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) == 0  # soft edges are around a mask
        assert np.quantile(difference[far], 0.98) <= 1
        assert np.median(difference[mask]) > 8


def test_pairs_are_read_as_they_were_written(tmp_path):
    pairs = make_pairs(3)
    write_latent_pairs(tmp_path / "new" / "pairs.safetensors", pairs)
    assert all(map(torch.equal, read_latent_pairs(tmp_path / "new" / "pairs.safetensors", **SHAPES), pairs))


def test_files_of_other_shapes_are_refused(tmp_path):
    path = tmp_path / "pairs.safetensors"
    write_latent_pairs(path, make_pairs(3))
    with pytest.raises(DianjingError) as caught:
        read_latent_pairs(path, latent_shape=(16, 8, 8), image_shape=(16, 16, 3))
    assert caught.value.message.message_id == "latent_pairs_shapes"


def test_files_that_hold_no_pairs_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    pairs = make_pairs(3)
    save_file({"latents": pairs.latents, "images": pairs.images}, tmp_path / "no_masks.safetensors")
    for name in ("missing.safetensors", "text.safetensors", "no_masks.safetensors"):
        with pytest.raises(DianjingError) as caught:
            read_latent_pairs(tmp_path / name, **SHAPES)
        assert caught.value.message.message_id == "latent_pairs_unreadable"
