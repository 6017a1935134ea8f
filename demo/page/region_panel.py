"""The region panel of the Animate tab: an image, regions that clicks select and drags move, and a motion for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import MOTION_SUGGESTIONS
from dianjing.demo.page.canvas import RegionCanvas
from dianjing.demo.page.canvas_drawing import REGION_COLORS
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.pace import EVEN, PACES, name_pace
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.theme import translations
from dianjing.errors import DianjingError, Language

DEFAULT_STRENGTH = 0.5
POSITIVE, NEGATIVE, ANCHOR = "positive", "negative", "anchor"  # meanings of a click
MAX_SLIDER_TURN = 360
MIN_SLIDER_SCALE, MAX_SLIDER_SCALE = 0.1, 3.0
DRAG_SCRIPT = "window.dianjing.connectDrag('#animate-picture', trigger);"


@dataclass(frozen=True, kw_only=True)
class RegionPanel:
    """Components; `canvas` holds the `RegionCanvas` behind `image`, None before there is an image.

    pace, turn and scale: of the active region. drag: reports the points of a pointer that is dragged over the image.
    """

    image: gr.Image
    drag: gr.HTML
    canvas: gr.State
    click_meaning: gr.Radio
    undo: gr.Button
    clear: gr.Button
    active_region: gr.Radio
    add_region: gr.Button
    add_camera: gr.Button
    remove_region: gr.Button
    region_rows: tuple[gr.Row, ...]
    motions: tuple[gr.Dropdown, ...]
    strengths: tuple[gr.Slider, ...]
    pace: gr.Dropdown
    turn: gr.Slider
    scale: gr.Slider

    @property
    def canvas_outputs(self) -> list[Any]:
        """The outputs of `render_canvas`."""
        buttons = [self.add_region, self.add_camera]
        motion = [self.pace, self.turn, self.scale]
        return [self.canvas, self.image, self.active_region, *buttons, *self.region_rows, *motion]


def make_region_panel(max_regions: int) -> RegionPanel:
    """Make the components inside a column, with as many regions as there are colors, or as the model takes."""
    canvas, regions = _make_canvas(), _make_region_bar()
    return RegionPanel(**canvas, **regions, **_make_motions(max(max_regions, len(REGION_COLORS))))


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
    drag = gr.HTML("", js_on_load=DRAG_SCRIPT, elem_id="animate-drag", elem_classes="dj-hidden")
    with gr.Row(elem_classes="dj-tools"):
        meanings = {"animate_in": POSITIVE, "animate_out": NEGATIVE, "animate_anchor": ANCHOR}
        click_meaning = gr.Radio(
            [(translations(name), value) for name, value in meanings.items()],
            value=POSITIVE,
            label=translations("animate_click"),
            elem_id="animate-label",
            min_width=200,
        )
        small = {"size": "sm", "min_width": 80, "scale": 0}
        undo = gr.Button(translations("animate_undo"), elem_id="animate-undo", **small)
        clear = gr.Button(translations("animate_clear"), elem_id="animate-clear-clicks", **small)
    return {
        "image": image,
        "drag": drag,
        "canvas": gr.State(None),
        "click_meaning": click_meaning,
        "undo": undo,
        "clear": clear,
    }


def _make_region_bar() -> dict[str, Any]:
    with gr.Row(elem_classes="dj-tools"):
        active_region = gr.Radio(
            [1], value=1, label=translations("animate_region"), elem_id="animate-region", min_width=160
        )
        small = {"size": "sm", "min_width": 70, "scale": 0}
        return {
            "active_region": active_region,
            "add_region": gr.Button(translations("animate_add"), elem_id="animate-add", **small),
            "add_camera": gr.Button(translations("animate_camera"), elem_id="animate-camera", **small),
            "remove_region": gr.Button(translations("animate_remove"), elem_id="animate-remove", **small),
        }


def _make_motions(max_regions: int) -> dict[str, Any]:
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
    rows_and_values = {"region_rows": tuple(rows), "motions": tuple(motions), "strengths": tuple(strengths)}
    return rows_and_values | _make_transform()


def _make_transform() -> dict[str, Any]:
    with gr.Row():
        pace = gr.Dropdown(
            [(translations(f"pace_{name or 'even'}"), name) for name in (EVEN, *PACES)],
            value=EVEN,
            allow_custom_value=True,
            visible=False,  # until there is a path
            label=translations("animate_pace"),
            info=translations("animate_pace_info"),
            elem_id="animate-pace",
        )
        turn = gr.Slider(
            -MAX_SLIDER_TURN, MAX_SLIDER_TURN, 0, step=1, label=translations("animate_turn"), elem_id="animate-turn"
        )
        scale = gr.Slider(
            MIN_SLIDER_SCALE,
            MAX_SLIDER_SCALE,
            1,
            step=0.05,
            label=translations("animate_scale"),
            elem_id="animate-scale",
        )
    return {"pace": pace, "turn": turn, "scale": scale}


def suggest_motions(panel: RegionPanel, context: PageContext, language: Language) -> Updates:
    """Updates that offer the motions of the model's vocabulary, or a few common ones, in the reader's language."""
    pipeline = context.engine.image_to_video  # None: only published models animate
    vocabulary = () if pipeline is None else pipeline.motion_vocabulary.motions
    phrases = [next(p for p in motion.phrases if p.isascii() is (language == "en")) for motion in vocabulary]
    common = [getattr(text, language) for text in MOTION_SUGGESTIONS]
    return {motion: gr.Dropdown(choices=phrases or common) for motion in panel.motions}


def render_canvas(panel: RegionPanel, canvas: RegionCanvas | None) -> Updates:
    """Updates that show the image with its regions, and one row for each of them that is not the whole image."""
    regions = RegionCanvas.regions if canvas is None else canvas.regions
    index = 0 if canvas is None else canvas.active_index
    can_add = canvas is not None and len(regions) < len(panel.region_rows)
    updates: Updates = {
        panel.canvas: canvas,
        panel.image: None if canvas is None else canvas.render(),
        panel.active_region: gr.Radio(choices=list(range(1, len(regions) + 1)), value=index + 1),
        panel.add_region: gr.Button(interactive=can_add),
        panel.add_camera: gr.Button(interactive=can_add or (canvas is not None and canvas.active.is_empty)),
        panel.pace: gr.Dropdown(
            value=name_pace(regions[index].path, regions[index].times), visible=regions[index].path is not None
        ),
        panel.turn: min(max(regions[index].turn, -MAX_SLIDER_TURN), MAX_SLIDER_TURN),
        panel.scale: min(max(regions[index].scale, MIN_SLIDER_SCALE), MAX_SLIDER_SCALE),
    }
    is_visible = [region.target == "object" for region in regions]
    is_visible += [False] * (len(panel.region_rows) - len(regions))
    return updates | {row: gr.Row(visible=each) for row, each in zip(panel.region_rows, is_visible, strict=True)}


def check_regions(canvas: RegionCanvas, motions: Sequence[str]) -> None:
    """Raise DianjingError for the first region without a click, or without a motion and a path."""
    for number, (region, motion) in enumerate(zip(canvas.regions, motions, strict=False), start=1):
        if region.target == "object" and region.mask is None:
            raise DianjingError("region_without_click", number=number)
        if not region.has_transform and (region.target == "image" or not (motion or "").strip()):
            raise DianjingError("region_without_motion", number=number)
