"""The Chat tab: an image is generated and edited turn by turn; a session has several conversations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import format_status
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, JobEvent
from dianjing.demo.page.chat_sessions import (
    add_new_conversation,
    export_conversation,
    get_last_image,
    get_or_create_conversation,
    load_uploaded_conversation,
    save_cancelled_preview,
    save_failure,
    to_chatbot_messages,
)
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.history_panel import (
    HistoryPanel,
    connect_history_panel,
    make_caption,
    make_history_panel,
    show_history,
    show_item,
)
from dianjing.demo.page.prompt_box import connect_examples, make_examples
from dianjing.demo.page.run_panel import RunPanel, connect_cancel, make_run_buttons, make_status, resume_run, run_job
from dianjing.demo.page.runs import RunHandlers, Updates
from dianjing.demo.page.sessions import HistoryItem, Session
from dianjing.demo.page.settings import make_label_switch
from dianjing.demo.page.status import StatusView, render_error, render_hint, render_line
from dianjing.demo.page.theme import translations
from dianjing.demo.requests import ConversationRequest
from dianjing.errors import Language
from dianjing.pipelines.conversation.parsing.base import detect_language


@dataclass(frozen=True, kw_only=True)
class ChatTab:
    """Components."""

    chat: gr.Chatbot
    message_box: gr.Textbox
    examples: gr.Dataset
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
        """The outputs of `show_image`."""
        return [self.run_panel.preview, self.download, self.to_animate, *self.history.item_outputs]

    @property
    def run_outputs(self) -> list[Any]:
        """The outputs of a run."""
        return list(dict.fromkeys([*self.run_panel.outputs, self.message_box, *self.chat_outputs]))

    @property
    def drafts(self) -> dict[str, Any]:
        """The components whose values the browser keeps, by name."""
        return {"message": self.message_box, "visible_label": self.visible_label}


def make_chat_tab(context: PageContext) -> ChatTab:
    """Make the components inside a `gr.Tab` and connect their events."""
    with gr.Row(elem_classes="dj-layout"):
        with gr.Column(elem_classes="dj-inputs"):
            chat, message_box = _make_chat()
            button, cancel = make_run_buttons("chat")
            examples = make_examples("chat", message_box)
        with gr.Column(elem_classes="dj-preview"):
            parts = _make_preview_column(can_animate=context.capabilities.can_animate)
        with gr.Column(elem_classes="dj-more"):
            parts |= _make_tools()
            with gr.Accordion(translations("advanced"), open=False):
                parts["visible_label"] = make_label_switch(context)
    run_panel = RunPanel(
        name="chat",
        button=button,
        cancel=cancel,
        status=parts.pop("status"),
        preview=parts.pop("preview"),
        job_id=gr.State(None),
    )
    tab = ChatTab(chat=chat, message_box=message_box, examples=examples, run_panel=run_panel, **parts)
    _connect_run(tab, context)
    _connect_history(tab, context)
    _connect_tools(tab, context)
    return tab


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


def get_chat_handlers(tab: ChatTab, context: PageContext, language: Language) -> RunHandlers:
    """Make the handlers of the tab's jobs."""

    def start(session: Session, job: Job) -> Updates:
        assert isinstance(job.request, ConversationRequest)
        message = {"role": "user", "content": job.request.text}
        messages = [*to_chatbot_messages(job.request.conversation, session), message]
        return {tab.chat: messages, tab.message_box: ""}

    return RunHandlers(start=start, save=partial(save_turn, context), done=partial(_show_turn, tab, context, language))


def _connect_run(tab: ChatTab, context: PageContext) -> None:
    def send(request: gr.Request, token: str, message: str, visible_label: bool) -> Iterator[Updates]:
        language = get_request_language(request)
        conversation = get_or_create_conversation(context, context.get_session(token, request))

        def submit(owner: str) -> Job:
            turn = ConversationRequest(conversation=conversation, text=message, visible_label=visible_label)
            return context.queue.submit(turn, owner)

        def show_refused(session: Session, error: Exception) -> Updates:
            if not (message or "").strip():
                return {}
            save_failure(session, conversation, message, error)
            return {tab.chat: to_chatbot_messages(conversation, session)}

        yield from run_job(
            tab.run_panel,
            context,
            request,
            token,
            submit=submit,
            handlers=get_chat_handlers(tab, context, language),
            error_language=detect_language(message or ""),
            on_refused=show_refused,
        )

    inputs = [context.token, tab.message_box, tab.visible_label]
    gr.on([tab.run_panel.button.click, tab.message_box.submit], send, inputs, tab.run_outputs, **job_event())
    connect_examples(tab.examples, tab.message_box, lambda then: then(send, inputs, tab.run_outputs, **job_event()))
    connect_cancel(tab.run_panel, context)


def resume_chat_run(tab: ChatTab, context: PageContext, request: gr.Request, token: str) -> Iterator[Updates]:
    """Follow the run that goes on since the page was loaded the last time."""
    handlers = get_chat_handlers(tab, context, get_request_language(request))
    yield from resume_run(tab.run_panel, context, request, token, handlers=handlers)


def _connect_history(tab: ChatTab, context: PageContext) -> None:
    def clear(session: Session, language: Language) -> Updates:
        session.clear_conversations()
        return show_conversation(tab, context, session, language)

    outputs = list(dict.fromkeys([*tab.selection_outputs, *tab.chat_outputs]))
    connect_history_panel(tab.history, context, show=partial(show_image, tab), outputs=outputs, on_clear=clear)


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


def save_turn(context: PageContext, session: Session, job: Job, event: JobEvent) -> None:
    """Add the image of a turn to the history, the last preview of one that was stopped, or the error of a failed one.

    After a turn that was stopped or that failed the conversation continues from the turn before.
    """
    request = job.request
    assert isinstance(request, ConversationRequest)
    conversation = request.conversation
    if isinstance(event, Done):
        turn = event.result.turn
        if turn is not None and conversation.turns and conversation.turns[-1] is turn:  # it is no undo
            session.add_item(session.chat_images, event.result.files, event.result.metadata[0], turn=turn)
    elif isinstance(event, Cancelled) and event.preview is not None:
        save_cancelled_preview(context, session, request, event.preview)
    elif isinstance(event, Failed):
        save_failure(session, conversation, request.text, event.error)


def _show_turn(
    tab: ChatTab, context: PageContext, language: Language, session: Session, job: Job, view: StatusView
) -> Updates:
    """Show a finished turn; the message of one that was stopped or that failed returns to the message box."""
    assert isinstance(job.request, ConversationRequest)
    conversation, text = job.request.conversation, job.request.text
    if view.is_cancelled and view.preview is not None and session.chat_images:
        newest = show_image(tab, session.chat_images[0], language)
        return {**show_conversation(tab, context, session, language), **newest, tab.message_box: text}
    if view.result is None or view.result.turn is None:
        return {tab.chat: to_chatbot_messages(conversation, session), tab.message_box: text}
    turn = view.result.turn
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
    item = exported = None
    if conversation is not None and turns:
        item, exported = get_last_image(context, session, conversation), export_conversation(conversation, session)
    return {
        tab.chat: [] if conversation is None else to_chatbot_messages(conversation, session),
        tab.conversation_choice: gr.Radio(choices=names, value=session.conversation_index + 1, visible=len(names) > 1),
        tab.undo: gr.Button(interactive=bool(turns)),
        tab.fork: gr.Button(interactive=bool(turns)),
        tab.save: gr.DownloadButton(value=exported, interactive=exported is not None),
        **show_history(tab.history, session),
        **show_image(tab, item, language),
    }


def show_image(tab: ChatTab, item: HistoryItem | None, language: Language) -> Updates:
    """Updates that show one image large and enable its actions."""
    file = None if item is None else str(item.files[0])
    is_enabled = {"interactive": item is not None}
    return {
        tab.run_panel.preview: file,
        tab.download: gr.DownloadButton(value=file, **is_enabled),
        tab.to_animate: gr.Button(**is_enabled),
        **show_item(tab.history, item, language),
    }
