"""The tab Draw: words become pictures, with a preview while they do."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing import __version__
from dianjing.demo.i18n.catalog import IMAGE_EXAMPLES
from dianjing.demo.jobs import Job
from dianjing.demo.page.context import PageContext, instant, job_event
from dianjing.demo.page.metadata_import import connect_metadata_import, make_metadata_file
from dianjing.demo.page.run_panel import (
    RunPanel,
    Updates,
    connect_cancel,
    make_examples,
    make_gallery,
    make_prompt_box,
    make_run_buttons,
    make_status,
    run_job,
)
from dianjing.demo.page.sessions import HistoryItem, Session, find_history_item
from dianjing.demo.page.settings import SettingsPanel, float_to_int, make_settings, to_request_arguments
from dianjing.demo.page.status import StatusView
from dianjing.demo.page.theme import translations
from dianjing.demo.requests import TextToImageRequest
from dianjing.pipelines.media.metadata import GenerationMetadata

MAX_NUM_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class ImageTab:
    """Components. chosen: the file of the picture that is looked at."""

    prompt: gr.Textbox
    run_panel: RunPanel
    num_images: gr.Slider
    settings: SettingsPanel
    metadata_file: gr.File
    to_animate: gr.Button
    restore_settings: gr.Button
    download: gr.DownloadButton
    gallery: gr.Gallery
    clear: gr.Button
    selected_file: gr.State

    @property
    def selection_outputs(self) -> list[Any]:
        """What `look_at` updates."""
        return [self.run_panel.preview, self.selected_file, self.to_animate, self.restore_settings, self.download]

    @property
    def history_outputs(self) -> list[Any]:
        """What `restore_pictures` updates."""
        return [self.gallery, self.clear, *self.selection_outputs]


def make_image_tab(context: PageContext) -> ImageTab:
    """Inside a `gr.Tab`."""
    with gr.Row(elem_classes="dj-board"):
        with gr.Column(elem_classes="dj-ask"):
            prompt = make_prompt_box("image", label="prompt")
            button, cancel = make_run_buttons("image")
            make_examples(prompt, IMAGE_EXAMPLES)
        with gr.Column(elem_classes="dj-show"):
            shown = _make_preview_column(can_animate=context.capabilities.can_animate)
        with gr.Column(elem_classes="dj-more"):
            count = gr.Slider(1, MAX_NUM_IMAGES, 1, step=1, label=translations("image_count"))
            settings = make_settings("image", context)
            drop = make_metadata_file("image", [".png"])
    bench = RunPanel(
        button=button, cancel=cancel, status=shown.pop("status"), preview=shown.pop("preview"), job_id=gr.State(None)
    )
    tab = ImageTab(prompt=prompt, run_panel=bench, num_images=count, settings=settings, metadata_file=drop, **shown)
    _connect(tab, context)
    return tab


def _make_preview_column(*, can_animate: bool) -> dict[str, Any]:
    stage = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id="image-stage", show_label=False
    )
    line = make_status("image")
    with gr.Row(elem_classes="dj-actions"):
        off = {"interactive": False, "min_width": 90}
        to_animate = gr.Button(translations("image_to_animate"), elem_id="image-to-animate", visible=can_animate, **off)
        to_settings = gr.Button(translations("image_to_settings"), elem_id="image-to-settings", **off)
        download = gr.DownloadButton(translations("download"), elem_id="image-download", **off)
    gallery, clear = make_gallery("image")
    return {
        "preview": stage,
        "status": line,
        "to_animate": to_animate,
        "restore_settings": to_settings,
        "download": download,
        "gallery": gallery,
        "clear": clear,
        "selected_file": gr.State(None),
    }


def _connect(tab: ImageTab, context: PageContext) -> None:
    def draw(request: gr.Request, token: str, prompt: str, count: Any, *values: Any) -> Iterator[Updates]:
        def submit(owner: str) -> Job:
            arguments = to_request_arguments(values)
            return context.queue.submit(
                TextToImageRequest(prompt=prompt, num_images=float_to_int(count), **arguments), owner
            )

        yield from run_job(
            tab.run_panel, context, request, token, submit=submit, on_done=partial(_save_images, tab, context)
        )

    def look(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        pictures = context.get_session(token, request).images
        return show_image(tab, pictures[event.index] if event.index < len(pictures) else None)

    def take_settings(request: gr.Request, token: str, chosen: str | None) -> Updates:
        made = find_history_item(context.get_session(token, request).images, chosen)
        return {tab.prompt: gr.skip()} if made is None else _restore_settings(tab, made.metadata)

    def clear(request: gr.Request, token: str) -> Updates:
        visit = context.get_session(token, request)
        visit.clear(visit.images)
        return show_image_history(tab, visit)

    inputs = [context.token, tab.prompt, tab.num_images, *tab.settings.inputs]
    drawn = [*tab.run_panel.outputs, tab.settings.seed, *tab.history_outputs]
    gr.on([tab.run_panel.button.click, tab.prompt.submit], draw, inputs, list(dict.fromkeys(drawn)), **job_event())
    connect_cancel(tab.run_panel, context)
    tab.gallery.select(look, context.token, tab.selection_outputs, **instant())
    taken = [tab.prompt, *tab.settings.inputs]
    tab.restore_settings.click(take_settings, [context.token, tab.selected_file], taken, **instant())
    connect_metadata_import(
        tab.metadata_file, tab.run_panel, context, restore=partial(_restore_settings, tab), outputs=taken
    )
    tab.clear.click(clear, context.token, tab.history_outputs, **instant())


def _save_images(tab: ImageTab, context: PageContext, session: Session, job: Job, last: StatusView) -> Updates:
    """The pictures, or of what was stopped its last preview, that no file is of yet."""
    assert isinstance(job.request, TextToImageRequest)
    if last.result is not None:
        for file, record in reversed(list(zip(last.result.files, last.result.metadata, strict=True))):
            session.add_item(session.images, [file], record)
    elif last.is_cancelled and last.preview is not None:
        record = _make_unfinished_metadata(job.request, model=context.capabilities.model)
        context.save_session_image(
            session, session.images, last.preview, record, visible_label=job.request.visible_label
        )
    else:
        return {}
    return {tab.settings.seed: str(job.request.seed), **show_image_history(tab, session)}


def _make_unfinished_metadata(request: Any, *, model: str) -> GenerationMetadata:
    """What was asked for; enough to draw it to its end."""
    names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
    settings = {name: getattr(request, name) for name in names} | {"unfinished": True}
    return GenerationMetadata(
        prompt=request.prompt, seed=request.seed, settings=settings, model=model, version=__version__
    )


def show_image_history(tab: ImageTab, session: Session) -> Updates:
    """The gallery as it should be, and the newest picture looked at."""
    has_some = bool(session.images)
    gallery = gr.Gallery(value=[str(made.files[0]) for made in session.images], visible=has_some)
    newest = session.images[0] if has_some else None
    return {tab.gallery: gallery, tab.clear: gr.Button(visible=has_some), **show_image(tab, newest)}


def show_image(tab: ImageTab, item: HistoryItem | None) -> Updates:
    """One picture large, and what can be done with it."""
    file = None if item is None else str(item.files[0])
    can = {"interactive": item is not None}
    return {
        tab.run_panel.preview: file,
        tab.selected_file: file,
        tab.to_animate: gr.Button(**can),
        tab.restore_settings: gr.Button(**can),
        tab.download: gr.DownloadButton(value=file, **can),
    }


def _restore_settings(tab: ImageTab, metadata: GenerationMetadata) -> Updates:
    return {tab.prompt: metadata.prompt, **tab.settings.restore(metadata)}
