"""Results become files with their settings and labels inside; uploads become pictures, checked before decoding.

F frames, H height, W width.
"""

import io
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dianjing.demo.limits import Limits
from dianjing.pipelines.film_media import save_film
from dianjing.pipelines.fitting import as_rgb, check_picture_size
from dianjing.pipelines.media import PRODUCER, Record, label_of, save_picture
from dianjing.pipelines.visible_label import label_frames, label_picture

UPLOAD_FORMATS = ("PNG", "JPEG", "WEBP")
FILM_ENDINGS = (".mp4", ".webp", ".gif")


def open_upload(content: bytes, limits: Limits) -> Image.Image:
    """The first frame of an uploaded file as RGB, upright.

    Raises: ValueError for what is no PNG, JPEG or WebP, damaged, or too large.
    """
    if len(content) > limits.max_upload_bytes:
        raise ValueError(f"the picture has {len(content):,} bytes; at most {limits.max_upload_bytes:,} are taken")
    try:
        with Image.open(io.BytesIO(content), formats=UPLOAD_FORMATS) as image:
            if image.width * image.height > limits.max_upload_pixels:
                raise Image.DecompressionBombError
            check_picture_size(*image.size)
            image.load()
            return as_rgb(image)
    except Image.DecompressionBombError:
        raise ValueError(f"the picture has more than {limits.max_upload_pixels:,} pixels; scale it down") from None
    except (OSError, SyntaxError, EOFError):
        raise ValueError(
            f"the picture cannot be read; give a whole file of one of the kinds {', '.join(UPLOAD_FORMATS)}"
        ) from None


class Signer(Protocol):
    """Signs a written file in place, last of all."""

    def __call__(self, path: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What tells that a file was made by AI. The implicit label is always in it."""

    producer: str = PRODUCER
    visible: bool = False
    sign: Signer | None = None


class Files:
    """A temporary folder with one folder for each job; nobody else on the machine may read it."""

    def __init__(self, marks: Marks | None = None):
        self.marks = marks or Marks()
        self.root = Path(tempfile.mkdtemp(prefix="dianjing-"))

    def save_pictures(
        self,
        job_id: str,
        images: Sequence[Image.Image],
        records: Sequence[Record],
        *,
        visible_label: bool | None = None,
    ) -> tuple[Path, ...]:
        """One PNG for each. visible_label: None as the marks say."""
        paths = []
        for number, (image, record) in enumerate(zip(images, records, strict=True), start=1):
            shown = label_picture(image) if self._is_shown(visible_label) else image
            paths.append(self._path(job_id, f"{record.seed}-{number}.png"))
            save_picture(shown, paths[-1], record, label=label_of(shown, record, producer=self.marks.producer))
        return self._signed(paths)

    def save_film(
        self, job_id: str, frames: np.ndarray, record: Record, *, fps: float, visible_label: bool | None = None
    ) -> tuple[Path, ...]:
        """The same film uint8 (F, H, W, 3) as MP4, animated WebP and GIF."""
        shown = label_frames(frames, fps=fps) if self._is_shown(visible_label) else frames
        paths = [self._path(job_id, f"{record.seed}{ending}") for ending in FILM_ENDINGS]
        for path in paths:
            save_film(shown, path, record, fps=fps, producer=self.marks.producer)
        return self._signed(paths)

    def _is_shown(self, visible_label: bool | None) -> bool:
        return self.marks.visible if visible_label is None else visible_label

    def forget(self, job_id: str) -> None:
        shutil.rmtree(self.root / job_id, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def _path(self, job_id: str, ending: str) -> Path:
        folder = self.root / job_id
        folder.mkdir(exist_ok=True)
        return folder / f"dianjing-{ending}"

    def _signed(self, paths: Sequence[Path]) -> tuple[Path, ...]:
        if self.marks.sign is not None:
            for path in paths:
                self.marks.sign(path)
        return tuple(paths)
