"""Masks by a U-Net that is shipped with a model."""

from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER, Point
from dianjing.pipelines.segmentation.unet import UNetSegmenter, make_point_heatmap
from dianjing.train.evaluation.video_metrics import iterate_controlled_clips
from dianjing.weights.resolve import resolve_model


@pytest.fixture
def unet():
    torch.manual_seed(0)
    levels = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    shape = {"sample_size": 16, "in_channels": 16, "out_channels": 4, "block_out_channels": (8, 8), **levels}
    return UNet2DModel(**shape, layers_per_block=1, norm_num_groups=4, add_attention=False)


def test_points_are_peaks_of_the_heatmap_and_negative_ones_below_zero():
    heatmap = make_point_heatmap([Point(x=4.5, y=8.5), Point(x=20.5, y=8.5, positive=False)], 32)
    assert np.unravel_index(heatmap.argmax(), heatmap.shape) == (8, 4)
    assert np.unravel_index(heatmap.argmin(), heatmap.shape) == (8, 20)
    assert heatmap.max() == pytest.approx(1)


def test_a_mask_has_the_size_of_the_image_and_follows_the_point(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    segmenter = UNetSegmenter.from_pretrained(tmp_path)
    segmenter.set_image(np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8))
    masks = [segmenter.predict([Point(x=x, y=20)]) for x in (5, 90)]
    assert all(mask.shape == (48, 96) and mask.dtype == bool for mask in masks)
    assert (masks[0] != masks[1]).any()


def test_edges_follow_those_of_the_image_at_its_own_size():
    """The network of the bundled model sees objects of held-out scenes at half the size."""
    segmenter = UNetSegmenter.from_pretrained(resolve_model("sticker") / SEGMENTER_FOLDER)
    clips = iterate_controlled_clips(num_moving=1, size_px=128, seed=3, num_frames=2, fps=8.0)
    overlaps = {"guided": [], "enlarged": []}
    for clip in islice(clips, 10):
        truth = clip.masks[0, next(i for i, motion in enumerate(clip.object_motions) if motion is not None)]
        depth = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 5)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        small = cv2.resize(clip.frames[0], (64, 64), interpolation=cv2.INTER_AREA)
        for name, image, scale in (("guided", clip.frames[0], 1), ("enlarged", small, 2)):
            segmenter.set_image(image)
            mask = segmenter.predict([Point(x=float(x) / scale, y=float(y) / scale)]).repeat(scale, 0).repeat(scale, 1)
            overlaps[name].append((mask & truth).sum() / (mask | truth).sum())
    assert np.median(overlaps["guided"]) > 0.92
    assert np.mean(overlaps["guided"]) > np.mean(overlaps["enlarged"]) + 0.01


def test_a_point_outside_the_image_is_refused(unet):
    segmenter = UNetSegmenter(unet)
    segmenter.set_image(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="outside the image"):
        segmenter.predict([Point(x=40, y=3)])
