"""Depth maps and skeletons of pictures, estimated by models of transformers.

H height, W width, K key points; images are RGB.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.weights.resolve import HUB_ID_PATTERN

MIN_KEYPOINT_SCORE = 0.3
NUM_COCO_KEYPOINTS = 17
# OpenPose's 18 key points, as indices of COCO's 17; the neck (None) is between the shoulders
OPENPOSE_FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6
# chains of OpenPose's key points: arms and legs with the neck, then the head
LIMB_CHAINS = ((1, 2, 3, 4), (1, 5, 6, 7), (1, 8, 9, 10), (1, 11, 12, 13), (1, 0, 14, 16), (0, 15, 17))
LIMB_OPACITY = 0.6


@dataclass(frozen=True, kw_only=True)
class ControlModel:
    """A model of transformers with its image processor."""

    model: Any
    processor: Any


def load_control_model(name: str, folder: str, *, device: str) -> ControlModel:
    """Load a model for "depth" or "pose" from a folder or a Hub id; only safetensors, and no code of its own.

    Raises: DianjingError for a folder that holds no such model.
    """
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation, VitPoseForPoseEstimation

    if not Path(folder).is_dir() and (Path(folder).exists() or not HUB_ID_PATTERN.fullmatch(folder)):
        raise DianjingError("preprocessor_model_not_found", name=name, path=folder)
    model_class: Any = AutoModelForDepthEstimation if name == "depth" else VitPoseForPoseEstimation
    try:
        model = model_class.from_pretrained(folder, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise DianjingError("preprocessor_model_unusable", name=name, path=folder, reason=reason) from None
    return ControlModel(model=model.to(device).eval(), processor=processor)


@torch.no_grad()
def estimate_depth(control_model: ControlModel, image: Image.Image) -> Image.Image:
    """Estimate depth: RGB of the image's size, near things bright, from black to white."""
    model, processor = control_model.model, control_model.processor
    inputs = processor(images=image.convert("RGB"), return_tensors="pt").to(model.device)
    outputs = model(**inputs)
    size = [(image.height, image.width)]
    depth = processor.post_process_depth_estimation(outputs, target_sizes=size)[0]["predicted_depth"].float().cpu()
    low, high = depth.min(), depth.max()
    gray = ((depth - low) / (high - low).clamp(min=1e-6) * 255).round()
    return Image.fromarray(gray.to(torch.uint8).numpy()).convert("RGB")


@torch.no_grad()
def estimate_pose(control_model: ControlModel, image: Image.Image) -> Image.Image:
    """Estimate the pose of the person whom the image shows: the skeleton of OpenPose in its colours, on black."""
    model, processor = control_model.model, control_model.processor
    boxes = [[[0.0, 0.0, float(image.width), float(image.height)]]]  # one person, who fills the image
    inputs = processor(images=image.convert("RGB"), boxes=boxes, return_tensors="pt").to(model.device)
    outputs = model(**inputs)
    person = processor.post_process_pose_estimation(outputs, boxes=boxes)[0][0]
    keypoints = np.full((NUM_COCO_KEYPOINTS, 2), np.nan, np.float32)
    for index, point, score in zip(person["labels"], person["keypoints"], person["scores"], strict=True):
        if score >= MIN_KEYPOINT_SCORE:
            keypoints[int(index)] = point.numpy()
    return draw_openpose(keypoints, size=image.size)


def draw_openpose(keypoints: np.ndarray, *, size: tuple[int, int]) -> Image.Image:
    """Draw COCO key points (17, 2) in px, NaN for those not seen, as OpenPose does: RGB, size (width, height)."""
    import cv2

    neck = keypoints[[LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=0)  # NaN unless both are seen
    points = [neck if index is None else keypoints[index] for index in OPENPOSE_FROM_COCO]
    width_px = max(1, round(min(size) / 128))
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    limbs = [limb for chain in LIMB_CHAINS for limb in pairwise(chain)]
    for index, (start, end) in enumerate(limbs):
        if np.isfinite([points[start], points[end]]).all():
            first, last = (points[i].round().astype(int).tolist() for i in (start, end))
            cv2.line(canvas, first, last, _get_color(index, len(limbs)), 2 * width_px)
    canvas = (canvas * LIMB_OPACITY).astype(np.uint8)
    for index, point in enumerate(points):
        if np.isfinite(point).all():
            cv2.circle(canvas, point.round().astype(int).tolist(), width_px, _get_color(index, len(points)), -1)
    return Image.fromarray(canvas)


def _get_color(index: int, count: int) -> tuple[int, int, int]:
    """The colour of a limb or key point: OpenPose goes once round the hues."""
    from colorsys import hsv_to_rgb

    red, green, blue = hsv_to_rgb(index / count, 1, 1)
    return round(255 * red), round(255 * green), round(255 * blue)
