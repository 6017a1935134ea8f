"""The brush of the Edit tab: an image, and strokes over it that say what may change."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from dianjing.demo.page.brush import Stroke, paint_mask, parse_strokes, serialize_canvas
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.metadata_import import get_payload_path
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.status import render_error
from dianjing.demo.page.theme import translations
from dianjing.demo.uploads import decode_upload

DEFAULT_BRUSH_PERCENT = 8  # of the shorter side: the radius of the brush
BRUSH_SCRIPT = "window.dianjing.connectBrush(element, props, trigger, watch);"


@dataclass(frozen=True, kw_only=True, eq=False)
class BrushCanvas:
    """An image and the strokes over it; radius_percent is that of the next stroke, of the shorter side."""

    image: Image.Image
    strokes: tuple[Stroke, ...] = ()
    radius_percent: float = DEFAULT_BRUSH_PERCENT

    def make_mask(self) -> np.ndarray | None:
        """Make the mask, bool (H, W), of what is painted; None if nothing is."""
        return paint_mask(self.strokes, size=self.image.size) if self.strokes else None

    def serialize(self) -> str:
        """The value of the brush in the browser."""
        radius = max(0.5, self.radius_percent / 100 * min(self.image.size))
        return serialize_canvas(self.image, self.strokes, radius=radius)


@dataclass(frozen=True, kw_only=True)
class BrushPanel:
    """Components; `canvas` holds the `BrushCanvas` behind `board`, None before there is an image."""

    upload: gr.Image
    board: gr.HTML
    canvas: gr.State
    radius: gr.Slider
    undo: gr.Button
    clear: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """The outputs of `show_board`."""
        return [self.canvas, self.board]


def make_brush_panel() -> BrushPanel:
    """Make the components inside a column."""
    upload = gr.Image(
        label=translations("edit_picture"),
        sources=["upload", "clipboard"],
        type="filepath",
        format="png",
        buttons=[],
        placeholder=translations("animate_upload"),
        elem_id="edit-picture",
        height=140,
    )
    board = gr.HTML(
        "{}",
        html_template='<div class="dj-brush"></div>',
        js_on_load=BRUSH_SCRIPT,
        elem_id="edit-board",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="dj-tools"):
        radius = gr.Slider(
            1, 30, DEFAULT_BRUSH_PERCENT, step=1, label=translations("edit_brush"), elem_id="edit-brush", min_width=160
        )
        small = {"size": "sm", "min_width": 80, "scale": 0}
        undo = gr.Button(translations("edit_undo"), elem_id="edit-undo", **small)
        clear = gr.Button(translations("animate_clear"), elem_id="edit-clear-strokes", **small)
    return BrushPanel(upload=upload, board=board, canvas=gr.State(None), radius=radius, undo=undo, clear=clear)


def show_board(panel: BrushPanel, canvas: BrushCanvas | None) -> Updates:
    """Updates that show an image with its strokes."""
    return {panel.canvas: canvas, panel.board: "{}" if canvas is None else canvas.serialize()}


def connect_brush_panel(panel: BrushPanel, context: PageContext, *, status: gr.HTML) -> None:
    """Connect the events; `status` shows errors."""

    def upload(payload: Any, radius: float, request: gr.Request) -> Updates:
        try:
            with context.uploads.open_path(get_payload_path(payload)) as file:
                canvas = BrushCanvas(image=decode_upload(file.read_bytes(), context.limits), radius_percent=radius)
        except Exception as error:
            refused = {status: render_error(error, get_request_language(request)), panel.upload: None}
            return {**show_board(panel, None), **refused}
        return {**show_board(panel, canvas), status: ""}

    def paint(canvas: BrushCanvas | None, request: gr.Request, event: gr.EventData) -> Updates:
        if canvas is None:
            return {status: ""}
        try:
            strokes = parse_strokes(event._data.get("strokes"))
        except Exception as error:
            return {status: render_error(error, get_request_language(request))}
        return {panel.canvas: replace(canvas, strokes=tuple(strokes)), status: ""}

    def change(canvas: BrushCanvas | None, **changes: Any) -> Updates:
        return show_board(panel, None if canvas is None else replace(canvas, **changes))

    # without preprocess: Gradio would decode the file before its format and size are checked
    outputs = [*panel.outputs, status, panel.upload]
    panel.upload.upload(upload, [panel.upload, panel.radius], outputs, preprocess=False, **instant())
    panel.upload.clear(lambda: show_board(panel, None), None, panel.outputs, **instant())
    panel.board.input(paint, panel.canvas, [panel.canvas, status], **instant())
    panel.undo.click(
        lambda canvas: change(canvas, strokes=() if canvas is None else canvas.strokes[:-1]),
        panel.canvas,
        panel.outputs,
        **instant(),
    )
    panel.clear.click(lambda canvas: change(canvas, strokes=()), panel.canvas, panel.outputs, **instant())
    panel.radius.release(
        lambda canvas, radius: change(canvas, radius_percent=radius),
        [panel.canvas, panel.radius],
        panel.outputs,
        **instant(),
    )
