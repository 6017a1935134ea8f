"""What a visitor's browser sends as a file: read only from where Gradio puts uploads, and checked before decoding."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from dianjing.demo.i18n.catalog import format_message
from dianjing.demo.limits import ServerLimits
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.run_panel import RunPanel, Updates
from dianjing.demo.page.status import render_error, render_line
from dianjing.demo.page.theme import translations
from dianjing.demo.requests import decode_upload
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import read_video_metadata


def get_payload_path(payload: Any) -> str | None:
    """Where a component's value, as the browser sends it, says that its file lies."""
    return payload.get("path") if isinstance(payload, dict) else None


def read_upload(path: object, limits: ServerLimits) -> bytes:
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


def read_upload_metadata(path: object, limits: ServerLimits) -> GenerationMetadata:
    """What made an uploaded picture (PNG) or film (MP4, WebP, GIF).

    Raises: ValueError for any other file.
    """
    content = read_upload(path, limits)
    file = Path(str(path))
    try:
        if content.startswith(b"\x89PNG"):
            decode_upload(content, limits)  # its size is checked before it is decoded
            return read_image_metadata(file)
        # without its mark FFmpeg might take a file for a playlist, and open what that names
        if file.suffix.lower() != ".mp4" or content[4:8] == b"ftyp":
            return read_video_metadata(file)[0]
    except ValueError:
        pass  # the messages name the file by its place on the server
    raise ValueError("the file was not made by Dianjing, or another program took its settings out; drop the download")


def make_metadata_file(name: str, suffixes: Sequence[str]) -> gr.File:
    return gr.File(
        label=translations("drop"),
        file_types=list(suffixes),
        elem_id=f"{name}-drop",
        elem_classes="dj-drop",
        height=120,
    )


def connect_metadata_import(
    metadata_file: gr.File,
    run_panel: RunPanel,
    context: PageContext,
    *,
    restore: Callable[[GenerationMetadata], Updates],
    outputs: Sequence[Any],
) -> None:
    """`restored` says what a record changes among the outputs; a file that is none of ours changes nothing."""

    def take(path: str | None, request: gr.Request) -> Updates:
        language = get_request_language(request)
        try:
            record = read_upload_metadata(path, context.limits)
        except ValueError as error:
            return {run_panel.status: render_error(error, language), metadata_file: None}
        return {
            **restore(record),
            run_panel.status: render_line(format_message("settings_back", language)),
            metadata_file: None,
        }

    metadata_file.upload(take, metadata_file, [*outputs, run_panel.status, metadata_file], **instant())
