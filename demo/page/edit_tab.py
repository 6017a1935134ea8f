"""The Edit tab: an image, a brush or words for what may change, and a prompt for what it shows then."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.edit_request import EditRequest
from dianjing.demo.jobs import Job
from dianjing.demo.page.brush_panel import BrushCanvas, BrushPanel, connect_brush_panel, make_brush_panel, show_board
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.control_panel import ControlPanel, make_control_panel, to_condition_arguments
from dianjing.demo.page.history_panel import HistoryPanel, connect_history_panel
from dianjing.demo.page.image_tab import ImageActions, get_image_handlers, make_preview_column, show_image
from dianjing.demo.page.prompt_box import make_prompt_box
from dianjing.demo.page.run_panel import connect_cancel, make_run_buttons, make_run_panel, resume_run, run_job
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.sessions import find_history_item
from dianjing.demo.page.settings import SettingsPanel, float_to_int, make_settings, to_request_arguments
from dianjing.demo.page.theme import translations
from dianjing.errors import DianjingError
from dianjing.pipelines.editing.edit import ImageEdit
from dianjing.pipelines.media.image import open_image

TAB_ID = "edit"
MAX_NUM_EDITS = 4
DEFAULT_SLIDER_STRENGTH = 1.0


@dataclass(frozen=True, kw_only=True)
class EditTab(ImageActions):
    """Components; the brush or the words say what may change, all of the image without both."""

    brush: BrushPanel
    prompt: gr.Textbox
    words: gr.Textbox
    strength: gr.Slider
    num_images: gr.Slider
    settings: SettingsPanel
    control: ControlPanel | None

    @property
    def drafts(self) -> dict[str, Any]:
        """The components whose values the browser keeps, by name."""
        own = {"prompt": self.prompt, "words": self.words, "strength": self.strength, "num_images": self.num_images}
        return own | self.settings.drafts


def make_edit_tab(context: PageContext) -> EditTab:
    """Make the components inside a `gr.Tab` and connect their events."""
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            brush = make_brush_panel()
            words = gr.Textbox(
                label=translations("edit_words"),
                info=translations("edit_words_info"),
                max_lines=1,
                elem_id="edit-words",
            )
            prompt = make_prompt_box("edit", label="edit_prompt")
            button, cancel = make_run_buttons("edit")
        with gr.Column(elem_classes="dj-preview"):
            parts = make_preview_column(
                "edit",
                get_history=lambda session: session.edits,
                can_animate=context.capabilities.has_task("image-to-video"),
            )
        with gr.Column(elem_classes="dj-more"):
            strength = gr.Slider(
                0,
                1,
                DEFAULT_SLIDER_STRENGTH,
                step=0.05,
                label=translations("edit_strength"),
                info=translations("edit_strength_info"),
                elem_id="edit-strength",
            )
            num_images = gr.Slider(1, MAX_NUM_EDITS, 1, step=1, label=translations("image_count"), elem_id="edit-count")
            control = make_control_panel("edit", context, status=parts["status"])
            settings = make_settings("edit", context, has_default_size=False)
    status = parts.pop("status")
    run_panel = make_run_panel("edit", button=button, cancel=cancel, status=status, preview=parts.pop("preview"))
    tab = EditTab(
        brush=brush,
        prompt=prompt,
        words=words,
        strength=strength,
        num_images=num_images,
        settings=settings,
        control=control,
        run_panel=run_panel,
        **parts,
    )
    connect_brush_panel(brush, context, status=status)
    _connect_run(tab, context)
    connect_history_panel(tab.history, context, show=partial(show_image, tab), outputs=tab.selection_outputs)
    return tab


def make_page_edit(canvas: BrushCanvas | None, words: str, strength: float) -> ImageEdit:
    """Make the edit of what the tab holds. Raises: DianjingError without an image."""
    if canvas is None:
        raise DianjingError("no_image_to_edit")
    return ImageEdit(
        image=canvas.image, mask=canvas.make_mask(), words=words.strip() or None if words else None, strength=strength
    )


def _connect_run(tab: EditTab, context: PageContext) -> None:
    num_settings = len(tab.settings.inputs)

    def generate(
        request: gr.Request,
        token: str,
        canvas: BrushCanvas | None,
        words: str,
        prompt: str,
        strength: float,
        num_images: Any,
        *values: Any,
    ) -> Iterator[Updates]:
        def submit(owner: str) -> Job:
            edit = make_page_edit(canvas, words, strength)
            arguments = to_request_arguments(values[:num_settings], context.capabilities)
            if tab.control is not None:
                arguments |= to_condition_arguments(values[num_settings:], tab.control.controlnets)
            edit_request = EditRequest(prompt=prompt or "", edit=edit, num_images=float_to_int(num_images), **arguments)
            return context.queue.submit(edit_request, owner)

        handlers = get_image_handlers(tab, context, get_request_language(request))
        yield from run_job(tab.run_panel, context, request, token, submit=submit, handlers=handlers)

    inputs = [context.token, tab.brush.canvas, tab.words, tab.prompt, tab.strength, tab.num_images]
    inputs += [*tab.settings.inputs, *([] if tab.control is None else tab.control.inputs)]
    gr.on([tab.run_panel.button.click, tab.prompt.submit], generate, inputs, tab.run_outputs, **job_event())
    connect_cancel(tab.run_panel, context)

    def restore_settings(request: gr.Request, token: str, file: str | None) -> Updates:
        item = find_history_item(context.get_session(token, request).edits, file)
        if item is None:
            return {tab.prompt: gr.skip()}
        metadata = item.metadata
        restored = {tab.prompt: metadata.prompt, tab.words: str(metadata.settings.get("words") or "")}
        return {**restored, tab.strength: metadata.settings.get("strength", 1.0), **tab.settings.restore(metadata)}

    restored = [tab.prompt, tab.words, tab.strength, *tab.settings.inputs]
    tab.restore_settings.click(restore_settings, [context.token, tab.history.selected_file], restored, **instant())


def resume_edit_run(tab: EditTab, context: PageContext, request: gr.Request, token: str) -> Iterator[Updates]:
    """Follow the run that goes on since the page was loaded the last time."""
    handlers = get_image_handlers(tab, context, get_request_language(request))
    yield from resume_run(tab.run_panel, context, request, token, handlers=handlers)


def connect_send_to_edit(
    button: gr.Button, history: HistoryPanel, tab: EditTab, context: PageContext, *, tabs: gr.Tabs
) -> None:
    """Let a button of a tab open its image in this one, with its prompt and without strokes."""

    def send(request: gr.Request, token: str, file: str | None, radius: float) -> Updates:
        item = find_history_item(history.get_history(context.get_session(token, request)), file)
        if item is None:
            return {tabs: gr.skip()}
        canvas = BrushCanvas(image=open_image(item.files[0]), radius_percent=radius)
        updates = {tabs: gr.Tabs(selected=TAB_ID), tab.prompt: item.metadata.prompt, tab.run_panel.status: ""}
        return {**updates, tab.brush.upload: None, **show_board(tab.brush, canvas)}

    inputs = [context.token, history.selected_file, tab.brush.radius]
    outputs = [tabs, tab.prompt, tab.run_panel.status, tab.brush.upload, *tab.brush.outputs]
    button.click(send, inputs, outputs, **instant())
