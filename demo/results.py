"""Results become files with their settings and labels inside; uploads become pictures, checked before decoding.

F frames, H height, W width.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dianjing.pipelines.media.aigc_label import (
    PRODUCER,
    add_visible_label,
    add_visible_label_to_frames,
    make_image_label,
)
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video

VIDEO_SUFFIXES = (".mp4", ".webp", ".gif")


class FileSigner(Protocol):
    """Signs a written file in place, last of all."""

    def __call__(self, path: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """What tells that a file was made by AI. The implicit label is always in it."""

    producer: str = PRODUCER
    has_visible_label: bool = False
    signer: FileSigner | None = None


class ResultStore:
    """A temporary folder with one folder for each job; nobody else on the machine may read it."""

    def __init__(self, labelling: Labelling | None = None):
        self.labelling = labelling or Labelling()
        self.root = Path(tempfile.mkdtemp(prefix="dianjing-"))

    def save_images(
        self,
        job_id: str,
        images: Sequence[Image.Image],
        metadata: Sequence[GenerationMetadata],
        *,
        visible_label: bool | None = None,
    ) -> tuple[Path, ...]:
        """One PNG for each. visible_label: None as the marks say."""
        paths = []
        for number, (image, record) in enumerate(zip(images, metadata, strict=True), start=1):
            shown = add_visible_label(image) if self._has_visible_label(visible_label) else image
            paths.append(self._make_path(job_id, f"{record.seed}-{number}.png"))
            save_image(
                shown, paths[-1], record, label=make_image_label(shown, record, producer=self.labelling.producer)
            )
        return self._sign_files(paths)

    def save_video(
        self,
        job_id: str,
        frames: np.ndarray,
        metadata: GenerationMetadata,
        *,
        fps: float,
        visible_label: bool | None = None,
    ) -> tuple[Path, ...]:
        """The same film uint8 (F, H, W, 3) as MP4, animated WebP and GIF."""
        shown = add_visible_label_to_frames(frames, fps=fps) if self._has_visible_label(visible_label) else frames
        paths = [self._make_path(job_id, f"{metadata.seed}{ending}") for ending in VIDEO_SUFFIXES]
        for path in paths:
            save_video(shown, path, metadata, fps=fps, producer=self.labelling.producer)
        return self._sign_files(paths)

    def _has_visible_label(self, visible_label: bool | None) -> bool:
        return self.labelling.has_visible_label if visible_label is None else visible_label

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self.root / job_id, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def _make_path(self, job_id: str, suffix: str) -> Path:
        folder = self.root / job_id
        folder.mkdir(exist_ok=True)
        return folder / f"dianjing-{suffix}"

    def _sign_files(self, paths: Sequence[Path]) -> tuple[Path, ...]:
        if self.labelling.signer is not None:
            for path in paths:
                self.labelling.signer(path)
        return tuple(paths)
