"""The components of the Chat tab."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.page.adapter_controls import make_adapter_sliders
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.history_panel import HistoryPanel, make_caption, make_history_panel
from dianjing.demo.page.prompt_box import make_examples
from dianjing.demo.page.run_panel import RunPanel, make_run_buttons, make_run_panel, make_status
from dianjing.demo.page.settings import make_label_switch
from dianjing.demo.page.theme import translations


@dataclass(frozen=True, kw_only=True)
class ChatTab:
    """Components."""

    chat: gr.Chatbot
    message_box: gr.Textbox
    examples: gr.Dataset
    run_panel: RunPanel
    visible_label: gr.Checkbox
    adapters: tuple[gr.Slider, ...]
    undo: gr.Button
    new: gr.Button
    fork: gr.Button
    conversation_choice: gr.Radio
    save: gr.DownloadButton
    load: gr.UploadButton
    to_animate: gr.Button
    download: gr.DownloadButton
    history: HistoryPanel

    @property
    def chat_outputs(self) -> list[Any]:
        """The outputs of `show_conversation`."""
        return [
            self.chat,
            self.conversation_choice,
            self.undo,
            self.fork,
            self.save,
            *self.history.outputs,
            *self.selection_outputs,
        ]

    @property
    def selection_outputs(self) -> list[Any]:
        """The outputs of `show_chat_image`."""
        return [self.run_panel.preview, self.download, self.to_animate, *self.history.item_outputs]

    @property
    def run_outputs(self) -> list[Any]:
        """The outputs of a run."""
        return list(dict.fromkeys([*self.run_panel.outputs, self.message_box, *self.chat_outputs]))

    @property
    def drafts(self) -> dict[str, Any]:
        """The components whose values the browser keeps, by name."""
        adapters = {f"adapter_{number}": slider for number, slider in enumerate(self.adapters, start=1)}
        return {"message": self.message_box, "visible_label": self.visible_label} | adapters


def make_chat_components(context: PageContext) -> ChatTab:
    """Make the components inside a `gr.Tab`."""
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            chat, message_box = _make_chat()
            button, cancel = make_run_buttons("chat")
            examples = make_examples("chat", message_box)
        with gr.Column(elem_classes="dj-preview"):
            parts = _make_preview_column(can_animate=context.capabilities.has_task("image-to-video"))
        with gr.Column(elem_classes="dj-more"):
            parts |= _make_tools()
            with gr.Accordion(translations("advanced"), open=False):
                parts["adapters"] = make_adapter_sliders("chat", context)
                parts["visible_label"] = make_label_switch(context)
    run_panel = make_run_panel(
        "chat", button=button, cancel=cancel, status=parts.pop("status"), preview=parts.pop("preview")
    )
    return ChatTab(chat=chat, message_box=message_box, examples=examples, run_panel=run_panel, **parts)


def _make_chat() -> tuple[gr.Chatbot, gr.Textbox]:
    chat = gr.Chatbot(
        label=translations("chat_history"),
        placeholder=translations("chat_placeholder"),
        height=360,
        elem_id="chat-history",
        buttons=[],
        feedback_options=None,
        render_markdown=False,
        layout="bubble",
        show_label=False,
    )
    message_box = gr.Textbox(
        label=translations("chat_text"),
        placeholder=translations("chat_message"),
        info=translations("enter_sends"),
        elem_id="chat-message",
        elem_classes="dj-message",
        max_lines=4,
    )
    return chat, message_box


def _make_preview_column(*, can_animate: bool) -> dict[str, Any]:
    preview = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id="chat-stage", show_label=False
    )
    caption = make_caption("chat")
    status = make_status("chat")
    with gr.Row(elem_classes="dj-actions"):
        disabled = {"interactive": False, "min_width": 90}
        to_animate = gr.Button(
            translations("image_to_animate"), elem_id="chat-to-animate", visible=can_animate, **disabled
        )
        download = gr.DownloadButton(translations("download"), elem_id="chat-download", **disabled)
    return {
        "preview": preview,
        "status": status,
        "to_animate": to_animate,
        "download": download,
        "history": make_history_panel("chat", caption=caption, get_history=lambda session: session.chat_images),
    }


def _make_tools() -> dict[str, Any]:
    with gr.Row(elem_classes="dj-actions"):
        undo = gr.Button(translations("chat_undo"), elem_id="chat-undo", interactive=False, min_width=80)
        fork = gr.Button(translations("chat_fork"), elem_id="chat-fork", interactive=False, min_width=80)
        new = gr.Button(translations("chat_new"), elem_id="chat-new", min_width=80)
    choice = gr.Radio([], label=translations("chat_conversation"), elem_id="chat-conversation", visible=False)
    with gr.Row(elem_classes="dj-actions"):
        save = gr.DownloadButton(translations("chat_save"), elem_id="chat-save", interactive=False, min_width=80)
        load = gr.UploadButton(translations("chat_load"), file_types=[".json"], elem_id="chat-load", min_width=80)
    return {"undo": undo, "fork": fork, "new": new, "conversation_choice": choice, "save": save, "load": load}
