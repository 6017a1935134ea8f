"""The result store: images and videos become files with metadata and AI labels inside.

F frames, H height, W width.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dianjing.pipelines.media.aigc_label import (
    PRODUCER,
    add_visible_label,
    add_visible_label_to_frames,
    make_aigc_label,
    make_image_label,
)
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.image_file import ImageFormat, encode_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video

VIDEO_SUFFIXES = (".mp4", ".webp", ".gif")
SIGNED_SUFFIXES = (".png", ".gif")  # of the files in an archive
TRANSPARENT_VIDEO_SUFFIX = ".apng"  # one more file of videos with alpha, which MP4 shows over white


class FileSigner(Protocol):
    """Signs a finished file in place."""

    def __call__(self, path: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """How files are marked as AI-generated; the implicit label is always written."""

    producer: str = PRODUCER
    has_visible_label: bool = False
    signer: FileSigner | None = None


class ResultStore:
    """A temporary folder, private to this user, with one folder for each job."""

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
        image_format: ImageFormat = "png",
        quality: int | None = None,
    ) -> tuple[Path, ...]:
        """Write each image. `visible_label` None: as the labelling says; `quality`: of JPEG and WebP, from 0 to 100."""
        paths = []
        for number, (image, entry) in enumerate(zip(images, metadata, strict=True), start=1):
            labelled = add_visible_label(image) if self._has_visible_label(visible_label) else image
            label = make_image_label(labelled, entry, producer=self.labelling.producer)
            paths.append(self._make_path(job_id, f"{entry.seed}-{number}.{image_format}"))
            save_image(labelled, paths[-1], entry, label=label, quality=quality)
        return self._sign_files(paths)

    def encode_preview(
        self,
        image: Image.Image,
        *,
        visible_label: bool | None = None,
        image_format: ImageFormat = "png",
        quality: int | None = None,
    ) -> bytes:
        """Encode an image that is not finished, with its label and without metadata; it is not signed."""
        labelled = add_visible_label(image) if self._has_visible_label(visible_label) else image
        label = make_aigc_label(labelled.tobytes(), producer=self.labelling.producer)
        return encode_image(labelled, image_format=image_format, quality=quality, label=label)

    def save_video(
        self,
        job_id: str,
        frames: np.ndarray,
        metadata: GenerationMetadata,
        *,
        fps: float,
        visible_label: bool | None = None,
    ) -> tuple[Path, ...]:
        """Write frames uint8 (F, H, W, 3) as MP4, animated WebP and GIF; with alpha, (F, H, W, 4), also as APNG."""
        if self._has_visible_label(visible_label):
            frames = add_visible_label_to_frames(frames, fps=fps)
        suffixes = VIDEO_SUFFIXES if frames.shape[3] == 3 else (*VIDEO_SUFFIXES, TRANSPARENT_VIDEO_SUFFIX)
        paths = [self._make_path(job_id, f"{metadata.seed}{suffix}") for suffix in suffixes]
        for path in paths:
            save_video(frames, path, metadata, fps=fps, producer=self.labelling.producer)
        return self._sign_files(paths)

    def save_archive(self, job_id: str, name: str, write: Callable[[Path], object]) -> Path:
        """Write files into a new folder by `write`, and pack them into one ZIP file."""
        path = self._make_path(job_id, name)
        folder = path.with_suffix("")
        write(folder)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # the files are compressed already
            self._sign_files([file for file in folder.iterdir() if file.suffix in SIGNED_SUFFIXES])
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
        shutil.rmtree(folder)
        return path

    def remove(self, job_id: str) -> None:
        """Remove a job's files, if there are any."""
        shutil.rmtree(self.root / job_id, ignore_errors=True)

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _has_visible_label(self, visible_label: bool | None) -> bool:
        return self.labelling.has_visible_label if visible_label is None else visible_label

    def _make_path(self, job_id: str, suffix: str) -> Path:
        folder = self.root / job_id
        folder.mkdir(exist_ok=True)
        return folder / f"dianjing-{suffix}"

    def _sign_files(self, paths: Sequence[Path]) -> tuple[Path, ...]:
        if self.labelling.signer is not None:
            for path in paths:
                self.labelling.signer(path)
        return tuple(paths)
