"""What does not move keeps the pixels of the picture, which a VAE would blur.

F frames, H height, W width; frames are uint8 (F, H, W, 3).
"""

import cv2
import numpy as np

TOLERANCE = 10.0  # levels: less change than this is the same place standing still
SPREAD_PX = 2.0  # how far change reaches


def keep_still(frames: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Add to every frame, where it has not changed since the first, what the first one lacks of the picture.

    The first frame becomes the picture itself. picture is uint8 (H, W, 3).
    """
    first = frames[0].astype(np.float32)
    lost = picture.astype(np.float32) - first
    kept = []
    for frame in frames.astype(np.float32):
        change = cv2.GaussianBlur(np.abs(frame - first).max(axis=-1), (0, 0), SPREAD_PX)
        same = np.exp(-((change / TOLERANCE) ** 2))
        kept.append(frame + same[..., None] * lost)
    return np.stack(kept).round().clip(0, 255).astype(np.uint8)
