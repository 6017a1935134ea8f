"""What a film looks like on the page: played, downloaded in three formats, and kept with those before it."""

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

VIDEO_FORMATS = ("video", "webp", "gif")  # in the order of a result's files


@dataclass(frozen=True, kw_only=True)
class VideoPanel:
    """Components. made: where a visit keeps these films."""

    status: gr.HTML
    preview: gr.Image
    video: gr.Video
    downloads: tuple[gr.DownloadButton, ...]
    gallery: gr.Gallery
    clear: gr.Button
    get_history: Callable[[Session], list[HistoryItem]]

    @property
    def history_outputs(self) -> list[Any]:
        """What `restore` updates."""
        return [self.gallery, self.clear, *self.selection_outputs]

    @property
    def selection_outputs(self) -> list[Any]:
        """What `look_at` updates."""
        return [self.preview, self.video, *self.downloads]


def make_video_panel(name: str, *, get_history: Callable[[Session], list[HistoryItem]]) -> VideoPanel:
    """Inside a column."""
    hidden = {"show_label": False, "interactive": False, "visible": False}
    stage = gr.Image(elem_id=f"{name}-stage", elem_classes="dj-stage", buttons=[], **{**hidden, "visible": True})
    video = gr.Video(elem_id=f"{name}-video", elem_classes="dj-video", autoplay=True, loop=True, buttons=[], **hidden)
    line = make_status(name)
    with gr.Row(elem_classes="dj-actions"):
        downloads = tuple(
            gr.DownloadButton(
                translations(f"download_{kind}"), elem_id=f"{name}-download-{kind}", interactive=False, min_width=90
            )
            for kind in VIDEO_FORMATS
        )
    gallery, clear = make_gallery(name)
    return VideoPanel(
        status=line,
        preview=stage,
        video=video,
        downloads=downloads,
        gallery=gallery,
        clear=clear,
        get_history=get_history,
    )


def connect_video_panel(panel: VideoPanel, context: PageContext) -> None:
    def look(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        made = panel.get_history(context.get_session(token, request))
        return show_video(panel, made[event.index] if event.index < len(made) else None)

    def clear(request: gr.Request, token: str) -> Updates:
        visit = context.get_session(token, request)
        visit.clear(panel.get_history(visit))
        return show_video_history(panel, visit)

    panel.gallery.select(look, context.token, panel.selection_outputs, **instant())
    panel.clear.click(clear, context.token, panel.history_outputs, **instant())


def save_session_video(panel: VideoPanel, session: Session, job: Job, last: StatusView) -> Updates:
    """The film; of one that was stopped the last preview stays in sight."""
    if last.result is None:
        return {}
    session.add_item(panel.get_history(session), last.result.files, last.result.metadata[0])
    return show_video_history(panel, session)


def show_video_history(panel: VideoPanel, session: Session) -> Updates:
    """The gallery as it should be, of moving stickers, and the newest film ready to play."""
    made = panel.get_history(session)
    gallery = gr.Gallery(value=[str(each.files[1]) for each in made], visible=bool(made))
    return {
        panel.gallery: gallery,
        panel.clear: gr.Button(visible=bool(made)),
        **show_video(panel, made[0] if made else None),
    }


def show_video(panel: VideoPanel, item: HistoryItem | None) -> Updates:
    """One film large, in place of previews, and its files."""
    files = (None, None, None) if item is None else tuple(str(file) for file in item.files)
    updates: Updates = {
        panel.video: gr.Video(value=files[0], visible=item is not None),
        panel.preview: gr.Image(value=None, visible=item is None),
    }
    for button, file in zip(panel.downloads, files, strict=True):
        updates[button] = gr.DownloadButton(value=file, interactive=item is not None)
    return updates


def show_preview(panel: VideoPanel) -> Updates:
    """Previews in place of the film before."""
    return {panel.video: gr.Video(visible=False), panel.preview: gr.Image(value=None, visible=True)}
