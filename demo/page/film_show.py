"""What a film looks like on the page: played, downloaded in three formats, and kept with those before it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.bench import Updates, make_status
from dianjing.demo.page.common import make_gallery
from dianjing.demo.page.following import Shown
from dianjing.demo.page.look import text
from dianjing.demo.page.shared import Shared, quiet
from dianjing.demo.page.shelf import Made, Visit

FORMATS = ("video", "webp", "gif")  # in the order of a result's files


@dataclass(frozen=True, kw_only=True)
class FilmShow:
    """Components. made: where a visit keeps these films."""

    status: gr.HTML
    stage: gr.Image
    video: gr.Video
    downloads: tuple[gr.DownloadButton, ...]
    gallery: gr.Gallery
    clear: gr.Button
    made: Callable[[Visit], list[Made]]

    @property
    def restored(self) -> list[Any]:
        """What `restore` updates."""
        return [self.gallery, self.clear, *self.looked_at]

    @property
    def looked_at(self) -> list[Any]:
        """What `look_at` updates."""
        return [self.stage, self.video, *self.downloads]


def make_film_show(name: str, *, made: Callable[[Visit], list[Made]]) -> FilmShow:
    """Inside a column."""
    hidden = {"show_label": False, "interactive": False, "visible": False}
    stage = gr.Image(elem_id=f"{name}-stage", elem_classes="dj-stage", buttons=[], **{**hidden, "visible": True})
    video = gr.Video(elem_id=f"{name}-video", elem_classes="dj-video", autoplay=True, loop=True, buttons=[], **hidden)
    line = make_status(name)
    with gr.Row(elem_classes="dj-actions"):
        downloads = tuple(
            gr.DownloadButton(
                text(f"download_{kind}"), elem_id=f"{name}-download-{kind}", interactive=False, min_width=90
            )
            for kind in FORMATS
        )
    gallery, clear = make_gallery(name)
    return FilmShow(status=line, stage=stage, video=video, downloads=downloads, gallery=gallery, clear=clear, made=made)


def connect_film_show(show: FilmShow, shared: Shared) -> None:
    def look(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        made = show.made(shared.visit(token, request))
        return look_at(show, made[event.index] if event.index < len(made) else None)

    def clear(request: gr.Request, token: str) -> Updates:
        visit = shared.visit(token, request)
        visit.clear(show.made(visit))
        return restore_films(show, visit)

    show.gallery.select(look, shared.token, show.looked_at, **quiet())
    show.clear.click(clear, shared.token, show.restored, **quiet())


def keep_film(show: FilmShow, visit: Visit, job: Job, last: Shown) -> Updates:
    """The film; of one that was stopped the last preview stays in sight."""
    if last.result is None:
        return {}
    visit.keep(show.made(visit), last.result.files, last.result.records[0])
    return restore_films(show, visit)


def restore_films(show: FilmShow, visit: Visit) -> Updates:
    """The gallery as it should be, of moving stickers, and the newest film ready to play."""
    made = show.made(visit)
    gallery = gr.Gallery(value=[str(each.files[1]) for each in made], visible=bool(made))
    return {
        show.gallery: gallery,
        show.clear: gr.Button(visible=bool(made)),
        **look_at(show, made[0] if made else None),
    }


def look_at(show: FilmShow, made: Made | None) -> Updates:
    """One film large, in place of previews, and its files."""
    files = (None, None, None) if made is None else tuple(str(file) for file in made.files)
    updates: Updates = {
        show.video: gr.Video(value=files[0], visible=made is not None),
        show.stage: gr.Image(value=None, visible=made is None),
    }
    for button, file in zip(show.downloads, files, strict=True):
        updates[button] = gr.DownloadButton(value=file, interactive=made is not None)
    return updates


def show_stage(show: FilmShow) -> Updates:
    """Previews in place of the film before."""
    return {show.video: gr.Video(visible=False), show.stage: gr.Image(value=None, visible=True)}
