"""Restoration of image detail that the VAE blurs, also where it has moved.

F frames, H height, W width; frames are uint8 (F, H, W, 3).
"""

import cv2
import numpy as np

DIFFERENCE_TOLERANCE = 25.0  # in levels of 255: smaller differences are taken for the VAE's blur
BLUR_SIGMA = 0.25  # of the side of a latent: smoothing of the difference map


def restore_detail(
    frames: np.ndarray, warped: np.ndarray, warped_decoded: np.ndarray, *, scale_factor: int
) -> np.ndarray:
    """Add the detail that the VAE took from the warped first frame to the frames, where both show the same.

    warped: the first frame, warped to each frame. warped_decoded: the same after encoding and decoding by the VAE.
    scale_factor: pixels along a latent of it. Where nothing moves, the result is the first frame itself.
    """
    sigma_px = BLUR_SIGMA * scale_factor
    restored = []
    for frame, sharp, blurred in zip(
        *(part.astype(np.float32) for part in (frames, warped, warped_decoded)), strict=True
    ):
        difference = cv2.GaussianBlur(np.abs(frame - blurred).max(axis=-1), (0, 0), sigma_px)
        similarity = np.exp(-((difference / DIFFERENCE_TOLERANCE) ** 2))
        restored.append(frame + similarity[..., None] * (sharp - blurred))
    return np.stack(restored).round().clip(0, 255).astype(np.uint8)
