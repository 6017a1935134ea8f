"""Animated stickers of a model with named objects and motions: a cut-out object, moved by its own pixels.

F frames, H height, W width.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.captions import build_noun_phrase
from dianjing.pipelines.conversation.edits import ObjectSpec
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.media.sticker_album import STICKER_PX
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.pipelines.segmentation.base import Region, Segmenter
from dianjing.pipelines.transparency.background_removal import remove_background

OBJECT_PX = 144  # of a sticker's side: the rest is room to move
BACKGROUNDS = {"green": "purple"}  # the plain background by the color of the object, which it must differ from
DEFAULT_BACKGROUND = "green"
DEFAULT_STRENGTH = 0.5
# one after the other for the stickers of an album, as far as the model knows them
MOTION_NAMES = ("jump", "sway", "nod", "shake", "spin", "grow", "flap", "arc")


def cut_out_object(
    pipe: Any, name: str, *, colour: str | None, seed: int, slow: bool | None = None, segmenter: Segmenter | None = None
) -> Image.Image:
    """Generate an object by itself: RGBA of STICKER_PX, transparent around it, whatever its colors are.

    name, colour: English, of the model's concepts. slow: as for `TextToImagePipeline`. segmenter: None for the model's
    own, or GrabCut.
    Raises: DianjingError if none is found in its image.
    """
    background = BACKGROUNDS.get(colour or "", DEFAULT_BACKGROUND)
    spec = ObjectSpec(name=name, colour=colour)
    phrase = build_noun_phrase(spec, pipe.concept_vocabulary, language="en", count=1, size=None)
    prompt = f"{phrase} on a {background} background"
    image = pipe(prompt, generator=torch.Generator().manual_seed(seed), slow=slow).images[0]
    return fit_sticker(remove_background(pipe, image, prompt, segmenter=segmenter))


def fit_sticker(image: Image.Image) -> Image.Image:
    """Scale the visible part of an RGBA image to OBJECT_PX, in the middle of a sticker: RGBA of STICKER_PX.

    Raises: DianjingError for an image without visible parts.
    """
    box = image.getchannel("A").getbbox()
    if box is None:
        raise DianjingError("sticker_without_object")
    visible = image.crop(box).convert("RGBa")  # colors times alpha: the filter mixes no color of transparent pixels
    scale = OBJECT_PX / max(visible.size)
    margin = 2  # transparent pixels around, so that the filter ends softly there
    padded = Image.new("RGBa", (visible.width + 2 * margin, visible.height + 2 * margin), (0, 0, 0, 0))
    padded.paste(visible, (margin, margin))
    size = round(padded.width * scale), round(padded.height * scale)
    scaled = padded.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(scaled).copy()
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # the filter overshoots at edges
    straight = Image.frombuffer("RGBa", size, pixels.tobytes(), "raw", "RGBa", 0, 1).convert("RGBA")
    sticker = Image.new("RGBA", (STICKER_PX, STICKER_PX), (0, 0, 0, 0))
    sticker.paste(straight, ((STICKER_PX - size[0]) // 2, (STICKER_PX - size[1]) // 2))
    return sticker


def choose_motions(vocabulary: MotionVocabulary) -> list[str]:
    """Choose the phrases of the motions that the stickers of an album have, one after the other."""
    known = {motion.name: motion.phrases[0] for motion in vocabulary.motions}
    return [known[name] for name in MOTION_NAMES if name in known] or list(known.values())


def animate_sticker(pipe: ImageToVideoPipeline, image: Image.Image, motion: str) -> np.ndarray:
    """Move an object with alpha by a named motion of the model: frames uint8 (F, H, W, 4)."""
    mask = np.asarray(image)[..., 3] > 0
    region = Region(motion=motion, mask=mask, strength=DEFAULT_STRENGTH)
    return np.stack(list(pipe.warp(image, [region]).frames))
