"""The settings that three tabs have in common, folded away, and how they come back from a file."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.page.context import PageContext
from dianjing.demo.page.theme import translations
from dianjing.pipelines.media.metadata import GenerationMetadata

MAX_SLIDER_STEPS, MAX_SLIDER_GUIDANCE = 100, 15


@dataclass(frozen=True, kw_only=True)
class SettingsPanel:
    """Components; `inputs` go to an event, whose function gives them to `to_arguments`."""

    negative_prompt: gr.Textbox
    width: gr.Number
    height: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Textbox
    is_seed_fixed: gr.Checkbox
    visible_label: gr.Checkbox

    @property
    def inputs(self) -> list[Any]:
        return list(vars(self).values())

    def restore(self, metadata: GenerationMetadata) -> dict[Any, Any]:
        """Updates for what a record holds; the seed is kept, so that the same picture comes."""
        said = metadata.settings
        found: dict[Any, Any] = {self.seed: str(metadata.seed), self.is_seed_fixed: True}
        found[self.negative_prompt] = str(said.get("negative_prompt") or "")
        numbers = {
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
        }
        for name, component in numbers.items():
            value = said.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[component] = value
        return found


def make_settings(name: str, context: PageContext, *, default_params: tuple[int, float] | None = None) -> SettingsPanel:
    """The seed stands open, the rest is folded away. usual: steps and guidance, None as of a picture."""
    abilities = context.capabilities
    usual_steps, usual_guidance = default_params or (abilities.num_inference_steps, abilities.guidance_scale)
    with gr.Row(elem_classes="dj-seed"):
        seed = gr.Textbox(label=translations("seed"), max_lines=1, elem_id=f"{name}-seed", scale=3, min_width=120)
        dice = gr.Button("⚄", elem_classes="dj-dice", scale=0, min_width=44)
        keep_seed = gr.Checkbox(False, label=translations("keep_seed"), scale=2, min_width=110, container=False)
    with gr.Accordion(translations("advanced"), open=False):
        negative_prompt = gr.Textbox(label=translations("negative_prompt"), max_lines=2)
        with gr.Row():
            side = {"precision": 0, "step": abilities.size_multiple_px, "min_width": 100}
            width = gr.Number(abilities.default_size_px, label=translations("width"), **side)
            height = gr.Number(abilities.default_size_px, label=translations("height"), **side)
        steps = gr.Slider(
            1,
            max(MAX_SLIDER_STEPS, usual_steps),
            usual_steps,
            step=1,
            label=translations("steps"),
            info=translations("steps_info"),
        )
        guidance = gr.Slider(
            0,
            MAX_SLIDER_GUIDANCE,
            usual_guidance,
            step=0.5,
            label=translations("guidance"),
            info=translations("guidance_info"),
        )
        label = make_label_switch(context)
    dice.click(randomize_seed, None, [seed, keep_seed], queue=False, api_visibility="private", show_progress="hidden")
    return SettingsPanel(
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        seed=seed,
        is_seed_fixed=keep_seed,
        visible_label=label,
    )


def make_label_switch(context: PageContext) -> gr.Checkbox:
    """At first as the server's marks are."""
    is_on = context.queue.results.labelling.has_visible_label
    return gr.Checkbox(is_on, label=translations("visible_label"), info=translations("visible_label_info"))


def randomize_seed() -> tuple[str, bool]:
    """Another seed, that the next pictures are drawn from."""
    return str(secrets.randbelow(2**32)), True


def to_request_arguments(values: Sequence[Any]) -> dict[str, Any]:
    """Values of `Settings.inputs` as arguments of a request; an empty field is left to the model.

    Raises: ValueError for a seed that is no number.
    """
    negative_prompt, width, height, steps, guidance, seed, keep_seed, visible_label = values
    return {
        "negative_prompt": negative_prompt or None,
        "width": float_to_int(width),
        "height": float_to_int(height),
        "num_inference_steps": float_to_int(steps),
        "guidance_scale": guidance,
        "seed": _parse_seed(seed) if keep_seed else None,
        "visible_label": bool(visible_label),
    }


def float_to_int(value: Any) -> Any:
    """JSON has one kind of number: 30.0 becomes 30; what is none stays, and is refused by name."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse_seed(value: Any) -> int | None:
    if value is None or not str(value).strip():
        return None
    try:
        return int(str(value).strip())
    except ValueError:
        raise ValueError(f"seed is {ascii(value)[:60]}; give a whole number, or leave it empty") from None
