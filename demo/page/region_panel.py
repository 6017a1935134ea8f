"""The region panel of the Animate tab: an image, clicks on it that select regions, and a motion for each region."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import MOTION_SUGGESTIONS
from dianjing.demo.page.canvas import RegionCanvas
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.metadata_import import get_payload_path
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.status import render_error
from dianjing.demo.page.theme import translations
from dianjing.demo.uploads import decode_upload
from dianjing.errors import DianjingError, Language
from dianjing.pipelines.segmentation.base import Point

DEFAULT_STRENGTH = 0.5
POSITIVE, NEGATIVE = "positive", "negative"  # labels of a click


@dataclass(frozen=True, kw_only=True)
class RegionPanel:
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

    @property
    def canvas_outputs(self) -> list[Any]:
        """The outputs of `render_canvas`."""
        return [self.canvas, self.image, self.active_region, self.add_region, *self.region_rows]


def make_region_panel(max_regions: int) -> RegionPanel:
    """Make the components inside a column."""
    return RegionPanel(**_make_canvas(), **_make_regions(max_regions))


def _make_canvas() -> dict[str, Any]:
    image = gr.Image(
        label=translations("animate_picture"),
        sources=["upload", "clipboard"],
        type="filepath",
        format="png",
        buttons=[],
        placeholder=translations("animate_upload"),
        elem_id="animate-picture",
        elem_classes=["dj-stage", "dj-canvas"],
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
    with gr.Row(elem_classes="dj-tools", visible=max_regions > 1):
        active_region = gr.Radio(
            [1], value=1, label=translations("animate_region"), elem_id="animate-region", min_width=200
        )
        add_region = gr.Button(translations("animate_add"), elem_id="animate-add", size="sm", min_width=110, scale=0)
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


def suggest_motions(panel: RegionPanel, context: PageContext, language: Language) -> Updates:
    """Updates that offer the motions of the model's vocabulary, or a few common ones, in the reader's language."""
    vocabulary = context.engine.image_to_video.motion_vocabulary.motions
    phrases = [next(p for p in motion.phrases if p.isascii() is (language == "en")) for motion in vocabulary]
    common = [getattr(text, language) for text in MOTION_SUGGESTIONS]
    return {motion: gr.Dropdown(choices=phrases or common) for motion in panel.motions}


def render_canvas(panel: RegionPanel, canvas: RegionCanvas | None) -> Updates:
    """Updates that show the image with its masks and one row for each region."""
    count = 1 if canvas is None else len(canvas.regions)
    active = 1 if canvas is None else canvas.active_index + 1
    updates: Updates = {
        panel.canvas: canvas,
        panel.image: None if canvas is None else canvas.render(),
        panel.active_region: gr.Radio(choices=list(range(1, count + 1)), value=active),
        panel.add_region: gr.Button(interactive=canvas is not None and count < len(panel.region_rows)),
    }
    return updates | {row: gr.Row(visible=index < count) for index, row in enumerate(panel.region_rows)}


def connect_region_panel(panel: RegionPanel, context: PageContext, *, status: gr.HTML, prompt: gr.Textbox) -> None:
    """Connect the events; `prompt` describes an image and goes with it, `status` shows errors."""
    _connect_image(panel, context, status=status, prompt=prompt)
    _connect_clicks(panel, context, status=status)


def _set_canvas(
    panel: RegionPanel, context: PageContext, request: gr.Request, token: str, canvas: RegionCanvas | None
) -> Updates:
    """Show a canvas, and keep it for a page that is loaded again."""
    context.get_session(token, request).canvas = canvas
    return render_canvas(panel, canvas)


def _connect_image(panel: RegionPanel, context: PageContext, *, status: gr.HTML, prompt: gr.Textbox) -> None:
    def upload(payload: Any, token: str, old_canvas: RegionCanvas | None, request: gr.Request) -> Updates:
        canvas, error_text = None, ""
        try:
            with context.uploads.open_path(get_payload_path(payload)) as file:
                canvas = RegionCanvas(image=decode_upload(file.read_bytes(), context.limits))
        except Exception as error:
            error_text = render_error(error, get_request_language(request))
        cleared = {} if old_canvas is None else {prompt: ""}
        return {**_set_canvas(panel, context, request, token, canvas), **cleared, status: error_text}

    def remove(token: str, request: gr.Request) -> Updates:
        return {**_set_canvas(panel, context, request, token, None), prompt: "", status: ""}

    outputs = [*panel.canvas_outputs, status, prompt]
    # without preprocess: Gradio would decode the file before its format and size are checked
    inputs = [panel.image, context.token, panel.canvas]
    panel.image.upload(upload, inputs, outputs, preprocess=False, **instant())
    panel.image.clear(remove, context.token, outputs, **instant())


def _connect_clicks(panel: RegionPanel, context: PageContext, *, status: gr.HTML) -> None:
    def show(request: gr.Request, token: str, canvas: RegionCanvas | None) -> Updates:
        return {**_set_canvas(panel, context, request, token, canvas), status: ""}

    def show_error(request: gr.Request, error: Exception) -> Updates:
        return {status: render_error(error, get_request_language(request))}

    def set_points(request: gr.Request, token: str, canvas: RegionCanvas, points: Sequence[Point]) -> Updates:
        try:
            return show(request, token, canvas.with_points(points, predict_mask(context, canvas, points)))
        except Exception as error:
            return show_error(request, error)

    def click(
        token: str, canvas: RegionCanvas | None, label: str, request: gr.Request, event: gr.SelectData
    ) -> Updates:
        if canvas is None:
            return show_error(request, DianjingError("no_image_to_animate"))
        x, y = canvas.to_image_coordinates(*event.index)
        return set_points(request, token, canvas, (*canvas.active_points, Point(x=x, y=y, positive=label == POSITIVE)))

    def undo(token: str, canvas: RegionCanvas | None, request: gr.Request) -> Updates:
        if canvas is None:
            return show(request, token, None)
        return set_points(request, token, canvas, canvas.active_points[:-1])

    def clear(token: str, canvas: RegionCanvas | None, request: gr.Request) -> Updates:
        return show(request, token, None if canvas is None else RegionCanvas(image=canvas.image))

    def select_region(token: str, canvas: RegionCanvas | None, number: int, request: gr.Request) -> Updates:
        return show(request, token, None if canvas is None else canvas.with_active(number - 1))

    def add_region(token: str, canvas: RegionCanvas | None, request: gr.Request) -> Updates:
        can_add = canvas is not None and len(canvas.regions) < len(panel.region_rows)
        return show(request, token, canvas.with_new_region() if canvas is not None and can_add else canvas)

    # one click after the other, and never behind a generation
    mask_event = instant(queue=True, concurrency_id="masks", concurrency_limit=1, trigger_mode="multiple")
    state, outputs = [context.token, panel.canvas], [*panel.canvas_outputs, status]
    panel.image.select(click, [*state, panel.point_label], outputs, **mask_event)
    panel.undo.click(undo, state, outputs, **mask_event)
    panel.clear.click(clear, state, outputs, **mask_event)
    panel.active_region.input(select_region, [*state, panel.active_region], outputs, **mask_event)
    panel.add_region.click(add_region, state, outputs, **mask_event)


def predict_mask(context: PageContext, canvas: RegionCanvas, points: Sequence[Point]) -> Any:
    """Predict the mask, bool (H, W), of points on a canvas; None without a positive point."""
    if not any(point.positive for point in points):
        return None
    coordinates, labels = [(point.x, point.y) for point in points], [point.positive for point in points]
    return context.engine.predict_mask(canvas.image, coordinates, labels)


def check_regions(canvas: RegionCanvas, motions: Sequence[str]) -> None:
    """Raise DianjingError for the first region without a click or without a motion."""
    for number, (region, motion) in enumerate(zip(canvas.regions, motions, strict=False), start=1):
        if region.mask is None:
            raise DianjingError("region_without_click", number=number)
        if not (motion or "").strip():
            raise DianjingError("region_without_motion", number=number)
