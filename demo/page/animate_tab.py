"""The tab Animate: clicks on a picture say what moves, a phrase for each region says how."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.files import open_upload
from dianjing.demo.jobs import Job
from dianjing.demo.page.bench import Bench, Updates, connect_cancel, make_buttons, work
from dianjing.demo.page.canvas import Canvas, to_regions
from dianjing.demo.page.film_show import FilmShow, connect_film_show, keep_film, make_film_show, show_stage
from dianjing.demo.page.following import failed, refused
from dianjing.demo.page.look import text
from dianjing.demo.page.settings import Settings, make_settings, to_arguments, whole
from dianjing.demo.page.shared import Shared, language_for, quiet, slow
from dianjing.demo.page.shelf import Made, Visit, find
from dianjing.demo.page.uploads import path_in, read_upload
from dianjing.demo.requests import AnimateRequest
from dianjing.demo.texts.interface import MOTIONS
from dianjing.demo.texts.messages import say
from dianjing.pipelines.fitting import open_picture
from dianjing.pipelines.segmenting import Point

USUAL_STRENGTH = 0.5
TAB_ID = "animate"
IN, OUT = "in", "out"  # what a click says


@dataclass(frozen=True, kw_only=True)
class AnimateTab:
    """Components. canvas: the state behind `shown`, None before there is a picture; rows: one for each region."""

    shown: gr.Image
    canvas: gr.State
    sign: gr.Radio
    undo: gr.Button
    clear: gr.Button
    active: gr.Radio
    add: gr.Button
    rows: tuple[gr.Row, ...]
    motions: tuple[gr.Dropdown, ...]
    strengths: tuple[gr.Slider, ...]
    prompt: gr.Textbox
    frames: gr.Slider
    settings: Settings
    bench: Bench
    show: FilmShow

    @property
    def drawn(self) -> list[Any]:
        """What `redraw` updates."""
        return [self.canvas, self.shown, self.active, self.add, *self.rows, self.bench.status]


def make_animate_tab(shared: Shared) -> AnimateTab | None:
    """Inside a `gr.Tab`; None, and a note, for a model that takes no clicks."""
    abilities = shared.abilities
    if not abilities.takes_clicks or abilities.num_frames is None:
        gr.Markdown(text("no_motion"), elem_classes="dj-note", elem_id="animate-note")
        return None
    with gr.Row(elem_classes="dj-board"):
        with gr.Column(elem_classes="dj-ask"):
            parts = _make_canvas()
            parts |= _make_regions(abilities.max_regions)
            button, cancel = make_buttons("animate")
        with gr.Column(elem_classes="dj-show"):
            show = make_film_show("animate", made=lambda visit: visit.animations)
        with gr.Column(elem_classes="dj-more"):
            prompt = gr.Textbox(label=text("animate_prompt"), max_lines=2, elem_id="animate-prompt")
            longest = 2 * abilities.num_frames
            frames = gr.Slider(2, longest, abilities.num_frames, step=1, label=text("animate_frames"))
            settings = make_settings("animate", shared, usual=abilities.going_on)
    bench = Bench(button=button, cancel=cancel, status=show.status, stage=show.stage, job=gr.State(None))
    tab = AnimateTab(prompt=prompt, frames=frames, settings=settings, bench=bench, show=show, **parts)
    _connect_clicks(tab, shared)
    _connect_run(tab, shared)
    return tab


def _make_canvas() -> dict[str, Any]:
    shown = gr.Image(
        label=text("animate_picture"), sources=["upload", "clipboard"], type="filepath", format="png", buttons=[],
        placeholder=text("animate_upload"), elem_id="animate-picture", elem_classes="dj-stage",
    )  # fmt: skip
    with gr.Row(elem_classes="dj-tools"):
        choices = [(text("animate_in"), IN), (text("animate_out"), OUT)]
        sign = gr.Radio(choices, value=IN, label=text("animate_click"), elem_id="animate-sign", min_width=200)
        undo = gr.Button(text("animate_undo"), elem_id="animate-undo", size="sm", min_width=80, scale=0)
        clear = gr.Button(text("animate_clear"), elem_id="animate-clear-clicks", size="sm", min_width=80, scale=0)
    return {"shown": shown, "canvas": gr.State(None), "sign": sign, "undo": undo, "clear": clear}


def _make_regions(most: int) -> dict[str, Any]:
    with gr.Row(elem_classes="dj-tools"):
        active = gr.Radio([1], value=1, label=text("animate_region"), elem_id="animate-region", min_width=200)
        add = gr.Button(text("animate_add"), elem_id="animate-add", size="sm", min_width=110, scale=0, visible=most > 1)
    rows, motions, strengths = [], [], []
    for number in range(1, most + 1):
        with gr.Row(visible=number == 1, elem_classes=["dj-region", f"dj-region-{number}"]) as row:
            motion = gr.Dropdown(
                [], value="", allow_custom_value=True, label=text("animate_motion"), scale=3, min_width=140,
                elem_id=f"animate-motion-{number}",
            )  # fmt: skip
            strength = gr.Slider(
                0, 1, USUAL_STRENGTH, step=0.05, label=text("animate_strength"), scale=2, min_width=140
            )
        rows.append(row)
        motions.append(motion)
        strengths.append(strength)
    return {
        "active": active, "add": add, "rows": tuple(rows), "motions": tuple(motions), "strengths": tuple(strengths),
    }  # fmt: skip


def suggest_motions(tab: AnimateTab, shared: Shared, language: str) -> Updates:
    """The motions the model was taught, in the reader's language; a few plain ones where it names none."""
    taught = shared.studio.animations.motions.motions
    known = [next(p for p in motion.phrases if p.isascii() is (language == "en")) for motion in taught]
    choices = known or [each.zh if language == "zh" else each.en for each in MOTIONS]
    return {motion: gr.Dropdown(choices=choices) for motion in tab.motions}


def redraw(tab: AnimateTab, canvas: Canvas | None, *, most: int) -> Updates:
    """The picture with its masks, and as many rows as there are regions."""
    count = 1 if canvas is None else len(canvas.regions)
    active = 1 if canvas is None else canvas.active + 1
    updates: Updates = {
        tab.canvas: canvas,
        tab.shown: None if canvas is None else canvas.show(),
        tab.active: gr.Radio(choices=list(range(1, count + 1)), value=active),
        tab.add: gr.Button(interactive=canvas is not None and count < most),
        tab.bench.status: "",
    }
    return updates | {row: gr.Row(visible=number < count) for number, row in enumerate(tab.rows)}


def _connect_clicks(tab: AnimateTab, shared: Shared) -> None:
    most = shared.abilities.max_regions
    told = partial(redraw, tab, most=most)

    def upload(payload: Any, request: gr.Request) -> Updates:
        try:
            content = read_upload(path_in(payload), shared.limits)
            return told(Canvas(picture=open_upload(content, shared.limits)))
        except ValueError as error:
            return {**told(None), tab.bench.status: failed(error, language_for(request))}

    def click(canvas: Canvas | None, sign: str, request: gr.Request, event: gr.SelectData) -> Updates:
        if canvas is None:
            return {tab.bench.status: refused(say("need_picture", language_for(request)))}
        x, y = canvas.place(*event.index)
        return change(canvas, (*canvas.points, Point(x=x, y=y, positive=sign == IN)), request)

    def undo(canvas: Canvas | None, request: gr.Request) -> Updates:
        return told(None) if canvas is None else change(canvas, canvas.points[:-1], request)

    def clear(canvas: Canvas | None) -> Updates:
        return told(None if canvas is None else Canvas(picture=canvas.picture))

    def change(canvas: Canvas, points: Sequence[Point], request: gr.Request) -> Updates:
        """The active region with these clicks, and what they mean by now."""
        mask = None
        if any(point.positive for point in points):
            try:
                mask = shared.studio.mask(canvas.picture, [(p.x, p.y) for p in points], [p.positive for p in points])
            except ValueError as error:
                return {tab.bench.status: failed(error, language_for(request))}
        return told(canvas.with_points(points, mask))

    def choose(canvas: Canvas | None, number: int) -> Canvas | None:
        return None if canvas is None else canvas.with_active(number - 1)

    def add(canvas: Canvas | None) -> Updates:
        return told(canvas if canvas is None or len(canvas.regions) >= most else canvas.with_region())

    # one click after the other, and none behind a generation
    masking = quiet(queue=True, concurrency_id="masks", concurrency_limit=1, trigger_mode="multiple")
    # without preprocess: Gradio would open what a hand-made request names before it is checked
    tab.shown.upload(upload, tab.shown, tab.drawn, preprocess=False, **quiet())
    tab.shown.clear(partial(told, None), None, tab.drawn, **quiet())
    tab.shown.select(click, [tab.canvas, tab.sign], tab.drawn, **masking)
    tab.undo.click(undo, tab.canvas, tab.drawn, **masking)
    tab.clear.click(clear, tab.canvas, tab.drawn, **masking)
    tab.active.input(choose, [tab.canvas, tab.active], tab.canvas, **masking)
    tab.add.click(add, tab.canvas, tab.drawn, **masking)


def _connect_run(tab: AnimateTab, shared: Shared) -> None:
    count = len(tab.rows)

    def animate(
        request: gr.Request, token: str, canvas: Canvas | None, prompt: str, frames: Any, *values: Any
    ) -> Iterator[Updates]:
        motions, strengths, settings = values[:count], values[count : 2 * count], values[2 * count :]
        lacking = what_is_missing(canvas, motions, language=language_for(request))
        if canvas is None or lacking is not None:
            yield {tab.bench.status: refused(lacking or "")}
            return
        submit = partial(_submit, shared, canvas, motions, strengths, prompt, frames, settings)
        keep, begin = partial(keep_film, tab.show), show_stage(tab.show)
        yield from work(tab.bench, shared, request, token, submit=submit, keep=keep, begin=begin)

    inputs = [shared.token, tab.canvas, tab.prompt, tab.frames, *tab.motions, *tab.strengths, *tab.settings.inputs]
    outputs = list(dict.fromkeys([*tab.bench.outputs, *tab.show.restored]))
    tab.bench.button.click(animate, inputs, outputs, **slow())
    connect_cancel(tab.bench, shared)
    connect_film_show(tab.show, shared)


def _submit(
    shared: Shared, canvas: Canvas, motions: Sequence[str], strengths: Sequence[float], prompt: str, frames: Any,
    settings: Sequence[Any], owner: str,
) -> Job:  # fmt: skip
    asked = AnimateRequest(
        image=canvas.picture, regions=to_regions(canvas, motions, strengths), prompt=prompt or "",
        num_frames=whole(frames), **to_arguments(settings),
    )  # fmt: skip
    return shared.worker.submit(asked, owner)


def what_is_missing(canvas: Canvas | None, motions: Sequence[str], *, language: str) -> str | None:
    """What is still to be done before anything can move; None where all is there."""
    if canvas is None:
        return say("need_picture", language)
    for number, (region, motion) in enumerate(zip(canvas.regions, motions, strict=False), start=1):
        if region.mask is None:
            return say("need_click", language, number=number)
        if not (motion or "").strip():
            return say("need_motion", language, number=number)
    return None


def connect_send(
    button: gr.Button, chosen: gr.State, tab: AnimateTab, shared: Shared, *, made: Callable[[Visit], list[Made]],
    tabs: gr.Tabs,
) -> None:  # fmt: skip
    """The picture that another tab shows goes to this one, which comes to the front."""

    def send(request: gr.Request, token: str, file: str | None) -> Updates:
        sent = find(made(shared.visit(token, request)), file)
        if sent is None:
            return {tabs: gr.skip()}
        canvas = Canvas(picture=open_picture(sent.files[0]))
        sent_to = {tabs: gr.Tabs(selected=TAB_ID), tab.prompt: sent.record.prompt}
        return {**sent_to, **redraw(tab, canvas, most=shared.abilities.max_regions)}

    button.click(send, [shared.token, chosen], [tabs, tab.prompt, *tab.drawn], **quiet())
