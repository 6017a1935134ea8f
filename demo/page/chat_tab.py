"""The Chat tab: an image is generated and edited turn by turn; a session has several conversations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import CHAT_EXAMPLES, format_status
from dianjing.demo.jobs import Job
from dianjing.demo.page.chat_sessions import (
    add_new_conversation,
    export_conversation,
    get_last_image,
    get_or_create_conversation,
    load_uploaded_conversation,
    save_cancelled_preview,
    to_chatbot_messages,
)
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.run_panel import (
    RunPanel,
    Updates,
    connect_cancel,
    make_examples,
    make_gallery,
    make_run_buttons,
    make_status,
    run_job,
)
from dianjing.demo.page.sessions import Session
from dianjing.demo.page.settings import make_label_switch
from dianjing.demo.page.status import StatusView, render_error, render_hint, render_line
from dianjing.demo.page.theme import translations
from dianjing.demo.requests import ConversationRequest
from dianjing.errors import Language
from dianjing.pipelines.conversation.parsing.base import detect_language
from dianjing.pipelines.conversation.session import Conversation


@dataclass(frozen=True, kw_only=True)
class ChatTab:
    """Components; `selected_file` is the state that holds the file of the image in view."""

    chat: gr.Chatbot
    message_box: gr.Textbox
    run_panel: RunPanel
    visible_label: gr.Checkbox
    undo: gr.Button
    new: gr.Button
    fork: gr.Button
    conversation_choice: gr.Radio
    save: gr.DownloadButton
    load: gr.UploadButton
    to_animate: gr.Button
    download: gr.DownloadButton
    gallery: gr.Gallery
    clear: gr.Button
    selected_file: gr.State

    @property
    def chat_outputs(self) -> list[Any]:
        """The outputs of `show_conversation`."""
        return [
            self.chat,
            self.conversation_choice,
            self.undo,
            self.fork,
            self.save,
            self.gallery,
            self.clear,
            *self.selection_outputs,
        ]

    @property
    def selection_outputs(self) -> list[Any]:
        return [self.run_panel.preview, self.selected_file, self.download, self.to_animate]


def make_chat_tab(context: PageContext) -> ChatTab:
    """Make the components inside a `gr.Tab` and connect their events."""
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            chat, message_box = _make_chat()
            button, cancel = make_run_buttons("chat")
            make_examples(message_box, CHAT_EXAMPLES)
        with gr.Column(elem_classes="dj-preview"):
            parts = _make_preview_column(can_animate=context.capabilities.can_animate)
        with gr.Column(elem_classes="dj-more"):
            parts |= _make_tools()
            with gr.Accordion(translations("advanced"), open=False):
                parts["visible_label"] = make_label_switch(context)
    run_panel = RunPanel(
        button=button, cancel=cancel, status=parts.pop("status"), preview=parts.pop("preview"), job_id=gr.State(None)
    )
    tab = ChatTab(chat=chat, message_box=message_box, run_panel=run_panel, **parts)
    _connect(tab, context)
    return tab


def _make_chat() -> tuple[gr.Chatbot, gr.Textbox]:
    chat = gr.Chatbot(
        label=translations("chat_history"),
        placeholder=translations("chat_placeholder"),
        height=400,
        elem_id="chat-history",
        buttons=[],
        feedback_options=None,
        render_markdown=False,
        layout="bubble",
        show_label=False,
    )
    message_box = gr.Textbox(
        placeholder=translations("chat_message"), show_label=False, container=False, elem_id="chat-message", max_lines=4
    )
    return chat, message_box


def _make_preview_column(*, can_animate: bool) -> dict[str, Any]:
    preview = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id="chat-stage", show_label=False
    )
    status = make_status("chat")
    with gr.Row(elem_classes="dj-actions"):
        disabled = {"interactive": False, "min_width": 90}
        to_animate = gr.Button(
            translations("image_to_animate"), elem_id="chat-to-animate", visible=can_animate, **disabled
        )
        download = gr.DownloadButton(translations("download"), elem_id="chat-download", **disabled)
    gallery, clear = make_gallery("chat")
    return {
        "preview": preview,
        "status": status,
        "to_animate": to_animate,
        "download": download,
        "gallery": gallery,
        "clear": clear,
        "selected_file": gr.State(None),
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


def _connect(tab: ChatTab, context: PageContext) -> None:
    def send(request: gr.Request, token: str, message: str, visible_label: bool) -> Iterator[Updates]:
        conversation = get_or_create_conversation(context, context.get_session(token, request))

        def submit(owner: str) -> Job:
            turn = ConversationRequest(conversation=conversation, text=message, visible_label=visible_label)
            return context.queue.submit(turn, owner)

        messages = [*to_chatbot_messages(conversation), {"role": "user", "content": message}]
        yield from run_job(
            tab.run_panel,
            context,
            request,
            token,
            submit=submit,
            on_done=partial(_save_turn, tab, context, conversation, get_request_language(request)),
            on_start={tab.chat: messages, tab.message_box: ""},
            error_language=detect_language(message),
        )

    def select(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        images = context.get_session(token, request).chat_images
        if event.index >= len(images):
            return {tab.selected_file: gr.skip()}
        return _show_file(tab, images[event.index].files[0])

    def clear(request: gr.Request, token: str) -> Updates:
        session = context.get_session(token, request)
        session.clear(session.chat_images)
        session.clear_conversations()
        return show_conversation(tab, context, session, get_request_language(request))

    inputs = [context.token, tab.message_box, tab.visible_label]
    outputs = list(dict.fromkeys([*tab.run_panel.outputs, tab.message_box, *tab.chat_outputs]))
    gr.on([tab.run_panel.button.click, tab.message_box.submit], send, inputs, outputs, **job_event())
    connect_cancel(tab.run_panel, context)
    _connect_tools(tab, context)
    tab.gallery.select(select, context.token, tab.selection_outputs, **instant())
    tab.clear.click(clear, context.token, tab.chat_outputs, **instant())


def _connect_tools(tab: ChatTab, context: PageContext) -> None:
    """Connect the buttons that change the selected conversation."""

    def event(change: Callable[..., object]) -> Callable[..., Updates]:
        def handle(request: gr.Request, token: str, *values: Any) -> Updates:
            language, session = get_request_language(request), context.get_session(token, request)
            try:
                change(session, *values)
            except Exception as error:
                return {tab.run_panel.status: render_error(error, language)}
            return {**show_conversation(tab, context, session, language), tab.run_panel.status: ""}

        return handle

    def undo(session: Session) -> None:
        get_or_create_conversation(context, session).undo()

    def fork(session: Session) -> None:
        session.add_conversation(get_or_create_conversation(context, session).fork())

    def load(session: Session, path: str | None) -> None:
        session.add_conversation(load_uploaded_conversation(path, context))

    outputs, token = [*tab.chat_outputs, tab.run_panel.status], context.token
    tab.undo.click(event(undo), token, outputs, **instant())
    tab.fork.click(event(fork), token, outputs, **instant())
    gr.on([tab.new.click, tab.chat.clear], event(partial(add_new_conversation, context)), token, outputs, **instant())
    choice = [token, tab.conversation_choice]
    tab.conversation_choice.input(event(Session.select_conversation), choice, outputs, **instant())
    tab.load.upload(event(load), [token, tab.load], outputs, **instant())


def _save_turn(
    tab: ChatTab,
    context: PageContext,
    conversation: Conversation,
    language: Language,
    session: Session,
    job: Job,
    last: StatusView,
) -> Updates:
    """Show a finished turn and add its image to the history; a message that failed returns to the message box.

    The last preview of a turn that was stopped is kept; the conversation continues from the turn before.
    """
    assert isinstance(job.request, ConversationRequest)
    if last.is_cancelled and last.preview is not None:
        file = save_cancelled_preview(context, session, job.request, last.preview)
        return {
            **show_conversation(tab, context, session, language),
            **_show_file(tab, file),
            tab.message_box: job.request.text,
        }
    if last.result is None or last.result.turn is None:
        return {tab.chat: to_chatbot_messages(conversation), tab.message_box: job.request.text}
    turn = last.result.turn
    if conversation.turns and conversation.turns[-1] is turn:
        session.add_item(session.chat_images, last.result.files, last.result.metadata[0], turn=turn)
    status = "".join([render_line("; ".join(turn.changes)), *map(render_hint, turn.hints)])
    return {**show_conversation(tab, context, session, language), tab.run_panel.status: status}


def show_conversation(tab: ChatTab, context: PageContext, session: Session, language: Language) -> Updates:
    """Updates that show the selected conversation with its newest image."""
    conversation = session.current_conversation
    turns = () if conversation is None else conversation.turns
    names = [
        (format_status("chat_name", language, number=number), number)
        for number in range(1, len(session.conversations) + 1)
    ]
    file = exported = None
    if conversation is not None and turns:
        file, exported = get_last_image(context, session, conversation), export_conversation(conversation, session)
    images = [str(item.files[0]) for item in session.chat_images]
    return {
        tab.chat: [] if conversation is None else to_chatbot_messages(conversation),
        tab.conversation_choice: gr.Radio(choices=names, value=session.conversation_index + 1, visible=len(names) > 1),
        tab.undo: gr.Button(interactive=bool(turns)),
        tab.fork: gr.Button(interactive=bool(turns)),
        tab.save: gr.DownloadButton(value=exported, interactive=exported is not None),
        tab.gallery: gr.Gallery(value=images, visible=bool(images)),
        tab.clear: gr.Button(visible=bool(images)),
        **_show_file(tab, file),
    }


def _show_file(tab: ChatTab, file: Path | None) -> Updates:
    path = None if file is None else str(file)
    is_enabled = {"interactive": file is not None}
    return {
        tab.run_panel.preview: path,
        tab.selected_file: path,
        tab.download: gr.DownloadButton(value=path, **is_enabled),
        tab.to_animate: gr.Button(**is_enabled),
    }
