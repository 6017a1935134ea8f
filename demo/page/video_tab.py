"""The Video tab: a prompt becomes a video of up to 16 seconds, window by window."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.context import PageContext, get_request_language, job_event
from dianjing.demo.page.forecast import connect_video_forecast, make_forecast, to_continuation_arguments
from dianjing.demo.page.metadata_import import connect_metadata_import, make_metadata_file
from dianjing.demo.page.prompt_box import connect_examples, make_examples, make_prompt_box
from dianjing.demo.page.run_panel import RunPanel, connect_cancel, make_run_buttons, make_run_panel, resume_run, run_job
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.settings import (
    SettingsPanel,
    make_guidance_slider,
    make_settings,
    make_steps_slider,
    make_transparent_switch,
    to_request_arguments,
)
from dianjing.demo.page.theme import translations
from dianjing.demo.page.video_model_choice import connect_video_model_choice, make_video_model_choice
from dianjing.demo.page.video_panel import VideoPanel, connect_video_panel, get_video_handlers, make_video_panel
from dianjing.demo.requests import TextToVideoRequest
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import OUTPUT_EXTENSIONS

MAX_SECONDS = 16


@dataclass(frozen=True, kw_only=True)
class VideoTab:
    """Components; the ones of long videos are None for a model that takes no first frame."""

    prompt: gr.Textbox
    video_model: gr.Dropdown
    examples: gr.Dataset
    seconds: gr.Slider
    fps: gr.Number
    transparent: gr.Checkbox
    settings: SettingsPanel
    long_video: gr.Radio | None
    continuation_steps: gr.Slider | None
    continuation_guidance_scale: gr.Slider | None
    metadata_file: gr.File
    run_panel: RunPanel
    video_panel: VideoPanel

    @property
    def continuation(self) -> dict[str, gr.Radio | gr.Slider]:
        """The components of long videos by their parameters."""
        names = ("long_video", "continuation_steps", "continuation_guidance_scale")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def run_outputs(self) -> list[Any]:
        """The outputs of a run."""
        return list(dict.fromkeys([*self.run_panel.outputs, *self.video_panel.history_outputs]))

    @property
    def drafts(self) -> dict[str, Any]:
        """The components whose values the browser keeps, by name."""
        values = {"prompt": self.prompt, "seconds": self.seconds, "fps": self.fps}
        return values | self.settings.drafts | self.continuation


def make_video_tab(context: PageContext) -> VideoTab:
    """Make the components inside a `gr.Tab`, for a server that has the task."""
    defaults = context.capabilities.get_video_defaults(TextToVideoRequest.task)
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            prompt = make_prompt_box("video", label="video_prompt", placeholder="video_placeholder")
            video_model = make_video_model_choice("video", context, TextToVideoRequest.task)
            default_seconds = round(defaults.num_frames / defaults.fps, 1)
            seconds = gr.Slider(0.5, MAX_SECONDS, default_seconds, step=0.5, label=translations("video_seconds"))
            button, cancel = make_run_buttons("video")
            forecast = make_forecast("video")
            examples = make_examples("video", prompt)
        with gr.Column(elem_classes="dj-preview"):
            video_panel = make_video_panel("video", get_history=lambda session: session.videos)
        with gr.Column(elem_classes="dj-more"):
            fps = gr.Number(defaults.fps, label=translations("video_fps"), minimum=1)
            transparent = make_transparent_switch("video", info="transparent_video_info")
            default_params = (defaults.num_inference_steps, defaults.guidance_scale)
            settings = make_settings(
                "video", context, default_params=default_params, has_default_size=not defaults.video_model
            )
            continuation = _make_continuation(context)
            metadata_file = make_metadata_file("video", OUTPUT_EXTENSIONS)
    run_panel = make_run_panel(
        "video", button=button, cancel=cancel, status=video_panel.status, preview=video_panel.preview
    )
    tab = VideoTab(
        prompt=prompt,
        video_model=video_model,
        examples=examples,
        seconds=seconds,
        fps=fps,
        transparent=transparent,
        settings=settings,
        metadata_file=metadata_file,
        run_panel=run_panel,
        video_panel=video_panel,
        **continuation,
    )
    _connect(tab, context)
    connect_video_forecast(forecast, context, video_model, (seconds, fps), settings, tab.continuation)
    connect_video_model_choice(
        video_model,
        context,
        TextToVideoRequest.task,
        settings,
        lengths=(seconds, fps),
        to_lengths=lambda model: (round(model.pipeline.default_num_frames / model.default_fps, 1), model.default_fps),
    )
    return tab


def _make_continuation(context: PageContext) -> dict[str, Any]:
    if not context.capabilities.can_animate:
        return dict.fromkeys(("long_video", "continuation_steps", "continuation_guidance_scale"))
    steps, guidance_scale = context.capabilities.continuation_params
    with gr.Accordion(translations("continuation"), open=False):
        modes = [(translations(f"long_video_{mode}"), mode) for mode in ("autoregressive", "joint")]
        return {
            "long_video": gr.Radio(modes, value="autoregressive", label=translations("long_video")),
            "continuation_steps": make_steps_slider(steps),
            "continuation_guidance_scale": make_guidance_slider(guidance_scale),
        }


def _connect(tab: VideoTab, context: PageContext) -> None:
    def generate(
        request: gr.Request,
        token: str,
        video_model: str,
        prompt: str,
        seconds: float,
        fps: float,
        is_transparent: bool,
        *values: Any,
    ) -> Iterator[Updates]:
        def submit(owner: str) -> Job:
            capabilities, num_settings = context.capabilities, len(tab.settings.inputs)
            arguments = to_request_arguments(values[:num_settings], capabilities)
            if video_model:
                arguments |= {"video_model": video_model, "adapters": None}
            elif not is_transparent:
                arguments |= to_continuation_arguments(list(tab.continuation), values[num_settings:], capabilities)
            arguments |= {"duration_s": seconds, "fps": fps, "is_transparent": bool(is_transparent)}
            return context.queue.submit(TextToVideoRequest(prompt=prompt, **arguments), owner)

        handlers = get_video_handlers(tab.video_panel, context, get_request_language(request))
        yield from run_job(tab.run_panel, context, request, token, submit=submit, handlers=handlers)

    inputs = [context.token, tab.video_model, tab.prompt, tab.seconds, tab.fps, tab.transparent]
    inputs += [*tab.settings.inputs, *tab.continuation.values()]
    gr.on([tab.run_panel.button.click, tab.prompt.submit], generate, inputs, tab.run_outputs, **job_event())
    connect_examples(tab.examples, tab.prompt, lambda then: then(generate, inputs, tab.run_outputs, **job_event()))
    connect_cancel(tab.run_panel, context)
    connect_video_panel(tab.video_panel, context)
    restored = [tab.prompt, tab.transparent, tab.seconds, tab.fps, *tab.settings.inputs, *tab.continuation.values()]
    connect_metadata_import(
        tab.metadata_file, tab.run_panel, context, restore=partial(_restore_settings, tab), outputs=restored
    )


def resume_video_run(tab: VideoTab, context: PageContext, request: gr.Request, token: str) -> Iterator[Updates]:
    """Follow the run that goes on since the page was loaded the last time."""
    handlers = get_video_handlers(tab.video_panel, context, get_request_language(request))
    yield from resume_run(tab.run_panel, context, request, token, handlers=handlers)


def _restore_settings(tab: VideoTab, metadata: GenerationMetadata) -> Updates:
    is_transparent = metadata.settings.get("background") == "transparent"
    updates: Updates = {tab.prompt: metadata.prompt, tab.transparent: is_transparent, **tab.settings.restore(metadata)}
    updates |= {
        component: metadata.settings[name]
        for name, component in tab.continuation.items()
        if metadata.settings.get(name) is not None
    }
    num_frames, fps = (metadata.settings.get(name) for name in ("num_frames", "fps"))
    if isinstance(num_frames, int) and isinstance(fps, int | float) and fps > 0:
        updates |= {tab.seconds: min(num_frames / fps, MAX_SECONDS), tab.fps: fps}
    return updates
