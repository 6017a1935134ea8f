"""The button that makes an album of animated stickers from the images of the gallery."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from dianjing.demo.album_request import AlbumImage, StickerAlbumRequest
from dianjing.demo.jobs import Done, Job, JobEvent
from dianjing.demo.page.context import PageContext, instant, job_event
from dianjing.demo.page.run_panel import RunPanel, run_job
from dianjing.demo.page.runs import RunHandlers, Updates
from dianjing.demo.page.sessions import Session
from dianjing.demo.page.status import StatusView
from dianjing.demo.page.theme import translations
from dianjing.demo.sticker_albums import ARCHIVE_NAME, select_album_images


@dataclass(frozen=True, kw_only=True)
class AlbumButton:
    """The button, and the file that a finished album is downloaded from."""

    button: gr.Button
    archive: gr.File


def make_album_button(context: PageContext) -> AlbumButton:
    """Make the components; a model whose objects have no names shows no button."""
    has_names = context.engine.text_to_image.prompt_normalizer is not None
    button = gr.Button(
        translations("make_album"),
        elem_id="image-album",
        size="sm",
        visible=has_names and context.capabilities.can_animate,
    )
    return AlbumButton(button=button, archive=gr.File(visible=False))


def connect_album_button(album: AlbumButton, run_panel: RunPanel, context: PageContext) -> None:
    """Connect the button: the album is made by the queue, and the browser downloads it."""

    def make_album(request: gr.Request, token: str) -> Iterator[Updates]:
        session = context.get_session(token, request)

        def submit(owner: str) -> Job:
            images = [AlbumImage(path=item.files[0], prompt=item.metadata.prompt) for item in session.images]
            album_request = StickerAlbumRequest(images=select_album_images(context.engine, images))
            return context.queue.submit(album_request, owner)

        handlers = RunHandlers(start=lambda session, job: {album.archive: None}, save=_save, done=show)
        yield from run_job(run_panel, context, request, token, submit=submit, handlers=handlers)

    def show(session: Session, job: Job, view: StatusView) -> Updates:
        return {} if view.result is None else {album.archive: str(session.folder / ARCHIVE_NAME)}

    outputs = [*run_panel.outputs, album.archive]
    album.button.click(make_album, context.token, outputs, **job_event()).then(
        None, album.archive, None, js="file => file && window.dianjing.download(file)", **instant()
    )


def _save(session: Session, job: Job, event: JobEvent) -> None:
    """Keep the archive of a finished job in the session's folder, as the queue's own expires."""
    if isinstance(event, Done):
        shutil.copy2(event.result.files[0], session.folder / ARCHIVE_NAME)
