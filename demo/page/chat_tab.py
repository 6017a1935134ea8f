"""The Chat tab: an image is generated and edited turn by turn; a session has several conversations."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import format_status
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, JobEvent
from dianjing.demo.page.adapter_controls import to_adapters
from dianjing.demo.page.chat_components import ChatTab, make_chat_components
from dianjing.demo.page.chat_sessions import (
    add_new_conversation,
    export_conversation,
    get_last_image,
    get_or_create_conversation,
    load_uploaded_conversation,
    make_message,
    save_cancelled_preview,
    save_failure,
    to_chatbot_messages,
)
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.history_panel import connect_history_panel, show_history, show_item
from dianjing.demo.page.prompt_box import connect_examples
from dianjing.demo.page.run_panel import connect_cancel, resume_run, run_job
from dianjing.demo.page.runs import RunHandlers, Updates
from dianjing.demo.page.sessions import HistoryItem, Session
from dianjing.demo.page.status import StatusView, render_error, render_hint, render_line
from dianjing.demo.requests import ConversationRequest
from dianjing.errors import Language
from dianjing.pipelines.conversation.parsing.base import detect_language


def make_chat_tab(context: PageContext) -> ChatTab:
    """Make the components inside a `gr.Tab` and connect their events."""
    tab = make_chat_components(context)
    _connect_run(tab, context)
    _connect_history(tab, context)
    _connect_tools(tab, context)
    return tab


def get_chat_handlers(tab: ChatTab, context: PageContext, language: Language) -> RunHandlers:
    """Make the handlers of the tab's jobs."""

    def start(session: Session, job: Job) -> Updates:
        assert isinstance(job.request, ConversationRequest)
        message = make_message("user", job.request.text)
        messages = [*to_chatbot_messages(job.request.conversation, session), message]
        return {tab.chat: messages, tab.message_box: ""}

    return RunHandlers(start=start, save=partial(save_turn, context), done=partial(_show_turn, tab, context, language))


def _connect_run(tab: ChatTab, context: PageContext) -> None:
    def send(request: gr.Request, token: str, message: str, visible_label: bool, *scales: float) -> Iterator[Updates]:
        language = get_request_language(request)
        conversation = get_or_create_conversation(context, context.get_session(token, request))

        def submit(owner: str) -> Job:
            turn = ConversationRequest(
                conversation=conversation,
                text=message,
                visible_label=visible_label,
                adapters=to_adapters(scales, context.capabilities),
            )
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

    inputs = [context.token, tab.message_box, tab.visible_label, *tab.adapters]
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
    connect_history_panel(tab.history, context, show=partial(show_chat_image, tab), outputs=outputs, on_clear=clear)


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
        newest = show_chat_image(tab, session.chat_images[0], language)
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
        **show_chat_image(tab, item, language),
    }


def show_chat_image(tab: ChatTab, item: HistoryItem | None, language: Language) -> Updates:
    """Updates that show one image large and enable its actions."""
    file = None if item is None else str(item.files[0])
    is_enabled = {"interactive": item is not None}
    return {
        tab.run_panel.preview: file,
        tab.download: gr.DownloadButton(value=file, **is_enabled),
        tab.to_animate: gr.Button(**is_enabled),
        **show_item(tab.history, item, language),
    }
