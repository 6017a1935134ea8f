"""The tab Talk: a picture drawn turn by turn, in words; several talks can go their own ways."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.bench import Bench, Updates, connect_cancel, make_buttons, make_status, work
from dianjing.demo.page.common import make_examples, make_gallery
from dianjing.demo.page.following import Shown, failed, hint, line
from dianjing.demo.page.look import text
from dianjing.demo.page.settings import make_label_switch
from dianjing.demo.page.shared import Shared, language_for, quiet, slow
from dianjing.demo.page.shelf import Visit
from dianjing.demo.page.talks import keep_preview, load_talk, messages, picture_of, save_talk, start
from dianjing.demo.requests import TalkRequest
from dianjing.demo.texts.interface import TALK_EXAMPLES
from dianjing.demo.texts.messages import say
from dianjing.pipelines.conversation.talk import Conversation


@dataclass(frozen=True, kw_only=True)
class TalkTab:
    """Components. chosen: the file of the picture that is looked at."""

    chat: gr.Chatbot
    said: gr.Textbox
    bench: Bench
    visible_label: gr.Checkbox
    undo: gr.Button
    new: gr.Button
    fork: gr.Button
    which: gr.Radio
    save: gr.DownloadButton
    load: gr.UploadButton
    to_animate: gr.Button
    download: gr.DownloadButton
    gallery: gr.Gallery
    clear: gr.Button
    chosen: gr.State

    @property
    def shown(self) -> list[Any]:
        """What `show_talk` updates."""
        return [self.chat, self.which, self.undo, self.fork, self.save, self.gallery, self.clear, *self.looked_at]

    @property
    def looked_at(self) -> list[Any]:
        return [self.bench.stage, self.chosen, self.download, self.to_animate]


def make_talk_tab(shared: Shared) -> TalkTab:
    """Inside a `gr.Tab`."""
    with gr.Row(elem_classes="dj-board"):
        with gr.Column(elem_classes="dj-ask"):
            chat = gr.Chatbot(
                label=text("talk_chat"), placeholder=text("talk_placeholder"), height=400, elem_id="talk-chat",
                buttons=[], feedback_options=None, render_markdown=False, layout="bubble", show_label=False,
            )  # fmt: skip
            said = gr.Textbox(placeholder=text("talk_say"), show_label=False, container=False, elem_id="talk-said",
                              max_lines=4)  # fmt: skip
            button, cancel = make_buttons("talk")
            make_examples(said, TALK_EXAMPLES)
        with gr.Column(elem_classes="dj-show"):
            parts = _make_show(sends=shared.abilities.takes_clicks)
        with gr.Column(elem_classes="dj-more"):
            parts |= _make_tools()
            with gr.Accordion(text("advanced"), open=False):
                parts["visible_label"] = make_label_switch(shared)
    bench = Bench(
        button=button, cancel=cancel, status=parts.pop("status"), stage=parts.pop("stage"), job=gr.State(None)
    )
    tab = TalkTab(chat=chat, said=said, bench=bench, **parts)
    _connect(tab, shared)
    return tab


def _make_show(*, sends: bool) -> dict[str, Any]:
    stage = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id="talk-stage", show_label=False
    )
    status = make_status("talk")
    with gr.Row(elem_classes="dj-actions"):
        off = {"interactive": False, "min_width": 90}
        to_animate = gr.Button(text("draw_to_animate"), elem_id="talk-to-animate", visible=sends, **off)
        download = gr.DownloadButton(text("download"), elem_id="talk-download", **off)
    gallery, clear = make_gallery("talk")
    return {
        "stage": stage, "status": status, "to_animate": to_animate, "download": download, "gallery": gallery,
        "clear": clear, "chosen": gr.State(None),
    }  # fmt: skip


def _make_tools() -> dict[str, Any]:
    with gr.Row(elem_classes="dj-actions"):
        undo = gr.Button(text("talk_undo"), elem_id="talk-undo", interactive=False, min_width=80)
        fork = gr.Button(text("talk_fork"), elem_id="talk-fork", interactive=False, min_width=80)
        new = gr.Button(text("talk_new"), elem_id="talk-new", min_width=80)
    which = gr.Radio([], label=text("talk_which"), elem_id="talk-which", visible=False)
    with gr.Row(elem_classes="dj-actions"):
        save = gr.DownloadButton(text("talk_save"), elem_id="talk-save", interactive=False, min_width=80)
        load = gr.UploadButton(text("talk_load"), file_types=[".json"], elem_id="talk-load", min_width=80)
    return {"undo": undo, "fork": fork, "new": new, "which": which, "save": save, "load": load}


def _connect(tab: TalkTab, shared: Shared) -> None:
    def tell(request: gr.Request, token: str, said: str, visible_label: bool) -> Iterator[Updates]:
        visit = shared.visit(token, request)
        talk = start(shared, visit)

        def submit(owner: str) -> Job:
            return shared.worker.submit(TalkRequest(conversation=talk, text=said, visible_label=visible_label), owner)

        keep = partial(_keep, tab, shared, talk, language_for(request))
        shown = [*messages(talk), {"role": "user", "content": said}]
        yield from work(
            tab.bench, shared, request, token, submit=submit, keep=keep, begin={tab.chat: shown, tab.said: ""}
        )

    inputs = [shared.token, tab.said, tab.visible_label]
    outputs = list(dict.fromkeys([*tab.bench.outputs, tab.said, *tab.shown]))
    gr.on([tab.bench.button.click, tab.said.submit], tell, inputs, outputs, **slow())
    connect_cancel(tab.bench, shared)
    _connect_tools(tab, shared)

    def look(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        made = shared.visit(token, request).talked
        return _look_at(tab, made[event.index].files[0]) if event.index < len(made) else {tab.chosen: gr.skip()}

    def clear(request: gr.Request, token: str) -> Updates:
        visit = shared.visit(token, request)
        visit.clear(visit.talked)
        visit.clear_talks()
        return show_talk(tab, shared, visit, language_for(request))

    tab.gallery.select(look, shared.token, tab.looked_at, **quiet())
    tab.clear.click(clear, shared.token, tab.shown, **quiet())


def _connect_tools(tab: TalkTab, shared: Shared) -> None:
    """What changes which talk is shown, and how far it goes."""

    def changed(change: Callable[..., object]) -> Callable[..., Updates]:
        def act(request: gr.Request, token: str, *values: Any) -> Updates:
            language, visit = language_for(request), shared.visit(token, request)
            try:
                change(visit, *values)
            except ValueError as error:
                return {tab.bench.status: failed(error, language)}
            return {**show_talk(tab, shared, visit, language), tab.bench.status: ""}

        return act

    def load(visit: Visit, path: str | None) -> None:
        visit.add_talk(load_talk(path, shared))

    def new(visit: Visit) -> None:
        visit.add_talk(shared.studio.conversation(seed=secrets.randbelow(2**32)))

    outputs = [*tab.shown, tab.bench.status]
    tab.undo.click(changed(lambda visit: start(shared, visit).undo()), shared.token, outputs, **quiet())
    fork = changed(lambda visit: visit.add_talk(start(shared, visit).fork()))
    tab.fork.click(fork, shared.token, outputs, **quiet())
    gr.on([tab.new.click, tab.chat.clear], changed(new), shared.token, outputs, **quiet())
    tab.which.input(changed(Visit.choose_talk), [shared.token, tab.which], outputs, **quiet())
    tab.load.upload(changed(load), [shared.token, tab.load], outputs, **quiet())


def _keep(
    tab: TalkTab, shared: Shared, talk: Conversation, language: str, visit: Visit, job: Job, last: Shown
) -> Updates:
    """A turn's picture, its words and its hints; what was not understood stays in the field.

    Of what was stopped its last preview is kept; the talk itself goes on from the turn before.
    """
    assert isinstance(job.request, TalkRequest)
    if last.is_cancelled and last.preview is not None:
        file = keep_preview(shared, visit, job.request, last.preview)
        return {**show_talk(tab, shared, visit, language), **_look_at(tab, file), tab.said: job.request.text}
    if last.result is None or last.result.turn is None:
        return {tab.chat: messages(talk), tab.said: job.request.text}
    turn = last.result.turn
    if talk.turns and talk.turns[-1] is turn:
        visit.keep(visit.talked, last.result.files, last.result.records[0], turn=turn)
    told = "".join([line("; ".join(turn.changes)), *map(hint, turn.hints)])
    return {**show_talk(tab, shared, visit, language), tab.bench.status: told}


def show_talk(tab: TalkTab, shared: Shared, visit: Visit, language: str) -> Updates:
    """The talk that is chosen, with its newest picture."""
    talk = visit.current_talk
    turns = () if talk is None else talk.turns
    names = [(say("talk_name", language, number=number), number) for number in range(1, len(visit.talks) + 1)]
    file = picture_of(shared, visit, turns[-1]) if turns else None
    saved = save_talk(talk, visit) if talk is not None and turns else None
    return {
        tab.chat: [] if talk is None else messages(talk),
        tab.which: gr.Radio(choices=names, value=visit.talk + 1, visible=len(names) > 1),
        tab.undo: gr.Button(interactive=bool(turns)),
        tab.fork: gr.Button(interactive=bool(turns)),
        tab.save: gr.DownloadButton(value=saved, interactive=saved is not None),
        tab.gallery: gr.Gallery(value=[str(made.files[0]) for made in visit.talked], visible=bool(visit.talked)),
        tab.clear: gr.Button(visible=bool(visit.talked)),
        **_look_at(tab, file),
    }


def _look_at(tab: TalkTab, file: Path | None) -> Updates:
    shown = None if file is None else str(file)
    can = {"interactive": file is not None}
    return {
        tab.bench.stage: shown,
        tab.chosen: shown,
        tab.download: gr.DownloadButton(value=shown, **can),
        tab.to_animate: gr.Button(**can),
    }
