"""What all tabs stand on: the worker, what visitors have made, and who is asking."""

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from dianjing.demo.errors import wanted_language
from dianjing.demo.limits import Limits
from dianjing.demo.page.shelf import Made, Shelf, Visit
from dianjing.demo.requests import Abilities
from dianjing.demo.worker import Worker
from dianjing.pipelines.media import Record

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.talk import Turn

FOLLOWED_AT_ONCE = 24  # each holds a thread of Gradio's while it waits; the worker's own queue has the order


@dataclass(frozen=True, kw_only=True)
class Shared:
    """token: the visitor's, kept by the browser."""

    worker: Worker
    studio: Any
    shelf: Shelf
    token: gr.BrowserState

    @property
    def abilities(self) -> Abilities:
        return self.studio.abilities

    @property
    def limits(self) -> Limits:
        return self.worker.limits

    def owner(self, token: object, request: gr.Request) -> str:
        """Of the visitor's jobs."""
        return f"page-{self.shelf.visit(token, request.session_hash)[0]}"

    def visit(self, token: object, request: gr.Request) -> Visit:
        """What the visitor has made."""
        return self.shelf.visit(token, request.session_hash)[1]

    def keep_picture(
        self, visit: Visit, made: list[Made], image: Image.Image, record: Record, *, turn: "Turn | None" = None,
        visible_label: bool | None = None,
    ) -> Made:  # fmt: skip
        """One that no job has written a file of."""
        number = secrets.token_hex(16)
        files = self.worker.files.save_pictures(number, [image], [record], visible_label=visible_label)
        entry = visit.keep(made, files, record, turn=turn)
        self.worker.files.forget(number)
        return entry


def language_for(request: gr.Request) -> str:
    """ "zh" or "en", by the browser's wishes."""
    return wanted_language(request.headers.get("accept-language") or "")


def quiet(**more: Any) -> dict[str, Any]:
    """Options of an event of the page that answers at once."""
    return {"queue": False, "api_visibility": "private", "show_progress": "hidden", **more}


def slow(**more: Any) -> dict[str, Any]:
    """Options of an event that follows a job."""
    return quiet(queue=True, concurrency_id="jobs", concurrency_limit=FOLLOWED_AT_ONCE, **more)
