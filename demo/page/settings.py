"""The settings that three tabs have in common, folded away, and how they come back from a file."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.page.look import text
from dianjing.demo.page.shared import Shared
from dianjing.pipelines.media import Record

MOST_STEPS, MOST_GUIDANCE = 100, 15


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Components; `inputs` go to an event, whose function gives them to `to_arguments`."""

    negative_prompt: gr.Textbox
    width: gr.Number
    height: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    visible_label: gr.Checkbox

    @property
    def inputs(self) -> list[Any]:
        return list(vars(self).values())

    def restored(self, record: Record) -> dict[Any, Any]:
        """Updates for what a record holds; the seed is kept, so that the same picture comes."""
        said = record.settings
        found: dict[Any, Any] = {self.seed: str(record.seed), self.keep_seed: True}
        found[self.negative_prompt] = str(said.get("negative_prompt") or "")
        numbers = {
            "width": self.width, "height": self.height, "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
        }  # fmt: skip
        for name, component in numbers.items():
            value = said.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[component] = value
        return found


def make_settings(name: str, shared: Shared, *, usual: tuple[int, float] | None = None) -> Settings:
    """The seed stands open, the rest is folded away. usual: steps and guidance, None as of a picture."""
    abilities = shared.abilities
    usual_steps, usual_guidance = usual or (abilities.num_inference_steps, abilities.guidance_scale)
    with gr.Row(elem_classes="dj-seed"):
        seed = gr.Textbox(label=text("seed"), max_lines=1, elem_id=f"{name}-seed", scale=3, min_width=120)
        dice = gr.Button("⚄", elem_classes="dj-dice", scale=0, min_width=44)
        keep_seed = gr.Checkbox(False, label=text("keep_seed"), scale=2, min_width=110, container=False)
    with gr.Accordion(text("advanced"), open=False):
        negative_prompt = gr.Textbox(label=text("negative_prompt"), max_lines=2)
        with gr.Row():
            side = {"precision": 0, "step": abilities.size_multiple_px, "min_width": 100}
            width = gr.Number(abilities.side_px, label=text("width"), **side)
            height = gr.Number(abilities.side_px, label=text("height"), **side)
        steps = gr.Slider(
            1, max(MOST_STEPS, usual_steps), usual_steps, step=1,
            label=text("steps"), info=text("steps_info"),
        )  # fmt: skip
        guidance = gr.Slider(
            0, MOST_GUIDANCE, usual_guidance, step=0.5, label=text("guidance"), info=text("guidance_info")
        )
        label = make_label_switch(shared)
    dice.click(roll, None, [seed, keep_seed], queue=False, api_visibility="private", show_progress="hidden")
    return Settings(
        negative_prompt=negative_prompt, width=width, height=height, steps=steps, guidance=guidance,
        seed=seed, keep_seed=keep_seed, visible_label=label,
    )  # fmt: skip


def make_label_switch(shared: Shared) -> gr.Checkbox:
    """At first as the server's marks are."""
    is_on = shared.worker.files.marks.visible
    return gr.Checkbox(is_on, label=text("visible_label"), info=text("visible_label_info"))


def roll() -> tuple[str, bool]:
    """Another seed, that the next pictures are drawn from."""
    return str(secrets.randbelow(2**32)), True


def to_arguments(values: Sequence[Any]) -> dict[str, Any]:
    """Values of `Settings.inputs` as arguments of a request; an empty field is left to the model.

    Raises: ValueError for a seed that is no number.
    """
    negative_prompt, width, height, steps, guidance, seed, keep_seed, visible_label = values
    return {
        "negative_prompt": negative_prompt or None,
        "width": whole(width),
        "height": whole(height),
        "num_inference_steps": whole(steps),
        "guidance_scale": guidance,
        "seed": _seed(seed) if keep_seed else None,
        "visible_label": bool(visible_label),
    }


def whole(value: Any) -> Any:
    """JSON has one kind of number: 30.0 becomes 30; what is none stays, and is refused by name."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _seed(value: Any) -> int | None:
    if value is None or not str(value).strip():
        return None
    try:
        return int(str(value).strip())
    except ValueError:
        raise ValueError(f"seed is {ascii(value)[:60]}; give a whole number, or leave it empty") from None
