"""What a VAE would blur keeps the pixels of the picture, also where these have moved.

F frames, H height, W width; frames are uint8 (F, H, W, 3).
"""

import cv2
import numpy as np

DIFFERENCE_TOLERANCE = 25.0  # levels: less difference than this is the same thing
BLUR_SIGMA_PX = 2.0  # how far a difference reaches


def restore_detail(frames: np.ndarray, warped: np.ndarray, warped_decoded: np.ndarray) -> np.ndarray:
    """Add to frames what a VAE took from the moved picture, where they show what it shows.

    decoded: the moved picture as the VAE gives it back. Where nothing moves, the frames become the picture itself.
    """
    kept = []
    for frame, own, blurred in zip(
        *(part.astype(np.float32) for part in (frames, warped, warped_decoded)), strict=True
    ):
        difference = cv2.GaussianBlur(np.abs(frame - blurred).max(axis=-1), (0, 0), BLUR_SIGMA_PX)
        same = np.exp(-((difference / DIFFERENCE_TOLERANCE) ** 2))
        kept.append(frame + same[..., None] * (own - blurred))
    return np.stack(kept).round().clip(0, 255).astype(np.uint8)
