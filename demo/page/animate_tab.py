"""The tab Animate: clicks on a picture say what moves, a phrase for each region says how."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import MOTION_SUGGESTIONS, format_message
from dianjing.demo.jobs import Job
from dianjing.demo.page.canvas import RegionCanvas, to_regions
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.metadata_import import get_payload_path, read_upload
from dianjing.demo.page.run_panel import RunPanel, Updates, connect_cancel, make_run_buttons, run_job
from dianjing.demo.page.sessions import HistoryItem, Session, find_history_item
from dianjing.demo.page.settings import SettingsPanel, float_to_int, make_settings, to_request_arguments
from dianjing.demo.page.status import render_error, render_error_text
from dianjing.demo.page.theme import translations
from dianjing.demo.page.video_panel import (
    VideoPanel,
    connect_video_panel,
    make_video_panel,
    save_session_video,
    show_preview,
)
from dianjing.demo.requests import ImageToVideoRequest, decode_upload
from dianjing.pipelines.media.image import open_image
from dianjing.pipelines.segmentation.base import Point

DEFAULT_STRENGTH = 0.5
TAB_ID = "animate"
POSITIVE, NEGATIVE = "in", "out"  # what a click says


@dataclass(frozen=True, kw_only=True)
class AnimateTab:
    """Components. canvas: the state behind `shown`, None before there is a picture; rows: one for each region."""

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
    frames: gr.Slider
    settings: SettingsPanel
    run_panel: RunPanel
    video_panel: VideoPanel

    @property
    def canvas_outputs(self) -> list[Any]:
        """What `redraw` updates."""
        return [self.canvas, self.image, self.active_region, self.add_region, *self.region_rows, self.run_panel.status]


def make_animate_tab(context: PageContext) -> AnimateTab | None:
    """Inside a `gr.Tab`; None, and a note, for a model that takes no clicks."""
    abilities = context.capabilities
    if not abilities.can_animate or abilities.num_frames is None:
        gr.Markdown(translations("no_motion"), elem_classes="dj-note", elem_id="animate-note")
        return None
    with gr.Row(elem_classes="dj-board"):
        with gr.Column(elem_classes="dj-ask"):
            parts = _make_canvas()
            parts |= _make_regions(abilities.max_regions)
            button, cancel = make_run_buttons("animate")
        with gr.Column(elem_classes="dj-show"):
            show = make_video_panel("animate", get_history=lambda visit: visit.animations)
        with gr.Column(elem_classes="dj-more"):
            prompt = gr.Textbox(label=translations("animate_prompt"), max_lines=2, elem_id="animate-prompt")
            longest = 2 * abilities.num_frames
            frames = gr.Slider(2, longest, abilities.num_frames, step=1, label=translations("animate_frames"))
            settings = make_settings("animate", context, default_params=abilities.continuation_params)
    bench = RunPanel(button=button, cancel=cancel, status=show.status, preview=show.preview, job_id=gr.State(None))
    tab = AnimateTab(prompt=prompt, frames=frames, settings=settings, run_panel=bench, video_panel=show, **parts)
    _connect_clicks(tab, context)
    _connect_run(tab, context)
    return tab


def _make_canvas() -> dict[str, Any]:
    shown = gr.Image(
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
        sign = gr.Radio(
            choices, value=POSITIVE, label=translations("animate_click"), elem_id="animate-sign", min_width=200
        )
        undo = gr.Button(translations("animate_undo"), elem_id="animate-undo", size="sm", min_width=80, scale=0)
        clear = gr.Button(
            translations("animate_clear"), elem_id="animate-clear-clicks", size="sm", min_width=80, scale=0
        )
    return {"image": shown, "canvas": gr.State(None), "point_label": sign, "undo": undo, "clear": clear}


def _make_regions(max_regions: int) -> dict[str, Any]:
    with gr.Row(elem_classes="dj-tools"):
        active = gr.Radio([1], value=1, label=translations("animate_region"), elem_id="animate-region", min_width=200)
        add = gr.Button(
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
        "active_region": active,
        "add_region": add,
        "region_rows": tuple(rows),
        "motions": tuple(motions),
        "strengths": tuple(strengths),
    }


def suggest_motions(tab: AnimateTab, context: PageContext, language: str) -> Updates:
    """The motions the model was taught, in the reader's language; a few plain ones where it names none."""
    taught = context.engine.image_to_video.motion_vocabulary.motions
    known = [next(p for p in motion.phrases if p.isascii() is (language == "en")) for motion in taught]
    choices = known or [each.zh if language == "zh" else each.en for each in MOTION_SUGGESTIONS]
    return {motion: gr.Dropdown(choices=choices) for motion in tab.motions}


def render_canvas(tab: AnimateTab, canvas: RegionCanvas | None, *, max_regions: int) -> Updates:
    """The picture with its masks, and as many rows as there are regions."""
    count = 1 if canvas is None else len(canvas.regions)
    active = 1 if canvas is None else canvas.active_index + 1
    updates: Updates = {
        tab.canvas: canvas,
        tab.image: None if canvas is None else canvas.render(),
        tab.active_region: gr.Radio(choices=list(range(1, count + 1)), value=active),
        tab.add_region: gr.Button(interactive=canvas is not None and count < max_regions),
        tab.run_panel.status: "",
    }
    return updates | {row: gr.Row(visible=number < count) for number, row in enumerate(tab.region_rows)}


def _connect_clicks(tab: AnimateTab, context: PageContext) -> None:
    most = context.capabilities.max_regions
    told = partial(render_canvas, tab, max_regions=most)

    def upload(payload: Any, request: gr.Request) -> Updates:
        try:
            content = read_upload(get_payload_path(payload), context.limits)
            return told(RegionCanvas(image=decode_upload(content, context.limits)))
        except ValueError as error:
            return {**told(None), tab.run_panel.status: render_error(error, get_request_language(request))}

    def click(canvas: RegionCanvas | None, sign: str, request: gr.Request, event: gr.SelectData) -> Updates:
        if canvas is None:
            return {
                tab.run_panel.status: render_error_text(format_message("need_picture", get_request_language(request)))
            }
        x, y = canvas.to_image_coordinates(*event.index)
        return change(canvas, (*canvas.active_points, Point(x=x, y=y, positive=sign == POSITIVE)), request)

    def undo(canvas: RegionCanvas | None, request: gr.Request) -> Updates:
        return told(None) if canvas is None else change(canvas, canvas.active_points[:-1], request)

    def clear(canvas: RegionCanvas | None) -> Updates:
        return told(None if canvas is None else RegionCanvas(image=canvas.image))

    def change(canvas: RegionCanvas, points: Sequence[Point], request: gr.Request) -> Updates:
        """The active region with these clicks, and what they mean by now."""
        mask = None
        if any(point.positive for point in points):
            try:
                mask = context.engine.predict_mask(
                    canvas.image, [(p.x, p.y) for p in points], [p.positive for p in points]
                )
            except ValueError as error:
                return {tab.run_panel.status: render_error(error, get_request_language(request))}
        return told(canvas.with_points(points, mask))

    def choose(canvas: RegionCanvas | None, number: int) -> RegionCanvas | None:
        return None if canvas is None else canvas.with_active(number - 1)

    def add(canvas: RegionCanvas | None) -> Updates:
        return told(canvas if canvas is None or len(canvas.regions) >= most else canvas.with_new_region())

    # one click after the other, and none behind a generation
    masking = instant(queue=True, concurrency_id="masks", concurrency_limit=1, trigger_mode="multiple")
    # without preprocess: Gradio would open what a hand-made request names before it is checked
    tab.image.upload(upload, tab.image, tab.canvas_outputs, preprocess=False, **instant())
    tab.image.clear(partial(told, None), None, tab.canvas_outputs, **instant())
    tab.image.select(click, [tab.canvas, tab.point_label], tab.canvas_outputs, **masking)
    tab.undo.click(undo, tab.canvas, tab.canvas_outputs, **masking)
    tab.clear.click(clear, tab.canvas, tab.canvas_outputs, **masking)
    tab.active_region.input(choose, [tab.canvas, tab.active_region], tab.canvas, **masking)
    tab.add_region.click(add, tab.canvas, tab.canvas_outputs, **masking)


def _connect_run(tab: AnimateTab, context: PageContext) -> None:
    count = len(tab.region_rows)

    def animate(
        request: gr.Request, token: str, canvas: RegionCanvas | None, prompt: str, frames: Any, *values: Any
    ) -> Iterator[Updates]:
        motions, strengths, settings = values[:count], values[count : 2 * count], values[2 * count :]
        lacking = find_missing_input(canvas, motions, language=get_request_language(request))
        if canvas is None or lacking is not None:
            yield {tab.run_panel.status: render_error_text(lacking or "")}
            return
        submit = partial(_submit, context, canvas, motions, strengths, prompt, frames, settings)
        keep, begin = partial(save_session_video, tab.video_panel), show_preview(tab.video_panel)
        yield from run_job(tab.run_panel, context, request, token, submit=submit, on_done=keep, on_start=begin)

    inputs = [context.token, tab.canvas, tab.prompt, tab.frames, *tab.motions, *tab.strengths, *tab.settings.inputs]
    outputs = list(dict.fromkeys([*tab.run_panel.outputs, *tab.video_panel.history_outputs]))
    tab.run_panel.button.click(animate, inputs, outputs, **job_event())
    connect_cancel(tab.run_panel, context)
    connect_video_panel(tab.video_panel, context)


def _submit(
    context: PageContext,
    canvas: RegionCanvas,
    motions: Sequence[str],
    strengths: Sequence[float],
    prompt: str,
    frames: Any,
    settings: Sequence[Any],
    owner: str,
) -> Job:
    asked = ImageToVideoRequest(
        image=canvas.image,
        regions=to_regions(canvas, motions, strengths),
        prompt=prompt or "",
        num_frames=float_to_int(frames),
        **to_request_arguments(settings),
    )
    return context.queue.submit(asked, owner)


def find_missing_input(canvas: RegionCanvas | None, motions: Sequence[str], *, language: str) -> str | None:
    """What is still to be done before anything can move; None where all is there."""
    if canvas is None:
        return format_message("need_picture", language)
    for number, (region, motion) in enumerate(zip(canvas.regions, motions, strict=False), start=1):
        if region.mask is None:
            return format_message("need_click", language, number=number)
        if not (motion or "").strip():
            return format_message("need_motion", language, number=number)
    return None


def connect_send_to_animate(
    button: gr.Button,
    selected_file: gr.State,
    tab: AnimateTab,
    context: PageContext,
    *,
    get_history: Callable[[Session], list[HistoryItem]],
    tabs: gr.Tabs,
) -> None:
    """The picture that another tab shows goes to this one, which comes to the front."""

    def send(request: gr.Request, token: str, file: str | None) -> Updates:
        sent = find_history_item(get_history(context.get_session(token, request)), file)
        if sent is None:
            return {tabs: gr.skip()}
        canvas = RegionCanvas(image=open_image(sent.files[0]))
        sent_to = {tabs: gr.Tabs(selected=TAB_ID), tab.prompt: sent.metadata.prompt}
        return {**sent_to, **render_canvas(tab, canvas, max_regions=context.capabilities.max_regions)}

    button.click(send, [context.token, selected_file], [tabs, tab.prompt, *tab.canvas_outputs], **instant())
