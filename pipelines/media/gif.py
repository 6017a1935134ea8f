"""GIF frames with transparent parts: one bit of alpha, and rims matted on white.

H height, W width; frames are uint8 (H, W, 4), with an alpha that is not premultiplied.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

TRANSPARENT_INDEX = 255
MAX_COLOURS = TRANSPARENT_INDEX  # of a palette, whose last entry is transparent
ALPHA_THRESHOLD = 128
MAX_PALETTE_PIXELS = 4_000_000  # that a palette is chosen from


def make_palette_frames(frames: Sequence[np.ndarray], *, num_colours: int = MAX_COLOURS) -> list[Image.Image]:
    """Convert frames (H, W, 4) to images of one palette, of which TRANSPARENT_INDEX is transparent."""
    matted = [matte_on_white(frame) for frame in frames]
    palette = _choose_palette([colors[opaque] for colors, opaque in matted], num_colours)
    images = []
    for colors, opaque in matted:
        indices = np.asarray(Image.fromarray(colors).quantize(palette=palette, dither=Image.Dither.NONE)).copy()
        indices[~opaque] = TRANSPARENT_INDEX
        images.append(Image.fromarray(indices, mode="P"))
        images[-1].putpalette(palette.getpalette() or [])
    return images


def matte_on_white(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Composite a frame (H, W, 4) on white: its colors (H, W, 3), and bool (H, W), where it is opaque in a GIF."""
    image = Image.fromarray(frame, mode="RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert("RGB")), frame[..., 3] >= ALPHA_THRESHOLD


def _choose_palette(colors: Sequence[np.ndarray], num_colours: int) -> Image.Image:
    """Choose the palette of pixels (N, 3) of frames; what is transparent takes no color."""
    pixels = np.concatenate(colors)
    pixels = pixels[:: max(1, len(pixels) // MAX_PALETTE_PIXELS)]
    if not len(pixels):
        pixels = np.full((1, 3), 255, np.uint8)
    strip = Image.fromarray(np.ascontiguousarray(pixels[None]))
    return strip.quantize(num_colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
