"""The tab Talk: a picture drawn turn by turn, in words; several talks can go their own ways."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import CHAT_EXAMPLES, format_message
from dianjing.demo.jobs import Job
from dianjing.demo.page.chat_sessions import (
    export_conversation,
    get_or_create_conversation,
    get_turn_image,
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
from dianjing.pipelines.conversation.session import Conversation


@dataclass(frozen=True, kw_only=True)
class ChatTab:
    """Components. chosen: the file of the picture that is looked at."""

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
        """What `show_talk` updates."""
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
    """Inside a `gr.Tab`."""
    with gr.Row(elem_classes="dj-board"):
        with gr.Column(elem_classes="dj-ask"):
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
            said = gr.Textbox(
                placeholder=translations("chat_message"),
                show_label=False,
                container=False,
                elem_id="chat-message",
                max_lines=4,
            )
            button, cancel = make_run_buttons("chat")
            make_examples(said, CHAT_EXAMPLES)
        with gr.Column(elem_classes="dj-show"):
            parts = _make_preview_column(can_animate=context.capabilities.can_animate)
        with gr.Column(elem_classes="dj-more"):
            parts |= _make_tools()
            with gr.Accordion(translations("advanced"), open=False):
                parts["visible_label"] = make_label_switch(context)
    bench = RunPanel(
        button=button, cancel=cancel, status=parts.pop("status"), preview=parts.pop("preview"), job_id=gr.State(None)
    )
    tab = ChatTab(chat=chat, message_box=said, run_panel=bench, **parts)
    _connect(tab, context)
    return tab


def _make_preview_column(*, can_animate: bool) -> dict[str, Any]:
    stage = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id="chat-stage", show_label=False
    )
    status = make_status("chat")
    with gr.Row(elem_classes="dj-actions"):
        off = {"interactive": False, "min_width": 90}
        to_animate = gr.Button(translations("image_to_animate"), elem_id="chat-to-animate", visible=can_animate, **off)
        download = gr.DownloadButton(translations("download"), elem_id="chat-download", **off)
    gallery, clear = make_gallery("chat")
    return {
        "preview": stage,
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
    which = gr.Radio([], label=translations("chat_conversation"), elem_id="chat-conversation", visible=False)
    with gr.Row(elem_classes="dj-actions"):
        save = gr.DownloadButton(translations("chat_save"), elem_id="chat-save", interactive=False, min_width=80)
        load = gr.UploadButton(translations("chat_load"), file_types=[".json"], elem_id="chat-load", min_width=80)
    return {"undo": undo, "fork": fork, "new": new, "conversation_choice": which, "save": save, "load": load}


def _connect(tab: ChatTab, context: PageContext) -> None:
    def tell(request: gr.Request, token: str, said: str, visible_label: bool) -> Iterator[Updates]:
        visit = context.get_session(token, request)
        talk = get_or_create_conversation(context, visit)

        def submit(owner: str) -> Job:
            return context.queue.submit(
                ConversationRequest(conversation=talk, text=said, visible_label=visible_label), owner
            )

        keep = partial(_save_turn, tab, context, talk, get_request_language(request))
        shown = [*to_chatbot_messages(talk), {"role": "user", "content": said}]
        yield from run_job(
            tab.run_panel,
            context,
            request,
            token,
            submit=submit,
            on_done=keep,
            on_start={tab.chat: shown, tab.message_box: ""},
        )

    inputs = [context.token, tab.message_box, tab.visible_label]
    outputs = list(dict.fromkeys([*tab.run_panel.outputs, tab.message_box, *tab.chat_outputs]))
    gr.on([tab.run_panel.button.click, tab.message_box.submit], tell, inputs, outputs, **job_event())
    connect_cancel(tab.run_panel, context)
    _connect_tools(tab, context)

    def look(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        made = context.get_session(token, request).chat_images
        return (
            _show_file(tab, made[event.index].files[0]) if event.index < len(made) else {tab.selected_file: gr.skip()}
        )

    def clear(request: gr.Request, token: str) -> Updates:
        visit = context.get_session(token, request)
        visit.clear(visit.chat_images)
        visit.clear_conversations()
        return show_conversation(tab, context, visit, get_request_language(request))

    tab.gallery.select(look, context.token, tab.selection_outputs, **instant())
    tab.clear.click(clear, context.token, tab.chat_outputs, **instant())


def _connect_tools(tab: ChatTab, context: PageContext) -> None:
    """What changes which talk is shown, and how far it goes."""

    def changed(change: Callable[..., object]) -> Callable[..., Updates]:
        def act(request: gr.Request, token: str, *values: Any) -> Updates:
            language, visit = get_request_language(request), context.get_session(token, request)
            try:
                change(visit, *values)
            except ValueError as error:
                return {tab.run_panel.status: render_error(error, language)}
            return {**show_conversation(tab, context, visit, language), tab.run_panel.status: ""}

        return act

    def load(visit: Session, path: str | None) -> None:
        visit.add_conversation(load_uploaded_conversation(path, context))

    def new(visit: Session) -> None:
        visit.add_conversation(context.engine.create_conversation(seed=secrets.randbelow(2**32)))

    outputs = [*tab.chat_outputs, tab.run_panel.status]
    tab.undo.click(
        changed(lambda visit: get_or_create_conversation(context, visit).undo()), context.token, outputs, **instant()
    )
    fork = changed(lambda visit: visit.add_conversation(get_or_create_conversation(context, visit).fork()))
    tab.fork.click(fork, context.token, outputs, **instant())
    gr.on([tab.new.click, tab.chat.clear], changed(new), context.token, outputs, **instant())
    tab.conversation_choice.input(
        changed(Session.select_conversation), [context.token, tab.conversation_choice], outputs, **instant()
    )
    tab.load.upload(changed(load), [context.token, tab.load], outputs, **instant())


def _save_turn(
    tab: ChatTab,
    context: PageContext,
    conversation: Conversation,
    language: str,
    session: Session,
    job: Job,
    last: StatusView,
) -> Updates:
    """A turn's picture, its words and its hints; what was not understood stays in the field.

    Of what was stopped its last preview is kept; the talk itself goes on from the turn before.
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
    told = "".join([render_line("; ".join(turn.changes)), *map(render_hint, turn.hints)])
    return {**show_conversation(tab, context, session, language), tab.run_panel.status: told}


def show_conversation(tab: ChatTab, context: PageContext, session: Session, language: str) -> Updates:
    """The talk that is chosen, with its newest picture."""
    talk = session.current_conversation
    turns = () if talk is None else talk.turns
    names = [
        (format_message("chat_name", language, number=number), number)
        for number in range(1, len(session.conversations) + 1)
    ]
    file = get_turn_image(context, session, turns[-1]) if turns else None
    saved = export_conversation(talk, session) if talk is not None and turns else None
    return {
        tab.chat: [] if talk is None else to_chatbot_messages(talk),
        tab.conversation_choice: gr.Radio(choices=names, value=session.conversation_index + 1, visible=len(names) > 1),
        tab.undo: gr.Button(interactive=bool(turns)),
        tab.fork: gr.Button(interactive=bool(turns)),
        tab.save: gr.DownloadButton(value=saved, interactive=saved is not None),
        tab.gallery: gr.Gallery(
            value=[str(made.files[0]) for made in session.chat_images], visible=bool(session.chat_images)
        ),
        tab.clear: gr.Button(visible=bool(session.chat_images)),
        **_show_file(tab, file),
    }


def _show_file(tab: ChatTab, file: Path | None) -> Updates:
    shown = None if file is None else str(file)
    can = {"interactive": file is not None}
    return {
        tab.run_panel.preview: shown,
        tab.selected_file: shown,
        tab.download: gr.DownloadButton(value=shown, **can),
        tab.to_animate: gr.Button(**can),
    }
