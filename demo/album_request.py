"""The request for an album of animated stickers of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.request_base import GenerationRequest
from dianjing.errors import Message
from dianjing.pipelines.cost_model import SamplingWork


@dataclass(frozen=True, kw_only=True)
class AlbumImage:
    """An image of an album with its prompt; one with an alpha channel is cut out already."""

    path: Path
    prompt: str


@dataclass(frozen=True, kw_only=True)
class StickerAlbumRequest(GenerationRequest):
    """A request for an album of images in turn, each with other motions: the smallest one that shows them all."""

    kind: ClassVar[str] = "stickers"

    images: Sequence[AlbumImage]

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        """No sampling runs: the images are there, and are moved by the motion field."""
        return []

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        return []
