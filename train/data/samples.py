"""Samples of training data: records that name files and their captions, and the protocols that sources implement.

B batch, F frames, K objects, H height, W width.
"""

import errno
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from torch import Tensor

from dianjing.errors import DianjingError, Message
from dianjing.train.text_files import HAN_CHARACTER

Batch = dict[str, Tensor]
Reason = Message | DianjingError  # why a sample cannot be used


class ByteSource(Protocol):
    """Anything that the bytes of a file can be read from."""

    def read(self) -> bytes:
        """The content. Raises: OSError if it cannot be read."""


@dataclass(frozen=True)
class LocalFile:
    """A file on disk."""

    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class TarMember:
    """A file inside an uncompressed tar archive, read in place without unpacking."""

    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@lru_cache(maxsize=8)
def _open_zip(archive: Path, process_id: int) -> zipfile.ZipFile:
    """Open an archive once for each process: forked workers would share one position in the file."""
    return zipfile.ZipFile(archive)


@dataclass(frozen=True)
class ZipMember:
    """A file inside a zip archive, read without unpacking the others."""

    archive: Path
    member: str

    def read(self) -> bytes:
        try:
            return _open_zip(self.archive, os.getpid()).read(self.member)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, EOFError) as error:
            # RuntimeError: encrypted; its subclass NotImplementedError: an unknown compression
            raise OSError(errno.EIO, f"{self.member} in {self.archive.name}: {error}") from None


@dataclass(frozen=True, eq=False)
class TableCell:
    """An image in a table of the library `datasets`, stored as bytes or as a path (relative to `base_folder`)."""

    table: Any
    row: int
    column: str
    base_folder: Path

    def read(self) -> bytes:
        cell = self.table[self.row][self.column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise OSError(errno.ENODATA, "the cell is empty")
        if cell["bytes"] is not None:
            return cell["bytes"]
        path = (self.base_folder / cell["path"]).resolve()
        if not path.is_relative_to(self.base_folder.resolve()):
            raise OSError(errno.EACCES, f"{cell['path']} lies outside the folder of the table")
        return path.read_bytes()


def read_source(source: ByteSource, *, name: str) -> bytes:
    """The bytes of a file. Raises: DianjingError if it cannot be read."""
    try:
        return source.read()
    except OSError as error:
        raise DianjingError("sample_file_unreadable", name=name, reason=error.strerror or str(error)) from None


def open_source(source: ByteSource, *, name: str) -> BinaryIO:
    """A file opened for reading; one on disk is not read into memory. Raises: DianjingError if it cannot be read."""
    if not isinstance(source, LocalFile):
        return BytesIO(read_source(source, name=name))
    try:
        return source.path.open("rb")
    except OSError as error:
        raise DianjingError("sample_file_unreadable", name=name, reason=error.strerror or str(error)) from None


@dataclass(frozen=True, kw_only=True)
class MotionLabel:
    """A region of a video's first frame, and the motion of the object in it."""

    mask: ByteSource  # an image, white inside the region
    motion_zh: str | None
    motion_en: str | None
    strength: float | None  # in image heights per second; None: measured by optical flow


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """An image, or a clip of a video, of a data set with its captions; `name` identifies its file in reports."""

    name: str
    source: ByteSource
    text_zh: str | None
    text_en: str | None
    fit: Literal["crop", "pad"] = "crop"  # to its bucket shape
    is_flipped: bool = False  # mirrored left to right
    loss_mask: ByteSource | Literal["alpha"] | None = None  # an image, white where the loss counts, or its own alpha
    caption_dropout: float | None = None  # probability; None: that of the run
    first_frame: ByteSource | None = None  # an image that replaces the first frame of a video
    control_image: ByteSource | None = None  # what a ControlNet follows, of the shape of the image
    motion_label: MotionLabel | None = None
    start_frame: int = 0  # of a clip, counted at the frame rate of the run
    digest: str | None = None  # hash of the content, set when the record has been inspected
    control_digest: str | None = None  # likewise of the control image


def assign_language(text: str) -> dict[str, str | None]:
    """Assign a caption of unknown language: to Chinese if it contains a Chinese character, else to English."""
    is_chinese = HAN_CHARACTER.search(text) is not None
    return {"text_zh": text if is_chinese else None, "text_en": None if is_chinese else text}


class ImageSample(Protocol):
    """An image with bilingual captions."""

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 (H, W, 3); computed when first accessed."""

    @property
    def masks(self) -> np.ndarray:
        """The visible region of each object, bool (K, H, W); needed by the segmenter only."""

    @property
    def choice_intervals(self) -> Sequence[tuple[float, float]]:
        """The option of each choice that the captions leave open, of [0, 1); needed by `couple_choices` only."""

    @property
    def text_zh(self) -> str: ...

    @property
    def text_en(self) -> str: ...


class ClipSample(Protocol):
    """A video clip of K objects with bilingual captions and the motion of each object."""

    @property
    def frames(self) -> np.ndarray:
        """The frames, uint8 (F, H, W, 3)."""

    @property
    def masks(self) -> np.ndarray:
        """The visible region of each object in each frame, bool (F, K, H, W)."""

    def get_backward_flow(self, instance_index: int, grid_size: int) -> np.ndarray:
        """Backward flow of an object to the first frame, at the centres of a grid: float32 (F, G, G, 2).

        The displacement is (x, y) in fractions of the image side, NaN outside the object; G is `grid_size`.
        """

    @property
    def strengths(self) -> Sequence[float]:
        """The speed of each object in image sides per second; 0 for objects at rest."""

    @property
    def motion_phrases(self) -> Sequence[tuple[Sequence[str], Sequence[str]] | None]:
        """Phrases that describe the motion of each object, Chinese and English; None for objects at rest."""

    @property
    def text_zh(self) -> str: ...

    @property
    def text_en(self) -> str: ...


class SampleSource(Protocol):
    """A generator of samples, each a function of (seed, position)."""

    def get_image_sample(self, seed: int, position: int) -> ImageSample: ...

    def get_captioned_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> ClipSample: ...

    def get_controlled_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> ClipSample: ...


class CaptionEncoder(Protocol):
    """Encodes the captions (and motion control) of samples as model inputs."""

    def __call__(self, samples: Sequence[Any], uniforms: np.ndarray, *, kind: str) -> Batch:
        """Tensors whose first axis is the sample; `uniforms` (B, 2) on [0, 1) are the randomness."""


class CaptionBatcher(Protocol):
    """Turns captions into model inputs: token ids or cached text-encoder states."""

    def __call__(self, texts: Sequence[tuple[str, str]]) -> Batch:
        """Tensors of B captions, each given as the text for the first and for the second text encoder."""
