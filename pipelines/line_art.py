"""The lines of a picture, white on black: what a ControlNet for line art is trained on, and drawn from."""

import cv2
import numpy as np
from PIL import Image

THRESHOLDS = (100, 200)  # of the gradient: below the first no edge, above the second always one


def line_art(picture: Image.Image) -> Image.Image:
    """RGB, of the picture's size.

    Source: Canny 1986, as OpenCV has it and diffusers' ControlNets take it.
    """
    grey = cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2GRAY)
    return Image.fromarray(cv2.Canny(grey, *THRESHOLDS)).convert("RGB")
