"""Sliders for the adapters of a server: their strengths, where 0 switches one off."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.theme import translations
from dianjing.pipelines.named_adapters import MAX_ADAPTER_SCALE


def make_adapter_sliders(name: str, context: PageContext) -> tuple[gr.Slider, ...]:
    """Make a slider for each adapter, inside an accordion of a tab; none for a server without adapters."""
    return tuple(
        gr.Slider(
            min(0.0, adapter.scale),
            MAX_ADAPTER_SCALE,
            adapter.scale,
            step=0.05,
            label=f"LoRA: {adapter.name}",
            info=translations("adapter_info"),
            elem_id=f"{name}-adapter-{adapter.name}",
        )
        for adapter in context.capabilities.adapters
    )


def to_adapters(values: Sequence[Any], capabilities: ModelCapabilities) -> dict[str, float] | None:
    """Turn the values of the sliders into the adapters of a request; None without sliders."""
    if not capabilities.adapters:
        return None
    return {adapter.name: value for adapter, value in zip(capabilities.adapters, values, strict=True)}


def restore_adapters(
    settings: Mapping[str, object], sliders: Sequence[gr.Slider], capabilities: ModelCapabilities
) -> dict[Any, Any]:
    """Updates that set the sliders to a file's adapters; one that the file does not name is off."""
    entries = settings.get("lora")
    scales = {
        entry.get("name"): entry.get("scale")
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("scale"), int | float)
    }
    return {
        slider: scales.get(adapter.name, 0.0) for slider, adapter in zip(sliders, capabilities.adapters, strict=True)
    }
