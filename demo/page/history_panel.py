"""The history of a tab: a gallery, a caption of what is in view, and buttons to delete and to download."""

import html
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import format_status
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.sessions import HistoryItem, Session, find_history_item
from dianjing.demo.page.theme import translations
from dianjing.errors import Language

ShowFunction = Callable[[HistoryItem | None, Language], Updates]


@dataclass(frozen=True, kw_only=True)
class HistoryPanel:
    """Components; `selected_file` is the state that holds the first file of the item in view.

    `get_history` returns the history of a session; `thumbnail_index` is the file of an item that the gallery shows.
    """

    name: str
    caption: gr.HTML
    gallery: gr.Gallery
    delete: gr.Button
    download_all: gr.Button
    archive: gr.File
    clear: gr.Button
    question: gr.HTML
    confirm: gr.Button
    keep: gr.Button
    selected_file: gr.State
    get_history: Callable[[Session], list[HistoryItem]]
    thumbnail_index: int

    @property
    def item_outputs(self) -> list[Any]:
        """The outputs of `show_item`."""
        return [self.caption, self.selected_file, self.delete]

    @property
    def outputs(self) -> list[Any]:
        """The outputs of `show_history`."""
        return [self.gallery, self.download_all, *self.question_outputs, *self.item_outputs]

    @property
    def question_outputs(self) -> list[Any]:
        return [self.clear, self.question, self.confirm, self.keep]


def make_caption(name: str) -> gr.HTML:
    return gr.HTML(elem_id=f"{name}-caption", elem_classes="dj-caption-block")


def make_history_panel(
    name: str, *, caption: gr.HTML, get_history: Callable[[Session], list[HistoryItem]], thumbnail_index: int = 0
) -> HistoryPanel:
    """Make the components below a preview."""
    gallery = gr.Gallery(
        label=translations("history"),
        columns=6,
        fit_columns=False,
        allow_preview=False,
        interactive=False,
        object_fit="cover",
        buttons=[],
        elem_id=f"{name}-gallery",
        elem_classes="dj-gallery",
        visible=False,
    )
    with gr.Row(elem_classes="dj-history-actions"):
        question = gr.HTML(visible=False, elem_id=f"{name}-question", elem_classes="dj-question")
        small = {"size": "sm", "visible": False, "scale": 0, "min_width": 90}
        buttons = {
            "confirm": gr.Button(
                translations("clear_confirm"), variant="primary", elem_id=f"{name}-clear-confirm", **small
            ),
            "keep": gr.Button(translations("clear_keep"), elem_id=f"{name}-clear-keep", **small),
            "delete": gr.Button(translations("delete"), elem_id=f"{name}-delete", **small),
            "download_all": gr.Button(translations("download_all"), elem_id=f"{name}-download-all", **small),
            "clear": gr.Button(translations("clear_all"), elem_id=f"{name}-clear", **small),
        }
    return HistoryPanel(
        name=name,
        caption=caption,
        gallery=gallery,
        question=question,
        archive=gr.File(visible=False),
        selected_file=gr.State(None),
        get_history=get_history,
        thumbnail_index=thumbnail_index,
        **buttons,
    )


def connect_history_panel(
    panel: HistoryPanel,
    context: PageContext,
    *,
    show: ShowFunction,
    outputs: list[Any],
    on_clear: Callable[[Session, Language], Updates] | None = None,
) -> None:
    """Connect the events of the gallery and its buttons; `show` makes the updates of `outputs` for one item."""

    def show_newest(session: Session, language: Language) -> Updates:
        history = panel.get_history(session)
        return {**show_history(panel, session), **show(history[0] if history else None, language)}

    def select(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        history = panel.get_history(context.get_session(token, request))
        return show(history[event.index] if event.index < len(history) else None, get_request_language(request))

    def delete(request: gr.Request, token: str, file: str | None) -> Updates:
        session = context.get_session(token, request)
        item = find_history_item(panel.get_history(session), file)
        if item is not None:
            session.remove_item(panel.get_history(session), item)
        return show_newest(session, get_request_language(request))

    def show_question(request: gr.Request, token: str) -> Updates:
        count = len(panel.get_history(context.get_session(token, request)))
        question = format_status("clear_question", get_request_language(request), count=count)
        element = gr.HTML(f'<p role="alert">{html.escape(question)}</p>', visible=True)
        return {**_show_question(panel, True), panel.question: element}

    def clear(request: gr.Request, token: str) -> Updates:
        session, language = context.get_session(token, request), get_request_language(request)
        session.clear(panel.get_history(session))
        further = {} if on_clear is None else on_clear(session, language)
        return {**show_newest(session, language), **further}

    def archive(request: gr.Request, token: str) -> str | None:
        session = context.get_session(token, request)
        return make_archive(session, panel.get_history(session), name=panel.name)

    token, newest = context.token, list(dict.fromkeys([*panel.outputs, *outputs]))
    panel.gallery.select(select, token, outputs, **instant())
    panel.delete.click(delete, [token, panel.selected_file], newest, **instant())
    panel.clear.click(show_question, token, panel.question_outputs, **instant())
    panel.keep.click(lambda: _show_question(panel, False), None, panel.question_outputs, **instant())
    panel.confirm.click(clear, token, newest, **instant())
    panel.download_all.click(archive, token, panel.archive, **instant()).then(
        None, panel.archive, None, js="file => window.dianjing.download(file)", **instant()
    )


def _show_question(panel: HistoryPanel, is_visible: bool) -> Updates:
    return {
        panel.clear: gr.Button(visible=not is_visible),
        panel.question: gr.HTML(visible=is_visible),
        panel.confirm: gr.Button(visible=is_visible),
        panel.keep: gr.Button(visible=is_visible),
    }


def show_history(panel: HistoryPanel, session: Session) -> Updates:
    """Updates of the gallery; each picture's alternative text is its prompt."""
    history = panel.get_history(session)
    pictures = [(str(item.files[panel.thumbnail_index]), item.metadata.prompt or None) for item in history]
    hidden = {component: gr.update(visible=False) for component in (panel.question, panel.confirm, panel.keep)}
    return {
        panel.gallery: gr.Gallery(value=pictures, visible=bool(history)),
        panel.download_all: gr.Button(visible=bool(history)),
        **hidden,
        panel.clear: gr.Button(visible=bool(history)),
    }


def show_item(panel: HistoryPanel, item: HistoryItem | None, language: Language) -> Updates:
    """Updates that caption the item in view, and let it be deleted."""
    return {
        panel.caption: "" if item is None else render_caption(item, language),
        panel.selected_file: None if item is None else str(item.files[0]),
        panel.delete: gr.Button(visible=item is not None),
    }


def render_caption(item: HistoryItem, language: Language) -> str:
    """Prompt, size and seed of an item as HTML; the prompt becomes the alternative text of the picture."""
    metadata = item.metadata
    size = format_status(
        "caption",
        language,
        width=metadata.settings.get("width", "?"),
        height=metadata.settings.get("height", "?"),
        seed=metadata.seed,
    )
    unfinished = f" · {format_status('unfinished', language)}" if metadata.settings.get("unfinished") else ""
    prompt = html.escape(metadata.prompt)
    return (
        f'<p class="dj-caption"><span class="dj-caption-prompt">{prompt}</span>'
        f"<span>{html.escape(size + unfinished)}</span></p>"
    )


def make_archive(session: Session, history: list[HistoryItem], *, name: str) -> str | None:
    """Write all files of a history to one ZIP in the session's folder; None for an empty history."""
    if not history:
        return None
    path = session.folder / f"dianjing-{name}.zip"
    unfinished = path.with_suffix(".zip.part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:  # the files are compressed already
        for number, item in enumerate(reversed(history), start=1):
            for file in item.files:
                archive.write(file, f"{number:03d}-{file.name}")
    unfinished.replace(path)
    return str(path)
