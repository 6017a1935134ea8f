"""The video panel of two tabs: a player, downloads in three formats, and the history."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.context import PageContext, instant
from dianjing.demo.page.run_panel import Updates, make_gallery, make_status
from dianjing.demo.page.sessions import HistoryItem, Session
from dianjing.demo.page.status import StatusView
from dianjing.demo.page.theme import translations

VIDEO_FORMATS = ("video", "webp", "gif")  # in the order of VIDEO_SUFFIXES
STICKER_INDEX = VIDEO_FORMATS.index("webp")  # the format that a gallery plays


@dataclass(frozen=True, kw_only=True)
class VideoPanel:
    """Components; `get_history` returns the history of a session that these videos belong to."""

    status: gr.HTML
    preview: gr.Image
    video: gr.Video
    downloads: tuple[gr.DownloadButton, ...]
    gallery: gr.Gallery
    clear: gr.Button
    get_history: Callable[[Session], list[HistoryItem]]

    @property
    def history_outputs(self) -> list[Any]:
        """The outputs of `show_video_history`."""
        return [self.gallery, self.clear, *self.selection_outputs]

    @property
    def selection_outputs(self) -> list[Any]:
        """The outputs of `show_video`."""
        return [self.preview, self.video, *self.downloads]


def make_video_panel(name: str, *, get_history: Callable[[Session], list[HistoryItem]]) -> VideoPanel:
    """Make the components inside a column."""
    options = {"show_label": False, "interactive": False, "buttons": []}
    preview = gr.Image(elem_id=f"{name}-stage", elem_classes="dj-stage", **options)
    video = gr.Video(
        elem_id=f"{name}-video", elem_classes="dj-video", autoplay=True, loop=True, visible=False, **options
    )
    status = make_status(name)
    with gr.Row(elem_classes="dj-actions"):
        downloads = tuple(
            gr.DownloadButton(
                translations(f"download_{kind}"), elem_id=f"{name}-download-{kind}", interactive=False, min_width=90
            )
            for kind in VIDEO_FORMATS
        )
    gallery, clear = make_gallery(name)
    return VideoPanel(
        status=status,
        preview=preview,
        video=video,
        downloads=downloads,
        gallery=gallery,
        clear=clear,
        get_history=get_history,
    )


def connect_video_panel(panel: VideoPanel, context: PageContext) -> None:
    """Connect the events of gallery and clear button."""

    def select(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        history = panel.get_history(context.get_session(token, request))
        return show_video(panel, history[event.index] if event.index < len(history) else None)

    def clear(request: gr.Request, token: str) -> Updates:
        session = context.get_session(token, request)
        session.clear(panel.get_history(session))
        return show_video_history(panel, session)

    panel.gallery.select(select, context.token, panel.selection_outputs, **instant())
    panel.clear.click(clear, context.token, panel.history_outputs, **instant())


def save_session_video(panel: VideoPanel, session: Session, job: Job, last: StatusView) -> Updates:
    """Add the video to the history; the last preview of a job that was stopped stays in view."""
    if last.result is None:
        return {}
    session.add_item(panel.get_history(session), last.result.files, last.result.metadata[0])
    return show_video_history(panel, session)


def show_video_history(panel: VideoPanel, session: Session) -> Updates:
    """Updates of the gallery of animated stickers, with the newest video in view."""
    history = panel.get_history(session)
    stickers = [str(item.files[STICKER_INDEX]) for item in history]
    return {
        panel.gallery: gr.Gallery(value=stickers, visible=bool(history)),
        panel.clear: gr.Button(visible=bool(history)),
        **show_video(panel, history[0] if history else None),
    }


def show_video(panel: VideoPanel, item: HistoryItem | None) -> Updates:
    """Updates that play one video in place of the preview and offer its files."""
    files: list[str | None] = [None] * len(VIDEO_FORMATS) if item is None else [str(file) for file in item.files]
    updates: Updates = {
        panel.video: gr.Video(value=files[0], visible=item is not None),
        panel.preview: gr.Image(value=None, visible=item is None),
    }
    for button, file in zip(panel.downloads, files, strict=True):
        updates[button] = gr.DownloadButton(value=file, interactive=item is not None)
    return updates


def show_preview(panel: VideoPanel) -> Updates:
    """Updates that show an empty preview in place of the video."""
    return {panel.video: gr.Video(visible=False), panel.preview: gr.Image(value=None, visible=True)}
