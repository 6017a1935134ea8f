"""What a visitor's browser sends as a file: read only from where Gradio puts uploads, and checked before decoding."""

from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from dianjing.demo.files import open_upload
from dianjing.demo.limits import Limits
from dianjing.pipelines.film_media import read_film_settings
from dianjing.pipelines.media import Record, read_settings


def path_in(payload: Any) -> str | None:
    """Where a component's value, as the browser sends it, says that its file lies."""
    return payload.get("path") if isinstance(payload, dict) else None


def read_upload(path: object, limits: Limits) -> bytes:
    """The content of an uploaded file.

    Raises: ValueError for a path outside the uploads, or too large a file.
    """
    if path is None:
        raise ValueError("no file is given; choose one")
    file = Path(str(path)).resolve()
    if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
        raise ValueError("the file is no upload; choose it again")
    if file.stat().st_size > limits.max_upload_bytes:
        raise ValueError(f"the file has {file.stat().st_size:,} bytes; at most {limits.max_upload_bytes:,} are taken")
    return file.read_bytes()


def read_record(path: object, limits: Limits) -> Record:
    """What made an uploaded picture (PNG) or film (MP4, WebP, GIF).

    Raises: ValueError for any other file.
    """
    content = read_upload(path, limits)
    file = Path(str(path))
    try:
        if content.startswith(b"\x89PNG"):
            open_upload(content, limits)  # its size is checked before it is decoded
            return read_settings(file)
        # without its mark FFmpeg might take a file for a playlist, and open what that names
        if file.suffix.lower() != ".mp4" or content[4:8] == b"ftyp":
            return read_film_settings(file)[0]
    except ValueError:
        pass  # the messages name the file by its place on the server
    raise ValueError("the file was not made by Dianjing, or another program took its settings out; drop the download")
