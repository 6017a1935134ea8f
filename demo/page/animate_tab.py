"""The Animate tab: clicks on an image select regions, a phrase for each region gives its motion."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import format_status
from dianjing.demo.jobs import Job
from dianjing.demo.page.canvas import RegionCanvas
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event, show_while
from dianjing.demo.page.forecast import connect_animation_forecast, make_forecast
from dianjing.demo.page.history_panel import HistoryPanel
from dianjing.demo.page.metadata_import import connect_metadata_import, make_metadata_file
from dianjing.demo.page.prompt_box import make_prompt_box
from dianjing.demo.page.region_events import connect_region_panel, get_mask_event
from dianjing.demo.page.region_import import parse_regions, select_regions
from dianjing.demo.page.region_panel import RegionPanel, check_regions, make_region_panel, render_canvas
from dianjing.demo.page.run_panel import RunPanel, connect_cancel, make_run_buttons, make_run_panel, resume_run, run_job
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.sessions import find_history_item
from dianjing.demo.page.settings import (
    SettingsPanel,
    float_to_int,
    make_settings,
    make_transparent_switch,
    to_request_arguments,
)
from dianjing.demo.page.status import render_hint
from dianjing.demo.page.theme import translations
from dianjing.demo.page.video_model_choice import connect_video_model_choice, make_video_model_choice
from dianjing.demo.page.video_panel import VideoPanel, connect_video_panel, get_video_handlers, make_video_panel
from dianjing.demo.requests import ImageToVideoRequest
from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import get_input_image_metadata, open_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import OUTPUT_EXTENSIONS

TAB_ID = "animate"


@dataclass(frozen=True, kw_only=True)
class AnimateTab:
    """Components."""

    regions: RegionPanel
    prompt: gr.Textbox
    video_model: gr.Dropdown
    strict_background: gr.Checkbox
    transparent: gr.Checkbox
    num_frames: gr.Slider
    settings: SettingsPanel
    metadata_file: gr.File
    run_panel: RunPanel
    video_panel: VideoPanel

    @property
    def run_outputs(self) -> list[Any]:
        """The outputs of a run."""
        return list(dict.fromkeys([*self.run_panel.outputs, *self.video_panel.history_outputs]))

    @property
    def drafts(self) -> dict[str, Any]:
        """The components whose values the browser keeps, by name."""
        motions = {f"motion_{number}": motion for number, motion in enumerate(self.regions.motions, start=1)}
        strengths = {f"strength_{number}": each for number, each in enumerate(self.regions.strengths, start=1)}
        values = {"prompt": self.prompt, "num_frames": self.num_frames}
        return values | motions | strengths | self.settings.drafts


def make_animate_tab(context: PageContext) -> AnimateTab:
    """Make the components inside a `gr.Tab`, for a server that has the task."""
    capabilities = context.capabilities
    defaults = capabilities.get_video_defaults(ImageToVideoRequest.task)
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes=["dj-inputs", "dj-animate"]):
            regions = make_region_panel(capabilities.max_regions)
            button, cancel = make_run_buttons("animate")
            forecast = make_forecast("animate")
        with gr.Column(elem_classes="dj-preview"):
            video_panel = make_video_panel("animate", get_history=lambda session: session.animations)
        with gr.Column(elem_classes="dj-more"):
            prompt = make_prompt_box("animate", label="animate_prompt")
            video_model = make_video_model_choice("animate", context, ImageToVideoRequest.task)
            strict_background = gr.Checkbox(
                True,
                label=translations("strict_background"),
                info=translations("strict_background_info"),
                elem_id="animate-strict",
                visible=bool(defaults.video_model),
            )
            transparent = make_transparent_switch("animate", info="transparent_animation_info")
            default, label = defaults.num_frames, translations("animate_frames")
            longest = [model.pipeline.default_num_frames for model in capabilities.video_models]
            num_frames = gr.Slider(2, max(2 * default, *longest, 0), default, step=1, label=label)
            default_params = (defaults.num_inference_steps, defaults.guidance_scale)
            settings = make_settings("animate", context, default_params=default_params, has_default_size=False)
            metadata_file = make_metadata_file("animate", OUTPUT_EXTENSIONS)
    run_panel = make_run_panel(
        "animate", button=button, cancel=cancel, status=video_panel.status, preview=video_panel.preview
    )
    tab = AnimateTab(
        regions=regions,
        prompt=prompt,
        video_model=video_model,
        strict_background=strict_background,
        transparent=transparent,
        num_frames=num_frames,
        settings=settings,
        metadata_file=metadata_file,
        run_panel=run_panel,
        video_panel=video_panel,
    )
    connect_region_panel(regions, context, status=run_panel.status, prompt=prompt)
    _connect_run(tab, context)
    _connect_metadata_import(tab, context)
    connect_animation_forecast(forecast, context, video_model, num_frames, settings)
    connect_video_model_choice(
        video_model,
        context,
        ImageToVideoRequest.task,
        settings,
        lengths=(num_frames,),
        to_lengths=lambda model: (model.pipeline.default_num_frames,),
    )
    show_while([strict_background], video_model, "Boolean(value)")
    return tab


def _connect_run(tab: AnimateTab, context: PageContext) -> None:
    max_regions = len(tab.regions.region_rows)

    def generate(
        request: gr.Request,
        token: str,
        canvas: RegionCanvas | None,
        prompt: str,
        num_frames: Any,
        video_model: str,
        strict_background: bool,
        is_transparent: bool,
        *values: Any,
    ) -> Iterator[Updates]:
        motions, strengths, settings = (
            values[:max_regions],
            values[max_regions : 2 * max_regions],
            values[2 * max_regions :],
        )

        def submit(owner: str) -> Job:
            if canvas is None:
                raise DianjingError("no_image_to_animate")
            check_regions(canvas, motions)
            arguments = to_request_arguments(settings, context.capabilities)
            if video_model:
                arguments |= {"video_model": video_model, "adapters": None}
            animation = ImageToVideoRequest(
                image=canvas.image,
                regions=canvas.to_regions(motions, strengths),
                prompt=prompt or "",
                num_frames=float_to_int(num_frames),
                strict_background=bool(strict_background) or not video_model,
                is_transparent=bool(is_transparent),
                **arguments,
            )
            return context.queue.submit(animation, owner)

        handlers = get_video_handlers(tab.video_panel, context, get_request_language(request))
        yield from run_job(tab.run_panel, context, request, token, submit=submit, handlers=handlers)

    inputs = [context.token, tab.regions.canvas, tab.prompt, tab.num_frames, tab.video_model, tab.strict_background]
    inputs += [tab.transparent, *tab.regions.motions, *tab.regions.strengths, *tab.settings.inputs]
    # behind the clicks that are still being worked on, so that their masks are among the inputs
    starts = [tab.run_panel.button.click, tab.prompt.submit]
    clicks_done = gr.on(starts, lambda: None, **get_mask_event(trigger_mode="once"))
    clicks_done.then(generate, inputs, tab.run_outputs, **job_event())
    connect_cancel(tab.run_panel, context)
    connect_video_panel(tab.video_panel, context)


def resume_animate_run(tab: AnimateTab, context: PageContext, request: gr.Request, token: str) -> Iterator[Updates]:
    """Follow the run that goes on since the page was loaded the last time."""
    handlers = get_video_handlers(tab.video_panel, context, get_request_language(request))
    yield from resume_run(tab.run_panel, context, request, token, handlers=handlers)


def _connect_metadata_import(tab: AnimateTab, context: PageContext) -> None:
    def restore(metadata: GenerationMetadata, token: str, canvas: RegionCanvas | None, request: gr.Request) -> Updates:
        regions = parse_regions(metadata)[: len(tab.regions.region_rows)]
        updates: Updates = {tab.prompt: metadata.prompt, **tab.settings.restore(metadata)}
        updates[tab.transparent] = metadata.settings.get("background") == "transparent"
        num_frames = metadata.settings.get("num_frames")
        if isinstance(num_frames, int):
            updates[tab.num_frames] = min(max(num_frames, tab.num_frames.minimum), tab.num_frames.maximum)
        for region, motion_box, slider in zip(regions, tab.regions.motions, tab.regions.strengths, strict=False):
            updates |= {motion_box: region.motion, slider: region.strength}
        if canvas is None or get_input_image_metadata(canvas.image)["pixels_sha256"] != _get_image_hash(metadata):
            text = format_status("settings_restored_without_image", get_request_language(request))
            return updates | {tab.run_panel.status: render_hint(text)}
        canvas = select_regions(context, canvas.image, regions)
        context.get_session(token, request).canvas = canvas
        return updates | render_canvas(tab.regions, canvas)

    restored = [
        tab.prompt,
        tab.transparent,
        tab.num_frames,
        *tab.settings.inputs,
        *tab.regions.motions,
        *tab.regions.strengths,
    ]
    connect_metadata_import(
        tab.metadata_file,
        tab.run_panel,
        context,
        restore=restore,
        inputs=[context.token, tab.regions.canvas],
        outputs=[*restored, *tab.regions.canvas_outputs],
    )


def _get_image_hash(metadata: GenerationMetadata) -> object:
    image = metadata.settings.get("image")
    return image.get("pixels_sha256") if isinstance(image, Mapping) else None


def connect_send_to_animate(
    button: gr.Button, history: HistoryPanel, tab: AnimateTab, context: PageContext, *, tabs: gr.Tabs
) -> None:
    """Let a button of another tab open its image in this one."""

    def send(request: gr.Request, token: str, file: str | None) -> Updates:
        session = context.get_session(token, request)
        item = find_history_item(history.get_history(session), file)
        if item is None:
            return {tabs: gr.skip()}
        session.canvas = RegionCanvas(image=open_image(item.files[0]))
        updates = {tabs: gr.Tabs(selected=TAB_ID), tab.prompt: item.metadata.prompt, tab.run_panel.status: ""}
        return updates | render_canvas(tab.regions, session.canvas)

    outputs = [tabs, tab.prompt, tab.run_panel.status, *tab.regions.canvas_outputs]
    button.click(send, [context.token, history.selected_file], outputs, **instant())
