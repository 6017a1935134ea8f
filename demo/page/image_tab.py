"""The Image tab: a prompt becomes images, with previews while they are generated."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Cancelled, Done, Job, JobEvent
from dianjing.demo.page.album_button import AlbumButton, connect_album_button, make_album_button
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.control_panel import ControlPanel, make_control_panel, to_condition_arguments
from dianjing.demo.page.forecast import connect_image_forecast, make_forecast
from dianjing.demo.page.history_panel import (
    HistoryPanel,
    connect_history_panel,
    make_caption,
    make_history_panel,
    show_history,
    show_item,
)
from dianjing.demo.page.metadata_import import connect_metadata_import, make_metadata_file
from dianjing.demo.page.prompt_box import connect_examples, make_examples, make_prompt_box
from dianjing.demo.page.run_panel import (
    RunPanel,
    connect_cancel,
    make_run_buttons,
    make_run_panel,
    make_status,
    resume_run,
    run_job,
)
from dianjing.demo.page.runs import RunHandlers, Updates
from dianjing.demo.page.sessions import HistoryItem, Session, find_history_item
from dianjing.demo.page.settings import (
    SettingsPanel,
    float_to_int,
    make_settings,
    make_transparent_switch,
    to_request_arguments,
)
from dianjing.demo.page.status import StatusView
from dianjing.demo.page.theme import translations
from dianjing.demo.requests import TextToImageRequest
from dianjing.errors import Language
from dianjing.pipelines.media.image_file import FORMAT_BY_EXTENSION
from dianjing.pipelines.media.metadata import GenerationMetadata

MAX_NUM_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class ImageActions:
    """Components around the image in view; `selected_file` of the history is the state that holds its file."""

    run_panel: RunPanel
    to_edit: gr.Button
    to_animate: gr.Button
    restore_settings: gr.Button
    download: gr.DownloadButton
    history: HistoryPanel

    @property
    def selection_outputs(self) -> list[Any]:
        """The outputs of `show_image`."""
        return [
            self.run_panel.preview,
            self.to_edit,
            self.to_animate,
            self.restore_settings,
            self.download,
            *self.history.item_outputs,
        ]

    @property
    def history_outputs(self) -> list[Any]:
        """The outputs of `show_image_history`."""
        return list(dict.fromkeys([*self.history.outputs, *self.selection_outputs]))

    @property
    def run_outputs(self) -> list[Any]:
        """The outputs of a run."""
        return list(dict.fromkeys([*self.run_panel.outputs, *self.history_outputs]))


@dataclass(frozen=True, kw_only=True)
class ImageTab(ImageActions):
    """Components."""

    prompt: gr.Textbox
    examples: gr.Dataset
    num_images: gr.Slider
    transparent: gr.Checkbox
    album: AlbumButton
    settings: SettingsPanel
    control: ControlPanel | None
    metadata_file: gr.File

    @property
    def drafts(self) -> dict[str, Any]:
        """The components whose values the browser keeps, by name."""
        own = {"prompt": self.prompt, "num_images": self.num_images, "transparent": self.transparent}
        return {**own, **self.settings.drafts}


def make_image_tab(context: PageContext) -> ImageTab:
    """Make the components inside a `gr.Tab` and connect their events."""
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            prompt = make_prompt_box("image", label="prompt", placeholder="image_placeholder")
            button, cancel = make_run_buttons("image")
            forecast = make_forecast("image")
            examples = make_examples("image", prompt)
        with gr.Column(elem_classes="dj-preview"):
            parts = make_preview_column(
                "image",
                get_history=lambda session: session.images,
                can_animate=context.capabilities.has_task("image-to-video"),
                make_extra=lambda: {"album": make_album_button(context)},
            )
        with gr.Column(elem_classes="dj-more"):
            num_images = gr.Slider(
                1, MAX_NUM_IMAGES, 1, step=1, label=translations("image_count"), elem_id="image-count"
            )
            transparent = make_transparent_switch("image", info="transparent_info")
            control = make_control_panel("image", context, status=parts["status"])
            settings = make_settings("image", context, has_default_adapter=True)
            metadata_file = make_metadata_file("image", list(FORMAT_BY_EXTENSION))
    run_panel = make_run_panel(
        "image", button=button, cancel=cancel, status=parts.pop("status"), preview=parts.pop("preview")
    )
    tab = ImageTab(
        prompt=prompt,
        examples=examples,
        run_panel=run_panel,
        num_images=num_images,
        transparent=transparent,
        settings=settings,
        control=control,
        metadata_file=metadata_file,
        **parts,
    )
    _connect_run(tab, context)
    _connect_history(tab, context)
    connect_album_button(tab.album, tab.run_panel, context)
    connect_image_forecast(forecast, context, num_images, settings)
    return tab


def make_preview_column(
    name: str,
    *,
    get_history: Callable[[Session], list[HistoryItem]],
    can_animate: bool,
    make_extra: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Make the components of `ImageActions` below each other; `preview` and `status` are parts of its run panel.

    make_extra: makes further components between the actions and the gallery.
    """
    preview = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id=f"{name}-stage", show_label=False
    )
    caption = make_caption(name)
    status = make_status(name)
    with gr.Row(elem_classes="dj-actions"):
        disabled = {"interactive": False, "min_width": 90}
        to_edit = gr.Button(translations("image_to_edit"), elem_id=f"{name}-to-edit", **disabled)
        to_animate = gr.Button(
            translations("image_to_animate"), elem_id=f"{name}-to-animate", visible=can_animate, **disabled
        )
        restore_settings = gr.Button(translations("image_to_settings"), elem_id=f"{name}-to-settings", **disabled)
        download = gr.DownloadButton(translations("download"), elem_id=f"{name}-download", **disabled)
    return {
        **make_extra(),
        "preview": preview,
        "status": status,
        "to_edit": to_edit,
        "to_animate": to_animate,
        "restore_settings": restore_settings,
        "download": download,
        "history": make_history_panel(name, caption=caption, get_history=get_history),
    }


def get_image_handlers(tab: ImageActions, context: PageContext, language: Language) -> RunHandlers:
    """Make the handlers of the tab's jobs."""
    return RunHandlers(
        start=lambda session, job: show_image(tab, None, language),
        save=partial(save_images, context, tab.history.get_history),
        done=partial(_show_result, tab, language),
    )


def _connect_run(tab: ImageTab, context: PageContext) -> None:
    num_settings = len(tab.settings.inputs)

    def generate(
        request: gr.Request, token: str, prompt: str, num_images: Any, transparent: Any, *values: Any
    ) -> Iterator[Updates]:
        def submit(owner: str) -> Job:
            arguments = to_request_arguments(values[:num_settings], context.capabilities)
            if tab.control is not None:
                arguments |= to_condition_arguments(values[num_settings:], tab.control.controlnets)
            arguments |= {"num_images": float_to_int(num_images), "is_transparent": bool(transparent)}
            return context.queue.submit(TextToImageRequest(prompt=prompt, **arguments), owner)

        handlers = get_image_handlers(tab, context, get_request_language(request))
        yield from run_job(tab.run_panel, context, request, token, submit=submit, handlers=handlers)

    inputs = [context.token, tab.prompt, tab.num_images, tab.transparent, *tab.settings.inputs]
    inputs += [] if tab.control is None else tab.control.inputs
    gr.on([tab.run_panel.button.click, tab.prompt.submit], generate, inputs, tab.run_outputs, **job_event())
    connect_examples(tab.examples, tab.prompt, lambda then: then(generate, inputs, tab.run_outputs, **job_event()))
    connect_cancel(tab.run_panel, context)


def resume_image_run(tab: ImageTab, context: PageContext, request: gr.Request, token: str) -> Iterator[Updates]:
    """Follow the run that goes on since the page was loaded the last time."""
    handlers = get_image_handlers(tab, context, get_request_language(request))
    yield from resume_run(tab.run_panel, context, request, token, handlers=handlers)


def _connect_history(tab: ImageTab, context: PageContext) -> None:
    def restore_settings(request: gr.Request, token: str, file: str | None) -> Updates:
        item = find_history_item(context.get_session(token, request).images, file)
        return {tab.prompt: gr.skip()} if item is None else _restore_settings(tab, item.metadata)

    restored = [tab.prompt, tab.transparent, *tab.settings.inputs]
    tab.restore_settings.click(restore_settings, [context.token, tab.history.selected_file], restored, **instant())
    connect_metadata_import(
        tab.metadata_file, tab.run_panel, context, restore=partial(_restore_settings, tab), outputs=restored
    )
    connect_history_panel(tab.history, context, show=partial(show_image, tab), outputs=tab.selection_outputs)


def save_images(
    context: PageContext,
    get_history: Callable[[Session], list[HistoryItem]],
    session: Session,
    job: Job,
    event: JobEvent,
) -> None:
    """Add the images of a job to a history, or the unfinished ones of a job that was stopped, each by itself."""
    request = job.request
    assert isinstance(request, TextToImageRequest)
    assert request.seed is not None
    if isinstance(event, Done):
        for file, metadata in reversed(list(zip(event.result.files, event.result.metadata, strict=True))):
            session.add_item(get_history(session), [file], metadata)
    elif isinstance(event, Cancelled):
        settings = request.get_pipeline_params() | context.engine.describe_sampling(request) | {"unfinished": True}
        for index, image in reversed(list(enumerate(event.images))):
            metadata = context.engine.make_metadata(request.prompt, seed=request.seed + index, settings=settings)
            context.save_session_image(
                session, get_history(session), image, metadata, visible_label=request.visible_label
            )


def _show_result(tab: ImageActions, language: Language, session: Session, job: Job, view: StatusView) -> Updates:
    has_images = view.result is not None or (view.is_cancelled and view.preview is not None)
    return show_image_history(tab, session, language) if has_images else {}


def show_image_history(tab: ImageActions, session: Session, language: Language) -> Updates:
    """Updates of the gallery, with the newest image in view."""
    history = tab.history.get_history(session)
    newest = history[0] if history else None
    return {**show_history(tab.history, session), **show_image(tab, newest, language)}


def show_image(tab: ImageActions, item: HistoryItem | None, language: Language) -> Updates:
    """Updates that show one image large and enable its actions."""
    file = None if item is None else str(item.files[0])
    is_enabled = {"interactive": item is not None}
    return {
        tab.run_panel.preview: file,
        tab.to_edit: gr.Button(**is_enabled),
        tab.to_animate: gr.Button(**is_enabled),
        tab.restore_settings: gr.Button(**is_enabled),
        tab.download: gr.DownloadButton(value=file, **is_enabled),
        **show_item(tab.history, item, language),
    }


def _restore_settings(tab: ImageTab, metadata: GenerationMetadata) -> Updates:
    is_transparent = metadata.settings.get("background") == "transparent"
    return {tab.prompt: metadata.prompt, tab.transparent: is_transparent, **tab.settings.restore(metadata)}
