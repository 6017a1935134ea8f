"""The forecast of a tab: before a run, what its settings mean for its duration and its quality."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.settings import SettingsPanel, float_to_int, to_forecast_arguments
from dianjing.demo.page.status import render_hint
from dianjing.demo.requests import AnyRequest, ImageToVideoRequest, TextToImageRequest, TextToVideoRequest
from dianjing.errors import DianjingError, Language, Message
from dianjing.pipelines.cost_model import LONG_RUN_S, describe_duration
from dianjing.pipelines.segmentation.base import Point, Region

PLACEHOLDER_PROMPT = "a prompt"  # the duration depends neither on it nor on what moves


def make_forecast(name: str) -> gr.HTML:
    return gr.HTML(elem_id=f"{name}-forecast", elem_classes=["dj-status", "dj-forecast"])


def render_forecast(request: AnyRequest, context: PageContext, language: Language) -> str:
    """Warnings about a request with defaults filled in, and its predicted duration if that is long, as HTML."""
    seconds = context.engine.predict_s(request)
    lines = request.list_warnings(context.capabilities)
    if seconds > LONG_RUN_S:
        name = "run_takes_long_estimate" if context.engine.is_estimate(request) else "run_takes_long"
        lines.append(Message(name, duration=describe_duration(seconds)))
    return "".join(render_hint(line.render(language)) for line in lines)


def connect_image_forecast(forecast: gr.HTML, context: PageContext, num_images: Any, settings: SettingsPanel) -> None:
    """Show how long images with these settings take."""

    def make_request(num_images: Any, *values: Any) -> TextToImageRequest:
        arguments = to_forecast_arguments(values, context.capabilities)
        return TextToImageRequest(prompt=PLACEHOLDER_PROMPT, num_images=float_to_int(num_images), **arguments)

    _connect_forecast(forecast, context, [num_images, *settings.forecast_inputs], make_request)


def connect_video_forecast(
    forecast: gr.HTML,
    context: PageContext,
    video_model: Any,
    lengths: tuple[Any, Any],
    settings: SettingsPanel,
    continuation: dict[str, Any],
) -> None:
    """Show how long a video with these settings takes; `lengths` are the components of seconds and fps."""
    num_settings = len(settings.forecast_inputs)

    def make_request(video_model: str, seconds: float, fps: float, *values: Any) -> TextToVideoRequest:
        arguments = to_forecast_arguments(values[:num_settings], context.capabilities)
        if video_model:
            arguments["video_model"] = video_model
        else:
            arguments |= to_continuation_arguments(list(continuation), values[num_settings:], context.capabilities)
        return TextToVideoRequest(prompt=PLACEHOLDER_PROMPT, duration_s=seconds, fps=fps, **arguments)

    inputs = [video_model, *lengths, *settings.forecast_inputs, *continuation.values()]
    _connect_forecast(forecast, context, inputs, make_request)


def to_continuation_arguments(
    names: Sequence[str], values: Sequence[Any], capabilities: ModelCapabilities
) -> dict[str, Any]:
    """Turn the values of the components of long videos into arguments of a request."""
    arguments = dict(zip(names, map(float_to_int, values), strict=True))
    if arguments.get("long_video") == "joint" and not capabilities.has_flow_field:
        arguments |= {"continuation_steps": None, "continuation_guidance_scale": None}
    return arguments


def connect_animation_forecast(
    forecast: gr.HTML, context: PageContext, video_model: Any, num_frames: Any, settings: SettingsPanel
) -> None:
    """Show how long an animation with these settings takes."""
    side_px = context.capabilities.default_size_px
    image = Image.new("RGB", (side_px, side_px))
    region = Region(motion=PLACEHOLDER_PROMPT, points=[Point(x=0, y=0)])

    def make_request(video_model: str, num_frames: Any, *values: Any) -> ImageToVideoRequest:
        arguments = {"num_frames": float_to_int(num_frames), "video_model": video_model or None}
        arguments |= to_forecast_arguments(values, context.capabilities)
        return ImageToVideoRequest(image=image, regions=[region], **arguments)

    _connect_forecast(forecast, context, [video_model, num_frames, *settings.forecast_inputs], make_request)


def _connect_forecast(
    forecast: gr.HTML, context: PageContext, inputs: Sequence[Any], make_request: Callable[..., AnyRequest]
) -> None:
    """Show the forecast when the page loads and whenever one of `inputs` changes."""

    def update(request: gr.Request, *values: Any) -> str:
        try:
            prepared = make_request(*values).with_defaults(context.capabilities)
        except DianjingError:
            return ""  # the run says it
        return render_forecast(prepared, context, get_request_language(request))

    # without triggers: the loading of the page and the changes of all inputs
    gr.on(None, update, inputs, forecast, **instant(trigger_mode="always_last"))
