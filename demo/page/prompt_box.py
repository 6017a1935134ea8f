"""The prompt box of a tab, and example prompts that generate when they are clicked."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dianjing.demo.page.context import instant
from dianjing.demo.page.theme import translations


def make_prompt_box(name: str, *, label: str, placeholder: str | None = None) -> gr.Textbox:
    """Make a box in which Enter generates and Shift+Enter breaks the line, as Gradio's do that have one line."""
    return gr.Textbox(
        label=translations(label),
        placeholder=None if placeholder is None else translations(placeholder),
        info=translations("enter_generates"),
        lines=1,
        max_lines=6,
        elem_id=f"{name}-prompt",
        elem_classes="dj-prompt",
    )


def make_examples(name: str, prompt: gr.Textbox) -> gr.Dataset:
    """Make the list of example prompts, hidden until `show_examples` fills it."""
    return gr.Dataset(
        components=[prompt],
        samples=[],
        label=translations("examples"),
        elem_id=f"{name}-examples",
        elem_classes="dj-examples",
        visible=False,
    )


def show_examples(examples: Sequence[str]) -> gr.Dataset:
    """The update of a list of examples; none hide it."""
    return gr.Dataset(samples=[[example] for example in examples], visible=bool(examples))


def connect_examples(examples: gr.Dataset, prompt: gr.Textbox, connect_run: Callable[..., Any]) -> None:
    """Let a click put an example into the prompt box and start a run; `connect_run` connects an event with the run."""
    connect_run(examples.click(lambda sample: sample[0], examples, prompt, **instant()).then)
