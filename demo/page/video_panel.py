"""The video panel of two tabs: a player, downloads in three formats, of transparent ones in four, and the history."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from dianjing.demo.jobs import Cancelled, Done, Job, JobEvent
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.history_panel import (
    HistoryPanel,
    connect_history_panel,
    make_caption,
    make_history_panel,
    show_history,
    show_item,
)
from dianjing.demo.page.run_panel import make_status
from dianjing.demo.page.runs import RunHandlers, Updates
from dianjing.demo.page.sessions import HistoryItem, Session
from dianjing.demo.page.status import StatusView
from dianjing.demo.page.theme import translations
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.errors import Language

VIDEO_FORMATS = ("video", "webp", "gif", "apng")  # the first in the order of VIDEO_SUFFIXES; the last with alpha alone
STICKER_INDEX = VIDEO_FORMATS.index("webp")  # the format that a gallery plays


@dataclass(frozen=True, kw_only=True)
class VideoPanel:
    """Components; the history's items are videos in all formats."""

    status: gr.HTML
    preview: gr.Image
    video: gr.Video
    downloads: tuple[gr.DownloadButton, ...]
    history: HistoryPanel

    @property
    def history_outputs(self) -> list[Any]:
        """The outputs of `show_video_history`."""
        return list(dict.fromkeys([*self.history.outputs, *self.selection_outputs]))

    @property
    def selection_outputs(self) -> list[Any]:
        """The outputs of `show_video`."""
        return [self.preview, self.video, *self.downloads, *self.history.item_outputs]


def make_video_panel(name: str, *, get_history: Callable[[Session], list[HistoryItem]]) -> VideoPanel:
    """Make the components inside a column."""
    options = {"show_label": False, "interactive": False, "buttons": []}
    preview = gr.Image(elem_id=f"{name}-stage", elem_classes="dj-stage", **options)
    video = gr.Video(
        elem_id=f"{name}-video", elem_classes="dj-video", autoplay=True, loop=True, visible=False, **options
    )
    caption = make_caption(name)
    status = make_status(name)
    with gr.Row(elem_classes="dj-actions"):
        downloads = tuple(
            gr.DownloadButton(
                translations(f"download_{kind}"),
                elem_id=f"{name}-download-{kind}",
                interactive=False,
                min_width=90,
                visible=kind != "apng",
            )
            for kind in VIDEO_FORMATS
        )
    history = make_history_panel(name, caption=caption, get_history=get_history, thumbnail_index=STICKER_INDEX)
    return VideoPanel(status=status, preview=preview, video=video, downloads=downloads, history=history)


def connect_video_panel(panel: VideoPanel, context: PageContext) -> None:
    """Connect the events of the history."""
    connect_history_panel(panel.history, context, show=partial(show_video, panel), outputs=panel.selection_outputs)


def get_video_handlers(panel: VideoPanel, context: PageContext, language: Language) -> RunHandlers:
    """Make the handlers of the jobs of a tab with a video panel."""
    return RunHandlers(
        start=lambda session, job: show_video(panel, None, language),
        save=partial(add_video_to_history, panel, context),
        done=partial(_show_result, panel, language),
    )


def add_video_to_history(panel: VideoPanel, context: PageContext, session: Session, job: Job, event: JobEvent) -> None:
    """Add the video of a job to the history, or the unfinished frames of a job that was stopped."""
    request, history = job.request, panel.history.get_history(session)
    assert isinstance(request, TextToVideoRequest | ImageToVideoRequest)
    if isinstance(event, Done):
        session.add_item(history, event.result.files, event.result.metadata[0])
    elif isinstance(event, Cancelled) and event.images:
        assert request.seed is not None
        assert request.fps is not None
        frames = np.stack([np.asarray(image) for image in event.images])
        is_own = request.video_model is None
        params = request.get_pipeline_params() if is_own else request.get_published_params()
        settings = {"num_frames": len(frames), "fps": request.fps, "unfinished": True}
        metadata = context.engine.make_metadata(
            request.prompt, seed=request.seed, settings=params | settings, model=request.video_model
        )
        context.save_session_video(
            session, history, frames, metadata, fps=request.fps, visible_label=request.visible_label
        )


def _show_result(panel: VideoPanel, language: Language, session: Session, job: Job, view: StatusView) -> Updates:
    has_video = view.result is not None or (view.is_cancelled and view.preview is not None)
    return show_video_history(panel, session, language) if has_video else {}


def show_video_history(panel: VideoPanel, session: Session, language: Language) -> Updates:
    """Updates of the gallery of animated stickers, with the newest video in view."""
    history = panel.history.get_history(session)
    newest = history[0] if history else None
    return {**show_history(panel.history, session), **show_video(panel, newest, language)}


def show_video(panel: VideoPanel, item: HistoryItem | None, language: Language) -> Updates:
    """Updates that play one video in place of the preview and offer its files; None: an empty preview."""
    files: list[str | None] = [] if item is None else [str(file) for file in item.files]
    files += [None] * (len(VIDEO_FORMATS) - len(files))
    updates: Updates = {
        panel.video: gr.Video(value=files[0], visible=item is not None),
        panel.preview: gr.Image(value=None, visible=item is None),
    }
    for kind, button, file in zip(VIDEO_FORMATS, panel.downloads, files, strict=True):
        is_visible = kind != "apng" or file is not None
        updates[button] = gr.DownloadButton(value=file, interactive=file is not None, visible=is_visible)
    return updates | show_item(panel.history, item, language)
