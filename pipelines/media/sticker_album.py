"""Albums of animated stickers as the WeChat sticker platform takes them: files of given sizes, packed to its bounds.

F frames, H height, W width. Frames are uint8 (F, H, W, 4), with an alpha that is not premultiplied; the alpha of a GIF
has one bit, so that its rim is matted on white.
"""

import csv
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dianjing.errors import DianjingError
from dianjing.pipelines.media.atomic import check_writable_folder
from dianjing.pipelines.media.gif import MAX_COLOURS, TRANSPARENT_INDEX, make_palette_frames

ALBUM_COUNTS = (8, 16, 24)
STICKER_PX, THUMBNAIL_PX, COVER_PX, ICON_PX = 240, 120, 240, 50
BANNER_SIZE = (750, 400)  # width and height in px
MAX_STICKER_BYTES, MAX_THUMBNAIL_BYTES, MAX_COVER_BYTES = 500_000, 200_000, 500_000
MAX_ICON_BYTES, MAX_BANNER_BYTES = 100_000, 500_000
COLOUR_COUNTS = (MAX_COLOURS, 128, 64, 32, 16)  # of the palette of a GIF, the first that fits
PNG_COLOUR_COUNTS = (256, 128, 64, 32, 16)
MARGIN_PX = 4  # around what is visible, in the icon and the banner
FRAME_STRIDES = (1, 2, 3, 4)  # frames are left out after colors


@dataclass(frozen=True, kw_only=True)
class AlbumSticker:
    """One sticker: its frames, uint8 (F, H, W, 4), their rate, and what it means in a word."""

    frames: np.ndarray
    fps: float
    meaning: str


def write_album(stickers: Sequence[AlbumSticker], folder: Path, *, label: str | None = None) -> list[Path]:
    """Write the files of an album: GIFs and thumbnails with two digits, cover, icon, banner and the meanings.

    label: the serialized AIGC label, for a comment of each GIF and a text of each PNG. Returns their paths.
    Raises: DianjingError for a number of stickers that the platform does not take, for a folder
    with other files in it, and for a sticker that does not fit its bound.
    """
    check_album(len(stickers), folder)
    contents = dict(_iterate_contents(stickers, label))  # all are packed before the first is written
    with _make_folder_at_once(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
    return [folder / name for name in contents]


def choose_album_count(num_objects: int) -> int:
    """Choose the smallest number of stickers that shows every object, or the largest one that the platform takes."""
    return next((count for count in ALBUM_COUNTS if count >= num_objects), ALBUM_COUNTS[-1])


@contextmanager
def _make_folder_at_once(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files are those of `folder` in the end; after an exception nothing is left.

    Raises: DianjingError for a full disk, and a place that cannot be written.
    """
    try:
        is_new = not folder.exists()
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".album-", dir=folder.parent if is_new else folder))
        try:
            yield temporary
            if is_new:
                temporary.chmod(0o755)
                temporary.rename(folder)
            else:
                for path in sorted(temporary.iterdir()):
                    path.rename(folder / path.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DianjingError("disk_full", path=folder) from None
        raise DianjingError("output_unwritable", path=folder, reason=error.strerror) from None


def check_album(count: int, folder: Path) -> None:
    """Raise DianjingError for a number of stickers that the platform does not take, and a folder with files in it.

    Also for one that cannot be made because of what is above it.
    """
    if count not in ALBUM_COUNTS:
        raise DianjingError("album_count_unsupported", count=count, allowed=list(ALBUM_COUNTS))
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DianjingError("album_folder_not_empty", path=folder)
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        check_writable_folder(above)
        with tempfile.TemporaryDirectory(prefix=".album-", dir=above):
            pass  # some places refuse new folders though they look writable
    except OSError as error:  # also a name too long, and a loop of links
        raise DianjingError("output_unwritable", path=folder, reason=error.strerror) from None


def _iterate_contents(stickers: Sequence[AlbumSticker], label: str | None) -> Iterator[tuple[str, bytes]]:
    first = _to_image(stickers[0].frames[0])
    for number, sticker in enumerate(stickers, start=1):
        yield f"{number:02d}.gif", pack_gif(sticker.frames, fps=sticker.fps, name=f"{number:02d}.gif", label=label)
        thumbnail = _fit(_to_image(sticker.frames[0]), THUMBNAIL_PX)
        yield (
            f"{number:02d}.png",
            pack_png(thumbnail, max_bytes=MAX_THUMBNAIL_BYTES, name=f"{number:02d}.png", label=label),
        )
    yield "cover.png", pack_png(_fit(first, COVER_PX), max_bytes=MAX_COVER_BYTES, name="cover.png", label=label)
    icon = _fit(_crop_to_visible(first), ICON_PX)
    yield "icon.png", pack_png(icon, max_bytes=MAX_ICON_BYTES, name="icon.png", label=label)
    yield "banner.png", pack_png(make_banner(stickers), max_bytes=MAX_BANNER_BYTES, name="banner.png", label=label)
    yield "meanings.csv", _make_meanings(stickers)


def pack_gif(frames: np.ndarray, *, fps: float, name: str, label: str | None = None) -> bytes:
    """Encode frames as a GIF of STICKER_PX within MAX_STICKER_BYTES: with fewer colors, then with fewer frames.

    Raises: DianjingError if the smallest one is still too large.
    """
    images = [_fit(_to_image(frame), STICKER_PX) for frame in frames]
    content = b""
    for stride in FRAME_STRIDES:
        if stride > 1 and len(images) <= stride:
            break
        for num_colours in COLOUR_COUNTS:
            content = _encode_gif(
                images[::stride], num_colours=num_colours, duration_ms=1000 * stride / fps, label=label
            )
            if len(content) <= MAX_STICKER_BYTES:
                return content
    raise DianjingError("album_file_too_large", name=name, size=len(content), maximum=MAX_STICKER_BYTES)


def _encode_gif(images: Sequence[Image.Image], *, num_colours: int, duration_ms: float, label: str | None) -> bytes:
    """Encode RGBA images with one palette; their rims are matted on white, and the rest is transparent."""
    indexed = make_palette_frames([np.asarray(image) for image in images], num_colours=num_colours)
    file = io.BytesIO()
    indexed[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=max(20, round(duration_ms / 10) * 10),  # in hundredths of a second; viewers slow faster ones down
        loop=0,
        disposal=2,
        transparency=TRANSPARENT_INDEX,
        optimize=False,
        comment=(label or "").encode(),
    )
    return file.getvalue()


def pack_png(image: Image.Image, *, max_bytes: int, name: str, label: str | None = None) -> bytes:
    """Encode an image as PNG within a bound, with fewer colors if need be. Raises: DianjingError if it does not fit."""
    content, texts = b"", PngInfo()
    if label is not None:
        texts.add_itxt("AIGC", label)
    for num_colours in (None, *PNG_COLOUR_COUNTS):
        file = io.BytesIO()
        reduced = image if num_colours is None else image.quantize(num_colours, method=Image.Quantize.FASTOCTREE)
        reduced.save(file, format="PNG", optimize=True, pnginfo=texts)
        content = file.getvalue()
        if len(content) <= max_bytes:
            return content
    raise DianjingError("album_file_too_large", name=name, size=len(content), maximum=max_bytes)


def make_banner(stickers: Sequence[AlbumSticker]) -> Image.Image:
    """Compose the first frames of stickers in rows on a pale ground, RGB of BANNER_SIZE."""
    width, height = BANNER_SIZE
    banner = Image.new("RGBA", BANNER_SIZE, (255, 246, 224, 255))
    columns, rows = 4, 2
    side = min(width // columns, height // rows) - 16
    for index, sticker in enumerate(stickers[: columns * rows]):
        row, column = divmod(index, columns)
        x = round((column + 0.5) * width / columns - side / 2)
        y = round((row + 0.5) * height / rows - side / 2)
        banner.alpha_composite(_fit(_crop_to_visible(_to_image(sticker.frames[0])), side), (x, y))
    return banner.convert("RGB")


def _make_meanings(stickers: Sequence[AlbumSticker]) -> bytes:
    """Make the table of meanings as CSV with a byte order mark, which spreadsheets need for Chinese."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["file", "meaning"])
    writer.writerows([f"{number:02d}.gif", sticker.meaning] for number, sticker in enumerate(stickers, start=1))
    return file.getvalue().encode("utf-8-sig")


def _to_image(frame: np.ndarray) -> Image.Image:
    return Image.fromarray(frame, mode="RGBA")


def _crop_to_visible(image: Image.Image) -> Image.Image:
    """Crop an image to what is visible, with a margin for soft edges."""
    box = image.getchannel("A").getbbox()
    if box is None:
        return image
    left, top, right, bottom = box
    return image.crop((left - MARGIN_PX, top - MARGIN_PX, right + MARGIN_PX, bottom + MARGIN_PX))


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Scale an RGBA image into a square of `side` px with its aspect, centered; colors are premultiplied meanwhile."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    scaled = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(scaled, ((side - scaled.width) // 2, (side - scaled.height) // 2))
    return square
