"""What all tabs stand on: the worker, what visitors have made, and who is asking."""

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from dianjing.demo.i18n.translation import parse_accept_language
from dianjing.demo.limits import ModelCapabilities, ServerLimits
from dianjing.demo.page.sessions import HistoryItem, Session, SessionStore
from dianjing.demo.queue import JobQueue
from dianjing.pipelines.media.metadata import GenerationMetadata

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.turn import Turn


MAX_CONCURRENT_JOB_EVENTS = 24  # each holds a thread of Gradio's while it waits; the worker's own queue has the order


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """token: the visitor's, kept by the browser."""

    queue: JobQueue
    engine: Any
    session_store: SessionStore
    token: gr.BrowserState

    @property
    def capabilities(self) -> ModelCapabilities:
        return self.engine.capabilities

    @property
    def limits(self) -> ServerLimits:
        return self.queue.limits

    def get_owner(self, token: object, request: gr.Request) -> str:
        """Of the visitor's jobs."""
        return f"page-{self.session_store.get_session(token, request.session_hash)[0]}"

    def get_session(self, token: object, request: gr.Request) -> Session:
        """What the visitor has made."""
        return self.session_store.get_session(token, request.session_hash)[1]

    def save_session_image(
        self,
        session: Session,
        history: list[HistoryItem],
        image: Image.Image,
        metadata: GenerationMetadata,
        *,
        turn: "Turn | None" = None,
        visible_label: bool | None = None,
    ) -> HistoryItem:
        """One that no job has written a file of."""
        number = secrets.token_hex(16)
        files = self.queue.results.save_images(number, [image], [metadata], visible_label=visible_label)
        entry = session.add_item(history, files, metadata, turn=turn)
        self.queue.results.remove(number)
        return entry


def get_request_language(request: gr.Request) -> str:
    """ "zh" or "en", by the browser's wishes."""
    return parse_accept_language(request.headers.get("accept-language") or "")


def instant(**options: Any) -> dict[str, Any]:
    """Options of an event of the page that answers at once."""
    return {"queue": False, "api_visibility": "private", "show_progress": "hidden", **options}


def job_event(**options: Any) -> dict[str, Any]:
    """Options of an event that follows a job."""
    return instant(queue=True, concurrency_id="jobs", concurrency_limit=MAX_CONCURRENT_JOB_EVENTS, **options)
