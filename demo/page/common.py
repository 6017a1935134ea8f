"""Parts that more than one tab has: a field for words, prompts to try, all that was made."""

import gradio as gr

from dianjing.demo.page.look import text
from dianjing.demo.page.shared import quiet


def make_prompt(name: str, *, label: str) -> gr.Textbox:
    return gr.Textbox(
        label=text(label), placeholder=text(f"{name}_placeholder"), lines=2, max_lines=6, elem_id=f"{name}-prompt"
    )


def make_examples(prompt: gr.Textbox, examples: tuple[str, ...]) -> None:
    """Prompts that a click puts into the field."""
    samples = [[each] for each in examples]
    shown = gr.Dataset(components=[prompt], samples=samples, label=text("examples"), elem_classes="dj-examples")
    shown.click(lambda sample: sample[0], shown, prompt, **quiet())


def make_gallery(name: str) -> tuple[gr.Gallery, gr.Button]:
    """All that was made, and the button that clears it."""
    gallery = gr.Gallery(
        label=text("made"), columns=6, fit_columns=False, allow_preview=False, interactive=False, object_fit="cover",
        buttons=[], elem_id=f"{name}-gallery", elem_classes="dj-gallery", visible=False,
    )  # fmt: skip
    clear = gr.Button(text("clear_all"), size="sm", visible=False, elem_id=f"{name}-clear", elem_classes="dj-clear")
    return gallery, clear
