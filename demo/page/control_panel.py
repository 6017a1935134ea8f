"""The panels of control images, one for each ControlNet of the server, and of pictures as prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.metadata_import import get_payload_path
from dianjing.demo.page.status import render_error
from dianjing.demo.page.theme import translations
from dianjing.demo.uploads import decode_upload
from dianjing.pipelines.control_maps import infer_preprocessor
from dianjing.pipelines.image_conditions import MAX_CONDITIONING_SCALE, MAX_PICTURE_SCALE, ControlInput, PictureInput

NUM_PICTURES = 2
NO_PREPROCESSOR = "–"


@dataclass(frozen=True, kw_only=True)
class ImageUpload:
    """An upload; `image` is the state that holds its PIL image."""

    upload: gr.Image
    image: gr.State


@dataclass(frozen=True, kw_only=True)
class ControlPanel:
    """Components; `to_condition_arguments` takes the values of `inputs`.

    controlnets: names, each with the five inputs of its control image. Two inputs of each picture follow.
    """

    controlnets: tuple[str, ...]
    inputs: list[Any]


def make_control_panel(tab_name: str, context: PageContext, *, status: gr.HTML) -> ControlPanel | None:
    """Make the panels in accordions and connect their uploads; None for a server without ControlNets and pictures."""
    capabilities = context.capabilities
    inputs: list[Any] = []
    uploads: list[ImageUpload] = []
    if capabilities.controlnets:
        with gr.Accordion("ControlNet", open=False, elem_id=f"{tab_name}-control"):
            for name in capabilities.controlnets:
                upload, others = _make_control_inputs(tab_name, name, context)
                uploads.append(upload)
                inputs += [upload.image, *others]
    if capabilities.takes_pictures:
        with gr.Accordion("IP-Adapter", open=False, elem_id=f"{tab_name}-pictures"):
            for number in range(1, NUM_PICTURES + 1):
                upload = _make_upload(translations("picture_prompt"), elem_id=f"{tab_name}-picture-{number}-upload")
                scale = gr.Slider(0, MAX_PICTURE_SCALE, 1.0, step=0.05, label=translations("picture_scale"))
                uploads.append(upload)
                inputs += [upload.image, scale]
    for upload in uploads:
        _connect(upload, context, status)
    return ControlPanel(controlnets=capabilities.controlnets, inputs=inputs) if inputs else None


def _make_control_inputs(tab_name: str, name: str, context: PageContext) -> tuple[ImageUpload, list[Any]]:
    """The upload of a ControlNet, and its preprocessor, strength, start and end."""
    allowed = context.capabilities.preprocessors
    inferred = infer_preprocessor(name)
    prefix = f"{tab_name}-control-{name}"
    gr.Markdown(f"**{name}**")
    upload = _make_upload(translations("control_image"), elem_id=f"{prefix}-upload")
    preprocessor = gr.Dropdown(
        [NO_PREPROCESSOR, *allowed],
        value=inferred if inferred in allowed else NO_PREPROCESSOR,
        label=translations("control_preprocessor"),
        info=translations("control_preprocessor_info"),
        elem_id=f"{prefix}-preprocessor",
    )
    scale = gr.Slider(
        0, MAX_CONDITIONING_SCALE, 1.0, step=0.05, label=translations("control_scale"), elem_id=f"{prefix}-scale"
    )
    start = gr.Slider(0, 1, 0.0, step=0.05, label=translations("control_start"), elem_id=f"{prefix}-start")
    end = gr.Slider(0, 1, 1.0, step=0.05, label=translations("control_end"), elem_id=f"{prefix}-end")
    return upload, [preprocessor, scale, start, end]


def _make_upload(label: Any, *, elem_id: str) -> ImageUpload:
    upload = gr.Image(
        label=label,
        sources=["upload", "clipboard"],
        type="filepath",
        format="png",
        buttons=[],
        placeholder=translations("animate_upload"),
        elem_id=elem_id,
        height=240,
    )
    return ImageUpload(upload=upload, image=gr.State(None))


def _connect(panel: ImageUpload, context: PageContext, status: gr.HTML) -> None:
    def upload(payload: Any, request: gr.Request) -> dict[Any, Any]:
        try:
            with context.uploads.open_path(get_payload_path(payload)) as file:
                return {panel.image: decode_upload(file.read_bytes(), context.limits), status: ""}
        except Exception as error:
            language = get_request_language(request)
            return {panel.image: None, panel.upload: None, status: render_error(error, language)}

    # without preprocess: Gradio would decode the file before its format and size are checked
    outputs = [panel.image, panel.upload, status]
    panel.upload.upload(upload, panel.upload, outputs, preprocess=False, **instant())
    panel.upload.clear(lambda: None, None, panel.image, **instant())


def to_condition_arguments(values: Sequence[Any], controlnets: Sequence[str]) -> dict[str, Any]:
    """Turn the values of `ControlPanel.inputs` into arguments of a request; an input without an image is left out."""
    rest = list(values)
    controls, pictures = [], []
    for name in controlnets:
        image, preprocessor, scale, start, end = (rest.pop(0) for _ in range(5))
        if image is not None:
            controls.append(
                ControlInput(
                    image=image,
                    controlnet=name,
                    preprocessor=None if preprocessor == NO_PREPROCESSOR else preprocessor,
                    conditioning_scale=scale,
                    guidance_start=start,
                    guidance_end=end,
                )
            )
    while rest:
        image, scale = rest.pop(0), rest.pop(0)
        if image is not None:
            pictures.append(PictureInput(image=image, scale=scale))
    return {"controls": controls, "pictures": pictures}
