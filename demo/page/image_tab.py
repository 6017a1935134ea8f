"""The Image tab: a prompt becomes images, with previews while they are generated."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

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
    """Components; `selected_file` is the state that holds the file of the image in view."""

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
        """The outputs of `show_image`."""
        return [self.run_panel.preview, self.selected_file, self.to_animate, self.restore_settings, self.download]

    @property
    def history_outputs(self) -> list[Any]:
        """The outputs of `show_image_history`."""
        return [self.gallery, self.clear, *self.selection_outputs]


def make_image_tab(context: PageContext) -> ImageTab:
    """Make the components inside a `gr.Tab` and connect their events."""
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            prompt = make_prompt_box("image", label="prompt")
            button, cancel = make_run_buttons("image")
            make_examples(prompt, IMAGE_EXAMPLES)
        with gr.Column(elem_classes="dj-preview"):
            parts = _make_preview_column(can_animate=context.capabilities.can_animate)
        with gr.Column(elem_classes="dj-more"):
            num_images = gr.Slider(1, MAX_NUM_IMAGES, 1, step=1, label=translations("image_count"))
            settings = make_settings("image", context)
            metadata_file = make_metadata_file("image", [".png"])
    run_panel = RunPanel(
        button=button, cancel=cancel, status=parts.pop("status"), preview=parts.pop("preview"), job_id=gr.State(None)
    )
    tab = ImageTab(
        prompt=prompt,
        run_panel=run_panel,
        num_images=num_images,
        settings=settings,
        metadata_file=metadata_file,
        **parts,
    )
    _connect(tab, context)
    return tab


def _make_preview_column(*, can_animate: bool) -> dict[str, Any]:
    preview = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id="image-stage", show_label=False
    )
    status = make_status("image")
    with gr.Row(elem_classes="dj-actions"):
        disabled = {"interactive": False, "min_width": 90}
        to_animate = gr.Button(
            translations("image_to_animate"), elem_id="image-to-animate", visible=can_animate, **disabled
        )
        restore_settings = gr.Button(translations("image_to_settings"), elem_id="image-to-settings", **disabled)
        download = gr.DownloadButton(translations("download"), elem_id="image-download", **disabled)
    gallery, clear = make_gallery("image")
    return {
        "preview": preview,
        "status": status,
        "to_animate": to_animate,
        "restore_settings": restore_settings,
        "download": download,
        "gallery": gallery,
        "clear": clear,
        "selected_file": gr.State(None),
    }


def _connect(tab: ImageTab, context: PageContext) -> None:
    def generate(request: gr.Request, token: str, prompt: str, num_images: Any, *values: Any) -> Iterator[Updates]:
        def submit(owner: str) -> Job:
            arguments = to_request_arguments(values)
            return context.queue.submit(
                TextToImageRequest(prompt=prompt, num_images=float_to_int(num_images), **arguments), owner
            )

        on_done = partial(_save_images, tab, context)
        yield from run_job(tab.run_panel, context, request, token, submit=submit, on_done=on_done)

    def select(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        images = context.get_session(token, request).images
        return show_image(tab, images[event.index] if event.index < len(images) else None)

    def restore_settings(request: gr.Request, token: str, file: str | None) -> Updates:
        item = find_history_item(context.get_session(token, request).images, file)
        return {tab.prompt: gr.skip()} if item is None else _restore_settings(tab, item.metadata)

    def clear(request: gr.Request, token: str) -> Updates:
        session = context.get_session(token, request)
        session.clear(session.images)
        return show_image_history(tab, session)

    inputs = [context.token, tab.prompt, tab.num_images, *tab.settings.inputs]
    outputs = list(dict.fromkeys([*tab.run_panel.outputs, tab.settings.seed, *tab.history_outputs]))
    gr.on([tab.run_panel.button.click, tab.prompt.submit], generate, inputs, outputs, **job_event())
    connect_cancel(tab.run_panel, context)
    tab.gallery.select(select, context.token, tab.selection_outputs, **instant())
    restored = [tab.prompt, *tab.settings.inputs]
    tab.restore_settings.click(restore_settings, [context.token, tab.selected_file], restored, **instant())
    connect_metadata_import(
        tab.metadata_file, tab.run_panel, context, restore=partial(_restore_settings, tab), outputs=restored
    )
    tab.clear.click(clear, context.token, tab.history_outputs, **instant())


def _save_images(tab: ImageTab, context: PageContext, session: Session, job: Job, last: StatusView) -> Updates:
    """Add the images to the history, or the last preview of a job that was stopped."""
    request = job.request
    assert isinstance(request, TextToImageRequest)
    assert request.seed is not None
    if last.result is not None:
        for file, metadata in reversed(list(zip(last.result.files, last.result.metadata, strict=True))):
            session.add_item(session.images, [file], metadata)
    elif last.is_cancelled and last.preview is not None:
        settings = request.get_pipeline_params() | {"unfinished": True}
        metadata = context.engine.make_metadata(request.prompt, seed=request.seed, settings=settings)
        context.save_session_image(session, session.images, last.preview, metadata, visible_label=request.visible_label)
    else:
        return {}
    return {tab.settings.seed: str(request.seed), **show_image_history(tab, session)}


def show_image_history(tab: ImageTab, session: Session) -> Updates:
    """Updates of the gallery, with the newest image in view."""
    files = [str(item.files[0]) for item in session.images]
    return {
        tab.gallery: gr.Gallery(value=files, visible=bool(files)),
        tab.clear: gr.Button(visible=bool(files)),
        **show_image(tab, session.images[0] if files else None),
    }


def show_image(tab: ImageTab, item: HistoryItem | None) -> Updates:
    """Updates that show one image large and enable its actions."""
    file = None if item is None else str(item.files[0])
    is_enabled = {"interactive": item is not None}
    return {
        tab.run_panel.preview: file,
        tab.selected_file: file,
        tab.to_animate: gr.Button(**is_enabled),
        tab.restore_settings: gr.Button(**is_enabled),
        tab.download: gr.DownloadButton(value=file, **is_enabled),
    }


def _restore_settings(tab: ImageTab, metadata: GenerationMetadata) -> Updates:
    return {tab.prompt: metadata.prompt, **tab.settings.restore(metadata)}
