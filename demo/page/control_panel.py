"""The panel of ControlNets: an uploaded image whose lines the generated image follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.metadata_import import get_payload_path
from dianjing.demo.page.status import render_error
from dianjing.demo.page.theme import translations
from dianjing.demo.requests import MAX_CONDITIONING_SCALE
from dianjing.demo.uploads import decode_upload
from dianjing.pipelines.control_maps import detect_canny_edges


@dataclass(frozen=True, kw_only=True)
class ControlPanel:
    """Components; `control_image` holds the PIL image behind `upload`, `to_control_arguments` takes the inputs."""

    upload: gr.Image
    control_image: gr.State
    controlnet: gr.Radio
    conditioning_scale: gr.Slider
    detects_edges: gr.Checkbox

    @property
    def inputs(self) -> list[Any]:
        return [self.control_image, self.controlnet, self.conditioning_scale, self.detects_edges]


def make_control_panel(context: PageContext, *, status: gr.HTML) -> ControlPanel | None:
    """Make the panel in an accordion and connect its upload; None for a server without ControlNets."""
    names = context.capabilities.controlnets
    if not names:
        return None
    with gr.Accordion("ControlNet", open=False, elem_id="image-control"):
        upload = gr.Image(
            label=translations("control_image"),
            sources=["upload", "clipboard"],
            type="filepath",
            format="png",
            buttons=[],
            placeholder=translations("animate_upload"),
            elem_id="image-control-upload",
            height=240,
        )
        panel = ControlPanel(
            upload=upload,
            control_image=gr.State(None),
            controlnet=gr.Radio(list(names), value=names[0], label="ControlNet", visible=len(names) > 1),
            conditioning_scale=gr.Slider(
                0, MAX_CONDITIONING_SCALE, 1.0, step=0.05, label=translations("control_scale"), elem_id="control-scale"
            ),
            detects_edges=gr.Checkbox(
                False, label=translations("control_edges"), info=translations("control_edges_info")
            ),
        )
    _connect(panel, context, status)
    return panel


def _connect(panel: ControlPanel, context: PageContext, status: gr.HTML) -> None:
    def upload(payload: Any, request: gr.Request) -> dict[Any, Any]:
        try:
            with context.uploads.open_path(get_payload_path(payload)) as file:
                return {panel.control_image: decode_upload(file.read_bytes(), context.limits), status: ""}
        except Exception as error:
            language = get_request_language(request)
            return {panel.control_image: None, panel.upload: None, status: render_error(error, language)}

    # without preprocess: Gradio would decode the file before its format and size are checked
    outputs = [panel.control_image, panel.upload, status]
    panel.upload.upload(upload, panel.upload, outputs, preprocess=False, **instant())
    panel.upload.clear(lambda: None, None, panel.control_image, **instant())


def to_control_arguments(values: Sequence[Any]) -> dict[str, Any]:
    """Turn the values of `ControlPanel.inputs` into arguments of a request; none without an image."""
    if not values or values[0] is None:
        return {}
    image, controlnet, scale, detects_edges = values
    assert isinstance(image, Image.Image)
    return {
        "control_image": detect_canny_edges(image) if detects_edges else image,
        "controlnet": controlnet,
        "controlnet_conditioning_scale": scale,
    }
