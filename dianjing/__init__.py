"""Dianjing: words become a picture. Public names load when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dianjing.dit.model import DiT as DiT
    from dianjing.pipelines.text_to_image import TextToImagePipeline as TextToImagePipeline

__version__ = "0.1.0"
__all__ = ["DiT", "TextToImagePipeline", "__version__"]

_HOMES = {
    "DiT": "dianjing.dit.model",
    "TextToImagePipeline": "dianjing.pipelines.text_to_image",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'dianjing' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
