"""Animated stickers of a model with named objects and motions: a cut-out object, moved by its own pixels.

F frames, H height, W width.
"""

from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from dianjing.pipelines.conversation.layout import get_position_box
from dianjing.pipelines.conversation.renderer import SceneRenderer
from dianjing.pipelines.conversation.scene import SceneObject
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.media.sticker_album import STICKER_PX
from dianjing.pipelines.segmentation.base import Region

OBJECT_PX = 144  # of a sticker's side: the rest is room to move
MIN_PART_SHARE = 0.05  # of the largest part of a matte; smaller ones are specks
MIN_ALPHA = 0.1  # of a pixel that belongs to a part
DEFAULT_STRENGTH = 0.5


def cut_out_object(pipe: Any, name: str, *, colour: str | None, seed: int, language: str) -> Image.Image:
    """Generate an object by itself: RGBA of STICKER_PX, transparent around it, whatever its colors are.

    name, colour: English, of the model's concepts.
    """
    renderer = SceneRenderer(
        pipe, concept_vocabulary=pipe.concept_vocabulary, seed=seed, num_inference_steps=None, guidance_scale=None
    )
    scene_object = SceneObject(name=name, colour=colour, boxes=(get_position_box("center"),))
    with torch.no_grad():
        premultiplied_rgb, alpha = renderer.extract_matte(scene_object, language)
    premultiplied = torch.cat([premultiplied_rgb, alpha], dim=1)[0].permute(1, 2, 0).cpu().numpy()
    premultiplied *= find_large_parts(premultiplied[..., 3])[..., None]
    levels = np.ascontiguousarray((premultiplied * 255).round().astype(np.uint8))
    height, width = levels.shape[:2]
    image = Image.frombuffer("RGBa", (width, height), levels.tobytes(), "raw", "RGBa", 0, 1)
    image = image.resize((OBJECT_PX, OBJECT_PX), Image.Resampling.BICUBIC).convert("RGBA")
    sticker = Image.new("RGBA", (STICKER_PX, STICKER_PX), (0, 0, 0, 0))
    offset = (STICKER_PX - OBJECT_PX) // 2
    sticker.paste(image, (offset, offset))
    return sticker


def find_large_parts(alpha: np.ndarray) -> np.ndarray:
    """Find the connected parts of a matte (H, W) on [0, 1] without specks, bool (H, W), with a rim of one pixel."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats((alpha > MIN_ALPHA).astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = [index + 1 for index in range(count - 1) if areas[index] >= MIN_PART_SHARE * areas.max()]
    return cv2.dilate(np.isin(parts, large).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def animate_sticker(pipe: ImageToVideoPipeline, image: Image.Image, motion: str) -> np.ndarray:
    """Move an object with alpha by a named motion of the model: frames uint8 (F, H, W, 4)."""
    mask = np.asarray(image)[..., 3] > 0
    region = Region(motion=motion, mask=mask, strength=DEFAULT_STRENGTH)
    return np.stack(list(pipe.warp(image, [region]).frames))
