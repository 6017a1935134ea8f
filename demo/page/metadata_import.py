"""Uploaded files: read from the store of uploads only, checked before decoding, their metadata imported."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import format_status
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.run_panel import RunPanel
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.status import render_error, render_line
from dianjing.demo.page.theme import translations
from dianjing.demo.upload_store import UploadStore
from dianjing.demo.uploads import decode_upload
from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import read_video_metadata


def get_payload_path(payload: Any) -> str | None:
    """The path in a component's raw value, as the browser sends it."""
    return payload.get("path") if isinstance(payload, dict) else None


def read_upload_metadata(path: object, uploads: UploadStore) -> GenerationMetadata:
    """Read the metadata of an uploaded image (PNG, JPEG, WebP) or video (MP4, WebP, GIF).

    Raises: DianjingError for any other file, and for one without metadata.
    """
    with uploads.open_path(path) as file:
        content = file.read_bytes()
        try:
            if content.startswith((b"\x89PNG", b"\xff\xd8\xff")):
                decode_upload(content, uploads.limits)  # checks its size before decoding
                return read_image_metadata(file)
            # without the mark of MP4, FFmpeg might take the file for a playlist and open what that names
            if file.suffix.lower() != ".mp4" or content[4:8] == b"ftyp":
                return read_video_metadata(file)[0]
        except DianjingError:
            pass  # those messages name the file's path on the server
        raise DianjingError("metadata_missing", path=file.name)


def make_metadata_file(name: str, suffixes: Sequence[str]) -> gr.File:
    """Make the drop area of a tab for files with metadata."""
    return gr.File(
        label=translations("restore_from_file"),
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
    restore: Callable[..., Updates],
    outputs: Sequence[Any],
    inputs: Sequence[Any] = (),
) -> None:
    """Restore settings from a dropped file.

    `restore(metadata)` turns its metadata into updates of `outputs`; with `inputs` it takes their values and the
    request as well.
    """

    def import_metadata(path: str | None, request: gr.Request, *values: Any) -> Updates:
        language = get_request_language(request)
        try:
            metadata = read_upload_metadata(path, context.uploads)
            restored = restore(metadata, *values, request) if inputs else restore(metadata)
        except Exception as error:
            return {run_panel.status: render_error(error, language), metadata_file: None}
        status = render_line(format_status("settings_restored", language))
        return {run_panel.status: status, **restored, metadata_file: None}

    all_outputs = list(dict.fromkeys([*outputs, run_panel.status, metadata_file]))
    metadata_file.upload(import_metadata, [metadata_file, *inputs], all_outputs, **instant())
