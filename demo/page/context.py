"""The context of all tabs: queue, engine, sessions of the visitors, and options of the page's events.

F frames, H height, W width.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image

from dianjing.demo.i18n.translation import parse_accept_language
from dianjing.demo.limits import ModelCapabilities, ServerLimits
from dianjing.demo.page.sessions import HistoryItem, Session, SessionStore
from dianjing.demo.queue import JobQueue
from dianjing.demo.upload_store import UploadStore
from dianjing.errors import Language
from dianjing.pipelines.media.metadata import GenerationMetadata

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.turn import Turn

MAX_CONCURRENT_JOB_EVENTS = 24  # each occupies one of Gradio's threads while it waits for its job


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """Objects that all tabs share; `token` is the browser state that identifies a visitor."""

    queue: JobQueue
    uploads: UploadStore
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
        """The owner of a visitor's jobs."""
        return f"page-{self.session_store.get_session(token, request.session_hash)[0]}"

    def get_session(self, token: object, request: gr.Request) -> Session:
        """The visitor's session, a new one for an unknown token."""
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
        """Write an image that no job has written, and add it to a history of the session."""
        folder = secrets.token_hex(16)
        files = self.queue.results.save_images(folder, [image], [metadata], visible_label=visible_label)
        item = session.add_item(history, files, metadata, turn=turn)
        self.queue.results.remove(folder)
        return item

    def save_session_video(
        self,
        session: Session,
        history: list[HistoryItem],
        frames: np.ndarray,
        metadata: GenerationMetadata,
        *,
        fps: float,
        visible_label: bool | None = None,
    ) -> HistoryItem:
        """Write frames uint8 (F, H, W, 3) that no job has written, and add the video to a history of the session."""
        folder = secrets.token_hex(16)
        files = self.queue.results.save_video(folder, frames, metadata, fps=fps, visible_label=visible_label)
        item = session.add_item(history, files, metadata)
        self.queue.results.remove(folder)
        return item


def get_request_language(request: gr.Request) -> Language:
    """The language that the browser prefers."""
    return parse_accept_language(request.headers.get("accept-language") or "")


def instant(**options: Any) -> dict[str, Any]:
    """Options of a private event that bypasses Gradio's queue."""
    return {"queue": False, "api_visibility": "private", "show_progress": "hidden", **options}


def show_while(components: Sequence[Any], choice: Any, condition: str) -> None:
    """Show components while a condition holds: a JavaScript expression of `value`, that of the component `choice`.

    It runs in the browser. Where two functions of the server follow the change of one component, and it changes again
    while they run, the page of Gradio 6.31 calls both in turn without end: at most one may be of the server.
    """
    update = f"{{__type__: 'update', visible: {condition}}}"
    choice.change(None, choice, list(components), js=f"(value) => Array({len(components)}).fill({update})", **instant())


def job_event(**options: Any) -> dict[str, Any]:
    """Options of a private event that follows a job."""
    return instant(queue=True, concurrency_id="jobs", concurrency_limit=MAX_CONCURRENT_JOB_EVENTS, **options)
