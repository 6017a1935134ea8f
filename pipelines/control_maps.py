"""Control maps: images for ControlNets, made from pictures by OpenCV or, for depth and pose, by models.

H height, W width, K key points; images are RGB.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.weights.manifest import check_weight_files

ControlMapMaker = Callable[[Image.Image], Image.Image]
CANNY_THRESHOLDS = (100, 200)  # of the gradient: below the first no edge, above the second always one
LINE_ART_SIGMA = 6.0  # in px, of the blur that a line is darker than
LINE_ART_THRESHOLD = 8  # differences above it are lines, whose median becomes mid-gray
TILE_FACTOR = 8  # of the resolution that a tile map loses
MODEL_PREPROCESSORS = ("depth", "pose")  # need a model of transformers
PREPROCESSORS = ("canny", "lineart", "tile", *MODEL_PREPROCESSORS)


def detect_canny_edges(image: Image.Image) -> Image.Image:
    """Detect edges: RGB of the image's size, white on black.

    Source: Canny 1986, by OpenCV, with the thresholds of diffusers' ControlNet examples.
    """
    import cv2

    gray = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2GRAY)
    return Image.fromarray(cv2.Canny(gray, *CANNY_THRESHOLDS)).convert("RGB")


def detect_line_art(image: Image.Image) -> Image.Image:
    """Detect lines that are darker than what surrounds them: RGB of the image's size, white on black.

    Source: "standard lineart" of the ControlNet extension (controlnet_aux's LineartStandardDetector).
    """
    import cv2

    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    darkness = (cv2.GaussianBlur(pixels, (0, 0), LINE_ART_SIGMA) - pixels).min(axis=2).clip(0, 255)
    lines = darkness[darkness > LINE_ART_THRESHOLD]
    scale = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return Image.fromarray((darkness / scale * 127).clip(0, 255).astype(np.uint8)).convert("RGB")


def make_tile_map(image: Image.Image) -> Image.Image:
    """Blur an image to 1 / TILE_FACTOR of its resolution, at its own size: a tile ControlNet adds the details."""
    import cv2

    pixels = np.asarray(image.convert("RGB"))
    size = tuple(max(1, side // TILE_FACTOR) for side in image.size)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return Image.fromarray(cv2.resize(small, image.size, interpolation=cv2.INTER_CUBIC))


def infer_preprocessor(name: str) -> str | None:
    """Find the preprocessor that the name of a ControlNet tells, such as "canny" in "HunyuanDiT-v1.2-Canny"."""
    words = re.sub(r"[^a-z]+", "", name.lower())
    return next((each for each in PREPROCESSORS if each in words), None)


def check_preprocessor(name: str, *, folder: str | None = None) -> None:
    """Check that a control map can be made, before anything loads.

    folder: of the model, which depth and pose need.
    Raises: DianjingError for an unknown name, and for a model that is missing, damaged or not needed.
    """
    if name not in PREPROCESSORS:
        raise DianjingError("preprocessor_unknown", name=name, allowed=list(PREPROCESSORS))
    if name in MODEL_PREPROCESSORS and folder is None:
        raise DianjingError("preprocessor_without_model", name=name)
    if name not in MODEL_PREPROCESSORS and folder is not None:
        raise DianjingError("preprocessor_takes_no_model", name=name, allowed=list(MODEL_PREPROCESSORS))
    if folder is not None and Path(folder).is_dir():
        check_weight_files(Path(folder))


def load_preprocessor(name: str, *, folder: str | None = None, device: str = "cpu") -> ControlMapMaker:
    """Load what makes control maps of one kind, of any picture's own size.

    folder: of a depth model or of a ViTPose model, as transformers save them; or a Hub id.
    Raises: DianjingError as `check_preprocessor`, and for a folder without such a model.
    """
    check_preprocessor(name, folder=folder)
    if folder is None:
        return {"canny": detect_canny_edges, "lineart": detect_line_art, "tile": make_tile_map}[name]
    from dianjing.pipelines.control_models import estimate_depth, estimate_pose, load_control_model

    model: Any = load_control_model(name, folder, device=device)
    return partial(estimate_depth if name == "depth" else estimate_pose, model)
