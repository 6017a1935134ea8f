"""The choice of a published video model in a tab, whose defaults it fills in."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dianjing.demo.page.context import PageContext, instant
from dianjing.demo.page.settings import SettingsPanel
from dianjing.demo.page.theme import translations
from dianjing.pipelines.video.published_models import PublishedModel, VideoTask


def make_video_model_choice(name: str, context: PageContext, task: VideoTask) -> gr.Dropdown:
    """Make the choice among the server's own model, the value "", if it has the task, and its published models."""
    capabilities = context.capabilities
    names = [model.name for model in capabilities.list_video_models(task)]
    own = [(capabilities.model, "")] if capabilities.can_do(task) else []
    return gr.Dropdown(
        [*own, *((each, each) for each in names)],
        value=capabilities.get_video_defaults(task).video_model,
        label=translations("video_model"),
        elem_id=f"{name}-model",
        visible=bool(names),
    )


def connect_video_model_choice(
    choice: gr.Dropdown,
    context: PageContext,
    task: VideoTask,
    settings: SettingsPanel,
    *,
    lengths: Sequence[Any],
    to_lengths: Any,
) -> None:
    """Let the choice fill in size, steps, guidance and length; the size of a published model is its own at first.

    lengths: components of the tab. to_lengths: from a published model to their values.
    """
    components = [settings.width, settings.height, settings.steps, settings.guidance, *lengths]
    own = [component.value for component in components]

    def fill_in(name: str) -> list[Any]:
        if not name:
            return own
        model: PublishedModel = context.capabilities.find_video_model(name, task)
        pipeline = model.pipeline
        return [None, None, pipeline.default_num_inference_steps, pipeline.default_guidance_scale, *to_lengths(model)]

    choice.input(fill_in, choice, components, **instant())
