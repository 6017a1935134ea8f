"""The settings that three tabs share, and how metadata of a file restores them."""

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.page.adapter_controls import make_adapter_sliders, restore_adapters, to_adapters
from dianjing.demo.page.context import PageContext, instant, show_while
from dianjing.demo.page.theme import translations
from dianjing.errors import DianjingError
from dianjing.pipelines.guiders import GUIDANCE_MODES
from dianjing.pipelines.media.metadata import GenerationMetadata

SIZE_OF_IMAGE = "image"  # the choice of a size that follows an image
MAX_SLIDER_STEPS, MAX_SLIDER_GUIDANCE = 100, 15
DEFAULT_STEPS, FEW_STEPS, OWN_STEPS = STEPS_CHOICES = ("default", "few", "own")


@dataclass(frozen=True, kw_only=True)
class SettingsPanel:
    """Components; the values of `inputs` go to `to_request_arguments`.

    `adapters` are the sliders of the server's adapters, see `make_adapter_sliders`. `steps_choice`: of a model with a
    default adapter, one of STEPS_CHOICES; steps and guidance count where it is the last. None: they always do.
    """

    capabilities: ModelCapabilities
    steps_choice: gr.Radio | None
    negative_prompt: gr.Textbox
    width: gr.Number
    height: gr.Number
    steps: gr.Slider
    guidance: gr.Slider
    guidance_mode: gr.Dropdown
    scheduler: gr.Dropdown
    seed: gr.Textbox
    visible_label: gr.Checkbox
    adapters: tuple[gr.Slider, ...]

    @property
    def inputs(self) -> list[Any]:
        return list(self.drafts.values())

    @property
    def forecast_inputs(self) -> list[Any]:
        """The components that change the duration of a run; their values go to `to_forecast_arguments`."""
        choice = [] if self.steps_choice is None else [self.steps_choice]
        return [self.width, self.height, self.steps, self.guidance, *self.adapters, *choice]

    @property
    def drafts(self) -> dict[str, Any]:
        """The components whose values the browser keeps, by name."""
        names = ["negative_prompt", "width", "height", "steps", "guidance", "guidance_mode", "scheduler", "seed"]
        names += ["visible_label"]
        adapters = {
            f"adapter_{info.name}": each for info, each in zip(self.capabilities.adapters, self.adapters, strict=True)
        }
        choice = {} if self.steps_choice is None else {"steps_choice": self.steps_choice}
        return {name: getattr(self, name) for name in names} | adapters | choice

    def restore(self, metadata: GenerationMetadata) -> dict[Any, Any]:
        """Updates that set the components to a file's metadata."""
        updates: dict[Any, Any] = {
            self.seed: str(metadata.seed),
            self.negative_prompt: str(metadata.settings.get("negative_prompt") or ""),
        }
        numbers = {
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
        }
        for name, component in numbers.items():
            value = metadata.settings.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                updates[component] = value
        scheduler, own = metadata.settings.get("scheduler"), type(self.capabilities.scheduler).__name__
        updates[self.guidance_mode] = str(metadata.settings.get("guider") or "")
        updates[self.scheduler] = "" if scheduler == own else str(scheduler or "")
        if self.steps_choice is not None:
            has_few_steps = "default_adapter" in metadata.settings
            updates[self.steps_choice] = FEW_STEPS if has_few_steps else OWN_STEPS
            if has_few_steps:  # numbers and scheduler are the adapter's, and no choice of the user
                updates |= {self.steps: gr.skip(), self.guidance: gr.skip(), self.scheduler: ""}
        return updates | restore_adapters(metadata.settings, self.adapters, self.capabilities)


def make_settings(
    name: str,
    context: PageContext,
    *,
    default_params: tuple[int, float] | None = None,
    has_default_size: bool = True,
    has_default_adapter: bool = False,
) -> SettingsPanel:
    """Make the settings of a tab: the seed, and the others in an accordion.

    `default_params` are steps and guidance scale; None: the model's for images. Without a default size, width and
    height are empty at first, and follow an image. has_default_adapter: the tab draws with the model's, if it has one.
    """
    capabilities = context.capabilities
    steps, guidance_scale = default_params or (capabilities.num_inference_steps, capabilities.guidance_scale)
    with gr.Row(elem_classes="dj-seed"):
        seed_box = gr.Textbox(
            label=translations("seed"),
            placeholder=translations("seed_placeholder"),
            max_lines=1,
            elem_id=f"{name}-seed",
            scale=3,
            min_width=120,
        )
        dice = gr.Button("⚄", elem_id=f"{name}-dice", elem_classes="dj-dice", scale=0, min_width=44)
    with gr.Accordion(translations("advanced"), open=False):
        negative_prompt = gr.Textbox(label=translations("negative_prompt"), max_lines=2)
        size_choice = _make_size_choice(name, capabilities, has_default_size=has_default_size)
        with gr.Row():
            side = {"precision": 0, "step": capabilities.size_multiple_px, "min_width": 100}
            default_px = capabilities.default_size_px if has_default_size else None
            width = gr.Number(default_px, label=translations("width"), **side)
            height = gr.Number(default_px, label=translations("height"), **side)
        steps_choice = None
        if has_default_adapter and capabilities.default_sampling is not None:
            steps_choice = _make_steps_choice(name)
        steps_slider, guidance_slider = make_steps_slider(steps), make_guidance_slider(guidance_scale)
        guidance_mode = _make_choice("guidance_mode", GUIDANCE_MODES)
        scheduler = _make_choice("scheduler", capabilities.fitting_schedulers)
        adapters = make_adapter_sliders(name, context)
        visible_label = make_label_switch(context)
    _connect_size_choice(size_choice, width, height, capabilities)
    dice.click(randomize_seed, None, seed_box, **instant())
    if steps_choice is not None:
        _connect_steps_choice(steps_choice, steps_slider, guidance_slider)
    return SettingsPanel(
        capabilities=capabilities,
        steps_choice=steps_choice,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps_slider,
        guidance=guidance_slider,
        guidance_mode=guidance_mode,
        scheduler=scheduler,
        seed=seed_box,
        visible_label=visible_label,
        adapters=adapters,
    )


def _make_size_choice(name: str, capabilities: ModelCapabilities, *, has_default_size: bool) -> gr.Radio:
    """Make the choice of the sizes that the model was trained for, after that of an image without a default size."""
    choices = [(f"{width} × {height}", f"{width}x{height}") for width, height in capabilities.sizes]
    choices = choices if has_default_size else [(translations("size_of_image"), SIZE_OF_IMAGE), *choices]
    label, info = translations("size"), translations("size_info")
    return gr.Radio(choices, value=choices[0][1], label=label, info=info, elem_id=f"{name}-size")


def _connect_size_choice(
    size_choice: gr.Radio, width: gr.Number, height: gr.Number, capabilities: ModelCapabilities
) -> None:
    """Let the choice fill in both sides, and show no choice while they are of another size."""

    def choose(size: str) -> tuple[int | None, int | None]:
        if size == SIZE_OF_IMAGE:
            return None, None
        first, second = size.split("x")
        return int(first), int(second)

    sizes = json.dumps([f"{width}x{height}" for width, height in capabilities.sizes])
    follow = (  # in the browser: see `show_while`
        f"(width, height) => width == null && height == null ? {json.dumps(SIZE_OF_IMAGE)}"
        f" : {sizes}.find((size) => size === `${{width}}x${{height}}`) ?? null"
    )
    size_choice.input(choose, size_choice, [width, height], **instant())
    gr.on([width.change, height.change], None, [width, height], size_choice, js=follow, **instant())


def _make_steps_choice(name: str) -> gr.Radio:
    """Make the choice between the default, the model's adapter for few steps, and the steps and guidance below."""
    return gr.Radio(
        [(translations(f"steps_choice_{choice}"), choice) for choice in STEPS_CHOICES],
        value=DEFAULT_STEPS,
        label=translations("steps_choice"),
        info=translations("steps_choice_info"),
        elem_id=f"{name}-steps-choice",
    )


def _connect_steps_choice(steps_choice: gr.Radio, *sliders: gr.Slider) -> None:
    """Show the sliders only where they count."""
    for slider in sliders:
        slider.visible = False
    show_while(list(sliders), steps_choice, f"value === {json.dumps(OWN_STEPS)}")


def make_steps_slider(steps: int) -> gr.Slider:
    label, info = translations("steps"), translations("steps_info")
    return gr.Slider(1, max(MAX_SLIDER_STEPS, steps), steps, step=1, label=label, info=info)


def make_transparent_switch(name: str, *, info: str) -> gr.Checkbox:
    """Make the switch for results with a transparent background. info: the key of its explanation."""
    return gr.Checkbox(False, label=translations("transparent"), info=translations(info), elem_id=f"{name}-transparent")


def make_guidance_slider(guidance_scale: float) -> gr.Slider:
    label, info = translations("guidance"), translations("guidance_info")
    return gr.Slider(0, MAX_SLIDER_GUIDANCE, guidance_scale, step=0.5, label=label, info=info)


def _make_choice(name: str, choices: Iterable[str]) -> gr.Dropdown:
    """Make a choice by name, to which options may be written; empty for the model's own."""
    return gr.Dropdown(
        [(translations("models_own"), ""), *((choice, choice) for choice in choices)],
        value="",
        allow_custom_value=True,
        label=translations(name),
        info=translations(f"{name}_info"),
    )


def make_label_switch(context: PageContext) -> gr.Checkbox:
    """Make the switch of the visible AI label, initially as the server's labelling says."""
    is_on = context.queue.results.labelling.has_visible_label
    return gr.Checkbox(is_on, label=translations("visible_label"), info=translations("visible_label_info"))


def randomize_seed() -> str:
    """A new seed for the seed box."""
    return str(secrets.randbelow(2**32))


def to_forecast_arguments(values: Sequence[Any], capabilities: ModelCapabilities) -> dict[str, Any]:
    """Turn the values of `SettingsPanel.forecast_inputs` into arguments of a request."""
    width, height, steps, guidance_scale, *others = map(float_to_int, values)
    adapters, choice = others[: len(capabilities.adapters)], others[len(capabilities.adapters) :]
    return {
        "width": width,
        "height": height,
        **to_sampling_arguments(steps, guidance_scale, choice),
        "adapters": to_adapters(adapters, capabilities),
    }


def to_sampling_arguments(steps: Any, guidance_scale: Any, choice: Sequence[Any]) -> dict[str, Any]:
    """Turn the values of both sliders, and the choice of STEPS_CHOICES where there is one, into arguments."""
    if not choice or choice[0] == OWN_STEPS:
        return {"num_inference_steps": float_to_int(steps), "guidance_scale": guidance_scale}
    slow = {"slow": False} if choice[0] == FEW_STEPS else {}
    return {"num_inference_steps": None, "guidance_scale": None, **slow}


def to_request_arguments(values: Sequence[Any], capabilities: ModelCapabilities) -> dict[str, Any]:
    """Turn the values of `SettingsPanel.inputs` into arguments of a request; an empty one is left to the model.

    Raises: DianjingError for a seed that is not a whole number.
    """
    negative_prompt, width, height, steps, guidance_scale, *rest = values
    guidance_mode, scheduler, seed, visible_label, *others = rest
    adapters, choice = others[: len(capabilities.adapters)], others[len(capabilities.adapters) :]
    return {
        "negative_prompt": negative_prompt or None,
        "width": float_to_int(width),
        "height": float_to_int(height),
        **to_sampling_arguments(steps, guidance_scale, choice),
        "guidance_mode": guidance_mode or None,
        "scheduler": scheduler or None,
        "seed": _parse_seed(seed),
        "visible_label": bool(visible_label),
        "adapters": to_adapters(adapters, capabilities),
    }


def float_to_int(value: Any) -> Any:
    """Turn 30.0 into 30, as JSON has one kind of number; anything else is returned as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse_seed(value: Any) -> int | None:
    if value is None or not str(value).strip():
        return None
    try:
        return int(str(value).strip())
    except ValueError:
        raise DianjingError("seed_not_integer", name="seed", value=ascii(value)[:60]) from None
