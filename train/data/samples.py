"""One picture of a data set: where its bytes are, and what is said of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

HAN_CHARACTER = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


class ByteSource(Protocol):
    def read(self) -> bytes:
        """Raises OSError."""


@dataclass(frozen=True)
class LocalFile:
    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class TarMember:
    """A file inside an uncompressed tar: read from its place, never unpacked."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, eq=False)
class TableCell:
    """A picture inside a table of the `datasets` library, as bytes or as a path."""

    table: Any
    row: int
    column: str

    def read(self) -> bytes:
        cell = self.table[self.row][self.column]
        if cell["bytes"] is not None:
            return cell["bytes"]
        return Path(cell["path"]).read_bytes()


@dataclass(frozen=True, kw_only=True)
class MotionLabel:
    """What of a film is clicked on, in its first frame, and what that is asked to do."""

    mask: ByteSource  # a picture, white where it is
    motion_zh: str | None
    motion_en: str | None
    strength: float | None  # in picture heights a second; None: as the film has it


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """A picture or film with a caption, or a click in its place; `name` is what people know it by."""

    name: str
    source: ByteSource
    text_zh: str | None
    text_en: str | None
    first_frame: ByteSource | None = None  # of a film, in place of its own
    motion_label: MotionLabel | None = None
    digest: str | None = None  # of its bytes, once they were looked at


def assign_language(text: str) -> dict[str, str | None]:
    """A caption whose language nobody told: Chinese if a Chinese character is in it."""
    is_chinese = HAN_CHARACTER.search(text) is not None
    return {"text_zh": text if is_chinese else None, "text_en": None if is_chinese else text}


Batch = dict[str, Tensor]


class ImageSample(Protocol):
    @property
    def image(self) -> np.ndarray:
        """uint8 (H, W, 3), drawn when first read."""

    @property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (K, H, W); for segmenters alone."""

    @property
    def text_zh(self) -> str: ...

    @property
    def text_en(self) -> str: ...


class ClipSample(Protocol):
    """The first frame is the picture that is clicked on; K objects."""

    @property
    def frames(self) -> np.ndarray:
        """uint8 (F, H, W, 3)."""

    @property
    def masks(self) -> np.ndarray:
        """Where each object is visible: bool (F, K, H, W)."""

    def get_backward_flow(self, instance_index: int, grid_size: int) -> np.ndarray:
        """From each of side x side cells to where object `index` had it in the first frame, in picture sides:
        float32 (F, side, side, 2), NaN away from the object.
        """

    @property
    def strengths(self) -> Sequence[float]:
        """How fast each object moves, in picture sides a second; 0 for what stands still."""

    @property
    def motion_phrases(self) -> Sequence[tuple[Sequence[str], Sequence[str]] | None]:
        """Phrasings that ask for what each object does, Chinese and English; None for what stands still."""

    @property
    def text_zh(self) -> str: ...

    @property
    def text_en(self) -> str: ...


class SampleSource(Protocol):
    def get_image_sample(self, seed: int, position: int) -> ImageSample: ...

    def get_captioned_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> ClipSample: ...

    def get_controlled_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> ClipSample: ...


class CaptionEncoder(Protocol):
    def __call__(self, samples: Sequence[Any], uniforms: np.ndarray, *, kind: str) -> Batch:
        """What is said of n samples, and clicked, as tensors of n rows; draws (n, 2) are uniform on [0, 1)."""


class CaptionBatcher(Protocol):
    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        """B texts, as the first encoder reads them and as the second one does."""
