"""The Animate tab: clicks on an image select regions, a phrase for each region gives its motion."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import MOTION_SUGGESTIONS
from dianjing.demo.jobs import Job
from dianjing.demo.page.canvas import RegionCanvas
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.metadata_import import get_payload_path
from dianjing.demo.page.run_panel import RunPanel, Updates, connect_cancel, make_run_buttons, run_job
from dianjing.demo.page.sessions import HistoryItem, Session, find_history_item
from dianjing.demo.page.settings import SettingsPanel, float_to_int, make_settings, to_request_arguments
from dianjing.demo.page.status import render_error
from dianjing.demo.page.theme import translations
from dianjing.demo.page.video_panel import (
    VideoPanel,
    connect_video_panel,
    make_video_panel,
    save_session_video,
    show_preview,
)
from dianjing.demo.requests import ImageToVideoRequest
from dianjing.demo.uploads import decode_upload
from dianjing.errors import DianjingError, Language
from dianjing.pipelines.media.image import open_image
from dianjing.pipelines.segmentation.base import Point

DEFAULT_STRENGTH = 0.5
TAB_ID = "animate"
POSITIVE, NEGATIVE = "positive", "negative"  # labels of a click


@dataclass(frozen=True, kw_only=True)
class AnimateTab:
    """Components; `canvas` holds the `RegionCanvas` behind `image`, None before there is an image."""

    image: gr.Image
    canvas: gr.State
    point_label: gr.Radio
    undo: gr.Button
    clear: gr.Button
    active_region: gr.Radio
    add_region: gr.Button
    region_rows: tuple[gr.Row, ...]
    motions: tuple[gr.Dropdown, ...]
    strengths: tuple[gr.Slider, ...]
    prompt: gr.Textbox
    num_frames: gr.Slider
    settings: SettingsPanel
    run_panel: RunPanel
    video_panel: VideoPanel

    @property
    def canvas_outputs(self) -> list[Any]:
        """The outputs of `render_canvas`."""
        return [self.canvas, self.image, self.active_region, self.add_region, *self.region_rows, self.run_panel.status]


def make_animate_tab(context: PageContext) -> AnimateTab | None:
    """Make the components inside a `gr.Tab`; a note alone, and None, for a model without motion control."""
    capabilities = context.capabilities
    if not capabilities.can_animate or capabilities.num_frames is None:
        gr.Markdown(translations("no_motion"), elem_classes="dj-note", elem_id="animate-note")
        return None
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            parts = _make_canvas() | _make_regions(capabilities.max_regions)
            button, cancel = make_run_buttons("animate")
        with gr.Column(elem_classes="dj-preview"):
            video_panel = make_video_panel("animate", get_history=lambda session: session.animations)
        with gr.Column(elem_classes="dj-more"):
            prompt = gr.Textbox(label=translations("animate_prompt"), max_lines=2, elem_id="animate-prompt")
            default, label = capabilities.num_frames, translations("animate_frames")
            num_frames = gr.Slider(2, 2 * default, default, step=1, label=label)
            settings = make_settings("animate", context, default_params=capabilities.continuation_params)
    run_panel = RunPanel(
        button=button, cancel=cancel, status=video_panel.status, preview=video_panel.preview, job_id=gr.State(None)
    )
    tab = AnimateTab(
        prompt=prompt, num_frames=num_frames, settings=settings, run_panel=run_panel, video_panel=video_panel, **parts
    )
    _connect_clicks(tab, context)
    _connect_run(tab, context)
    return tab


def _make_canvas() -> dict[str, Any]:
    image = gr.Image(
        label=translations("animate_picture"),
        sources=["upload", "clipboard"],
        type="filepath",
        format="png",
        buttons=[],
        placeholder=translations("animate_upload"),
        elem_id="animate-picture",
        elem_classes="dj-stage",
    )
    with gr.Row(elem_classes="dj-tools"):
        choices = [(translations("animate_in"), POSITIVE), (translations("animate_out"), NEGATIVE)]
        point_label = gr.Radio(
            choices, value=POSITIVE, label=translations("animate_click"), elem_id="animate-label", min_width=200
        )
        small = {"size": "sm", "min_width": 80, "scale": 0}
        undo = gr.Button(translations("animate_undo"), elem_id="animate-undo", **small)
        clear = gr.Button(translations("animate_clear"), elem_id="animate-clear-clicks", **small)
    return {"image": image, "canvas": gr.State(None), "point_label": point_label, "undo": undo, "clear": clear}


def _make_regions(max_regions: int) -> dict[str, Any]:
    with gr.Row(elem_classes="dj-tools"):
        active_region = gr.Radio(
            [1], value=1, label=translations("animate_region"), elem_id="animate-region", min_width=200
        )
        add_region = gr.Button(
            translations("animate_add"),
            elem_id="animate-add",
            size="sm",
            min_width=110,
            scale=0,
            visible=max_regions > 1,
        )
    rows, motions, strengths = [], [], []
    for number in range(1, max_regions + 1):
        with gr.Row(visible=number == 1, elem_classes=["dj-region", f"dj-region-{number}"]) as row:
            motion = gr.Dropdown(
                [],
                value="",
                allow_custom_value=True,
                label=translations("animate_motion"),
                scale=3,
                min_width=140,
                elem_id=f"animate-motion-{number}",
            )
            strength = gr.Slider(
                0, 1, DEFAULT_STRENGTH, step=0.05, label=translations("animate_strength"), scale=2, min_width=140
            )
        rows.append(row)
        motions.append(motion)
        strengths.append(strength)
    return {
        "active_region": active_region,
        "add_region": add_region,
        "region_rows": tuple(rows),
        "motions": tuple(motions),
        "strengths": tuple(strengths),
    }


def suggest_motions(tab: AnimateTab, context: PageContext, language: Language) -> Updates:
    """Updates that offer the motions of the model's vocabulary, or a few common ones, in the reader's language."""
    vocabulary = context.engine.image_to_video.motion_vocabulary.motions
    phrases = [next(p for p in motion.phrases if p.isascii() is (language == "en")) for motion in vocabulary]
    common = [getattr(text, language) for text in MOTION_SUGGESTIONS]
    return {motion: gr.Dropdown(choices=phrases or common) for motion in tab.motions}


def render_canvas(tab: AnimateTab, canvas: RegionCanvas | None, *, max_regions: int) -> Updates:
    """Updates that show the image with its masks and one row for each region."""
    count = 1 if canvas is None else len(canvas.regions)
    active = 1 if canvas is None else canvas.active_index + 1
    updates: Updates = {
        tab.canvas: canvas,
        tab.image: None if canvas is None else canvas.render(),
        tab.active_region: gr.Radio(choices=list(range(1, count + 1)), value=active),
        tab.add_region: gr.Button(interactive=canvas is not None and count < max_regions),
        tab.run_panel.status: "",
    }
    return updates | {row: gr.Row(visible=index < count) for index, row in enumerate(tab.region_rows)}


def _connect_clicks(tab: AnimateTab, context: PageContext) -> None:
    max_regions = context.capabilities.max_regions
    render = partial(render_canvas, tab, max_regions=max_regions)

    def upload(payload: Any, request: gr.Request) -> Updates:
        try:
            with context.uploads.open_path(get_payload_path(payload)) as file:
                return render(RegionCanvas(image=decode_upload(file.read_bytes(), context.limits)))
        except Exception as error:
            return {**render(None), tab.run_panel.status: render_error(error, get_request_language(request))}

    def click(canvas: RegionCanvas | None, label: str, request: gr.Request, event: gr.SelectData) -> Updates:
        if canvas is None:
            error = DianjingError("no_image_to_animate")
            return {tab.run_panel.status: render_error(error, get_request_language(request))}
        x, y = canvas.to_image_coordinates(*event.index)
        return set_points(canvas, (*canvas.active_points, Point(x=x, y=y, positive=label == POSITIVE)), request)

    def undo(canvas: RegionCanvas | None, request: gr.Request) -> Updates:
        return render(None) if canvas is None else set_points(canvas, canvas.active_points[:-1], request)

    def clear(canvas: RegionCanvas | None) -> Updates:
        return render(None if canvas is None else RegionCanvas(image=canvas.image))

    def set_points(canvas: RegionCanvas, points: Sequence[Point], request: gr.Request) -> Updates:
        mask = None
        if any(point.positive for point in points):
            try:
                coordinates, labels = [(point.x, point.y) for point in points], [point.positive for point in points]
                mask = context.engine.predict_mask(canvas.image, coordinates, labels)
            except Exception as error:
                return {tab.run_panel.status: render_error(error, get_request_language(request))}
        return render(canvas.with_points(points, mask))

    def select_region(canvas: RegionCanvas | None, number: int) -> RegionCanvas | None:
        return None if canvas is None else canvas.with_active(number - 1)

    def add_region(canvas: RegionCanvas | None) -> Updates:
        can_add = canvas is not None and len(canvas.regions) < max_regions
        return render(canvas.with_new_region() if canvas is not None and can_add else canvas)

    # one click after the other, and never behind a generation
    mask_event = instant(queue=True, concurrency_id="masks", concurrency_limit=1, trigger_mode="multiple")
    # without preprocess: Gradio would decode the file before its format and size are checked
    tab.image.upload(upload, tab.image, tab.canvas_outputs, preprocess=False, **instant())
    tab.image.clear(partial(render, None), None, tab.canvas_outputs, **instant())
    tab.image.select(click, [tab.canvas, tab.point_label], tab.canvas_outputs, **mask_event)
    tab.undo.click(undo, tab.canvas, tab.canvas_outputs, **mask_event)
    tab.clear.click(clear, tab.canvas, tab.canvas_outputs, **mask_event)
    tab.active_region.input(select_region, [tab.canvas, tab.active_region], tab.canvas, **mask_event)
    tab.add_region.click(add_region, tab.canvas, tab.canvas_outputs, **mask_event)


def _connect_run(tab: AnimateTab, context: PageContext) -> None:
    max_regions = len(tab.region_rows)

    def generate(
        request: gr.Request, token: str, canvas: RegionCanvas | None, prompt: str, num_frames: Any, *values: Any
    ) -> Iterator[Updates]:
        motions, strengths, settings = (
            values[:max_regions],
            values[max_regions : 2 * max_regions],
            values[2 * max_regions :],
        )

        def submit(owner: str) -> Job:
            if canvas is None:
                raise DianjingError("no_image_to_animate")
            check_regions(canvas, motions)
            animation = ImageToVideoRequest(
                image=canvas.image,
                regions=canvas.to_regions(motions, strengths),
                prompt=prompt or "",
                num_frames=float_to_int(num_frames),
                **to_request_arguments(settings),
            )
            return context.queue.submit(animation, owner)

        on_done, on_start = partial(save_session_video, tab.video_panel), show_preview(tab.video_panel)
        yield from run_job(tab.run_panel, context, request, token, submit=submit, on_done=on_done, on_start=on_start)

    inputs = [context.token, tab.canvas, tab.prompt, tab.num_frames]
    inputs += [*tab.motions, *tab.strengths, *tab.settings.inputs]
    outputs = list(dict.fromkeys([*tab.run_panel.outputs, *tab.video_panel.history_outputs]))
    tab.run_panel.button.click(generate, inputs, outputs, **job_event())
    connect_cancel(tab.run_panel, context)
    connect_video_panel(tab.video_panel, context)


def check_regions(canvas: RegionCanvas, motions: Sequence[str]) -> None:
    """Raise DianjingError for the first region without a click or without a motion."""
    for number, (region, motion) in enumerate(zip(canvas.regions, motions, strict=False), start=1):
        if region.mask is None:
            raise DianjingError("region_without_click", number=number)
        if not (motion or "").strip():
            raise DianjingError("region_without_motion", number=number)


def connect_send_to_animate(
    button: gr.Button,
    selected_file: gr.State,
    tab: AnimateTab,
    context: PageContext,
    *,
    get_history: Callable[[Session], list[HistoryItem]],
    tabs: gr.Tabs,
) -> None:
    """Let a button of another tab open its image in this one."""

    def send(request: gr.Request, token: str, file: str | None) -> Updates:
        item = find_history_item(get_history(context.get_session(token, request)), file)
        if item is None:
            return {tabs: gr.skip()}
        canvas = RegionCanvas(image=open_image(item.files[0]))
        updates = {tabs: gr.Tabs(selected=TAB_ID), tab.prompt: item.metadata.prompt}
        return updates | render_canvas(tab, canvas, max_regions=context.capabilities.max_regions)

    button.click(send, [context.token, selected_file], [tabs, tab.prompt, *tab.canvas_outputs], **instant())
