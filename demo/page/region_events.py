"""Events of the region panel: uploads, clicks, drags, and the buttons of the regions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from dianjing.demo.page.canvas import RegionCanvas
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.drag import parse_drag, simplify_path
from dianjing.demo.page.metadata_import import get_payload_path
from dianjing.demo.page.pace import apply_pace
from dianjing.demo.page.region_panel import ANCHOR, DEFAULT_STRENGTH, POSITIVE, RegionPanel, render_canvas
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.status import render_error
from dianjing.demo.uploads import decode_upload_with_alpha
from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Point, Region, RegionTarget, check_region
from dianjing.pipelines.video.motion_path import XY

ChangeCanvas = Callable[..., RegionCanvas | None]


def connect_region_panel(panel: RegionPanel, context: PageContext, *, status: gr.HTML, prompt: gr.Textbox) -> None:
    """Connect the events; `prompt` describes an image and goes with it, `status` shows errors."""
    _connect_image(panel, context, status=status, prompt=prompt)
    _connect_pointer(panel, context, status=status)
    _connect_buttons(panel, context, status=status)
    _connect_removal(panel, context, status=status)


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
                canvas = RegionCanvas(image=decode_upload_with_alpha(file.read_bytes(), context.limits))
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


def get_mask_event(*, trigger_mode: str = "multiple") -> dict[str, Any]:
    """Options of an event that changes a canvas: one after the other, and never behind a generation."""
    return instant(queue=True, concurrency_id="masks", concurrency_limit=1, trigger_mode=trigger_mode)


def _make_handler(
    panel: RegionPanel, context: PageContext, status: gr.HTML, change: ChangeCanvas
) -> Callable[..., Updates]:
    """Make an event handler that shows what `change(canvas, *values)` makes of the canvas, or its error."""

    def handle(request: gr.Request, token: str, canvas: RegionCanvas | None, *values: Any) -> Updates:
        try:
            changed = change(canvas, *values)
        except Exception as error:
            return {status: render_error(error, get_request_language(request))}
        return {**_set_canvas(panel, context, request, token, changed), status: ""}

    return handle


def _connect_pointer(panel: RegionPanel, context: PageContext, *, status: gr.HTML) -> None:
    make_handler, max_regions = partial(_make_handler, panel, context, status), len(panel.region_rows)

    def handle_click(
        request: gr.Request, event: gr.SelectData, token: str, canvas: RegionCanvas | None, meaning: str
    ) -> Updates:
        def click(canvas: RegionCanvas | None) -> RegionCanvas:
            return click_canvas(context, canvas, event.index, meaning, max_regions=max_regions)

        return make_handler(click)(request, token, canvas)

    def handle_drag(request: gr.Request, event: gr.EventData, token: str, canvas: RegionCanvas | None) -> Updates:
        def drag(canvas: RegionCanvas | None) -> RegionCanvas:
            points = parse_drag(event._data.get("points"))
            return drag_canvas(context, canvas, points, max_regions=max_regions)

        return make_handler(drag)(request, token, canvas)

    state, outputs, options = [context.token, panel.canvas], [*panel.canvas_outputs, status], get_mask_event()
    panel.image.select(handle_click, [*state, panel.click_meaning], outputs, **options)
    panel.drag.input(handle_drag, state, outputs, **options)


def _connect_buttons(panel: RegionPanel, context: PageContext, *, status: gr.HTML) -> None:
    max_regions = len(panel.region_rows)

    def connect(event: Any, change: Callable[..., RegionCanvas], *values: Any) -> None:
        def change_any(canvas: RegionCanvas | None, *values: Any) -> RegionCanvas | None:
            return None if canvas is None else change(canvas, *values)

        handler = _make_handler(panel, context, status, change_any)
        outputs = [*panel.canvas_outputs, status]
        event(handler, [context.token, panel.canvas, *values], outputs, **get_mask_event())

    connect(panel.undo.click, lambda canvas: _predict_active_mask(context, canvas.undo()))
    connect(panel.clear.click, lambda canvas: RegionCanvas(image=canvas.image))
    connect(panel.active_region.input, lambda canvas, number: canvas.with_active(number - 1), panel.active_region)
    connect(panel.add_region.click, lambda canvas: _add_region(canvas, max_regions))
    connect(panel.add_camera.click, lambda canvas: _add_region(canvas, max_regions, "image"))
    connect(panel.pace.input, _set_pace, panel.pace)
    connect(panel.turn.release, lambda canvas, turn: canvas.with_change(turn=float(turn)), panel.turn)
    connect(panel.scale.release, lambda canvas, scale: canvas.with_change(scale=float(scale)), panel.scale)


def _connect_removal(panel: RegionPanel, context: PageContext, *, status: gr.HTML) -> None:
    num_rows = len(panel.region_rows)

    def remove(request: gr.Request, token: str, canvas: RegionCanvas | None, *values: Any) -> Updates:
        if canvas is None:
            return {status: ""}
        motions, strengths = [*values[:num_rows]], [*values[num_rows:]]
        for column, default in ((motions, ""), (strengths, DEFAULT_STRENGTH)):
            del column[canvas.active_index]
            column.append(default)
        moved = dict(zip([*panel.motions, *panel.strengths], [*motions, *strengths], strict=True))
        return {**_set_canvas(panel, context, request, token, canvas.without_active()), **moved, status: ""}

    values = [*panel.motions, *panel.strengths]
    outputs = [*panel.canvas_outputs, *values, status]
    panel.remove_region.click(remove, [context.token, panel.canvas, *values], outputs, **get_mask_event())


def click_canvas(
    context: PageContext, canvas: RegionCanvas | None, position: XY, meaning: str, *, max_regions: int
) -> RegionCanvas:
    """Add a click at a position on the displayed image to the active region. Raises: DianjingError."""
    if canvas is None:
        raise DianjingError("no_image_to_animate")
    x, y = canvas.to_image_coordinates(*position)
    if meaning == ANCHOR:
        return canvas.with_change(anchor=Point(x=x, y=y))
    if canvas.active.target == "image":
        canvas = _add_region(canvas, max_regions)
    points = (*canvas.active.points, Point(x=x, y=y, positive=meaning == POSITIVE))
    return _predict_active_mask(context, canvas.with_change(points=points))


def drag_canvas(
    context: PageContext, canvas: RegionCanvas | None, points: list[XY], *, max_regions: int
) -> RegionCanvas:
    """Give the region at the start of a drag its path, of points on the displayed image.

    A drag from no region selects one at its start, as a click does; one over a camera move is its path.
    Raises: DianjingError for a path that leaves the image, and for more regions than there are rows.
    """
    if canvas is None:
        raise DianjingError("no_image_to_animate")
    path = tuple(simplify_path([canvas.to_image_coordinates(*point) for point in points], size=canvas.image.size))
    check_region(Region(path=path, target="image"), size=canvas.image.size)
    if canvas.active.target == "object":
        index = canvas.find_region(*path[0])
        if index is not None:
            canvas = canvas.with_active(index)
        elif not canvas.active.is_empty:
            canvas = _add_region(canvas, max_regions)
        if canvas.active.is_empty:
            start = Point(x=path[0][0], y=path[0][1])
            canvas = _predict_active_mask(context, canvas.with_change(points=(start,)))
    return canvas.with_change(path=path, times=None)


def _set_pace(canvas: RegionCanvas, pace: str | None) -> RegionCanvas:
    if canvas.active.path is None:
        return canvas
    path, times = apply_pace(canvas.active.path, pace or "")
    return canvas.with_change(path=path, times=times)


def _add_region(canvas: RegionCanvas, max_regions: int, target: RegionTarget = "object") -> RegionCanvas:
    if len(canvas.regions) >= max_regions and not (target == "image" and canvas.active.is_empty):
        raise DianjingError("region_count_out_of_range", count=len(canvas.regions) + 1, maximum=max_regions)
    return canvas.with_new_region(target)


def _predict_active_mask(context: PageContext, canvas: RegionCanvas) -> RegionCanvas:
    return canvas.with_mask(predict_mask(context, canvas, canvas.active.points))


def predict_mask(context: PageContext, canvas: RegionCanvas, points: tuple[Point, ...]) -> np.ndarray | None:
    """Predict the mask, bool (H, W), of points on a canvas; None without a positive point."""
    if not any(point.positive for point in points):
        return None
    coordinates, labels = [(point.x, point.y) for point in points], [point.positive for point in points]
    return context.engine.predict_mask(canvas.image, coordinates, labels)
