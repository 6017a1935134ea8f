"""Dianjing: text to image, text to video, click-driven animation and image editing by conversation.

Public names are imported lazily, at their first use.
"""

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dianjing.dit.transformer import DiT as DiT
    from dianjing.errors import DianjingError as DianjingError
    from dianjing.pipelines.conversation.session import Conversation as Conversation
    from dianjing.pipelines.image_to_image import ImageToImagePipeline as ImageToImagePipeline
    from dianjing.pipelines.image_to_video import ImageToVideoPipeline as ImageToVideoPipeline
    from dianjing.pipelines.inpaint import InpaintPipeline as InpaintPipeline
    from dianjing.pipelines.segmentation.base import Point as Point
    from dianjing.pipelines.segmentation.base import Region as Region
    from dianjing.pipelines.text_to_image import TextToImagePipeline as TextToImagePipeline
    from dianjing.pipelines.text_to_video import TextToVideoPipeline as TextToVideoPipeline

__version__ = "0.1.0"
_PUBLIC_MODULES = {
    "Conversation": "dianjing.pipelines.conversation.session",
    "DianjingError": "dianjing.errors",
    "DiT": "dianjing.dit.transformer",
    "ImageToImagePipeline": "dianjing.pipelines.image_to_image",
    "ImageToVideoPipeline": "dianjing.pipelines.image_to_video",
    "InpaintPipeline": "dianjing.pipelines.inpaint",
    "Point": "dianjing.pipelines.segmentation.base",
    "Region": "dianjing.pipelines.segmentation.base",
    "TextToImagePipeline": "dianjing.pipelines.text_to_image",
    "TextToVideoPipeline": "dianjing.pipelines.text_to_video",
}
__all__ = [*sorted(_PUBLIC_MODULES), "__version__"]


def _silence_optional_kernels() -> None:
    """Keep bitsandbytes from a notice about a kernel that is not used here, unless diffusers' verbosity asks for it."""
    logger = logging.getLogger("bitsandbytes")
    if logger.level == logging.NOTSET and os.environ.get("DIFFUSERS_VERBOSITY", "warning") not in ("info", "debug"):
        logger.setLevel(logging.ERROR)


_silence_optional_kernels()


def __getattr__(name: str):
    if name not in _PUBLIC_MODULES:
        raise AttributeError(f"module 'dianjing' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
