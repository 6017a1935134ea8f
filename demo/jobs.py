"""One request on its way: waiting, drawing, done; told to anyone who listens, from any thread."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from dianjing.demo.requests import AnyRequest
from dianjing.pipelines.media.metadata import GenerationMetadata

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.turn import Turn

HEARTBEAT_S = 0.5  # a listener hears something at least this often, so that it can leave


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """files: one PNG for each picture; MP4, WebP and GIF of a film; each with its settings and its label inside.

    records stand beside the pictures, and alone for a film. fit says how an uploaded picture was cut.
    """

    files: tuple[Path, ...]
    metadata: tuple[GenerationMetadata, ...]
    unknown_words: tuple[str, ...] = ()
    crop_description: str | None = None
    turn: "Turn | None" = None


@dataclass(frozen=True, kw_only=True)
class Queued:
    """position 1 is the next to be drawn."""

    position: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """step of total, over the whole job; preview is the newest there is. A long film has several windows, from 1."""

    step: int
    total: int
    preview: Image.Image | None = None
    window: int = 1
    windows: int = 1


@dataclass(frozen=True, kw_only=True)
class Done:
    result: JobResult


@dataclass(frozen=True, kw_only=True)
class Failed:
    """error says in English what went wrong and what to change; `errors.translate` says it in Chinese.

    fault: what has to change for it to work: what was asked for, how much of it, or the server.
    """

    error: str
    cause: Literal["request", "memory", "server"] = "request"


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    preview: Image.Image | None = None


JobEvent = Queued | Progress | Done | Failed | Cancelled
STATES = {Queued: "queued", Progress: "running", Done: "done", Failed: "failed", Cancelled: "cancelled"}
FINAL_EVENTS = (Done, Failed, Cancelled)


class Job:
    """A settled request of one owner; whoever knows the id and the owner may see it."""

    def __init__(self, request: AnyRequest, *, owner: str):
        self.request, self.owner = request, owner
        self.id = f"{request.kind}_{secrets.token_hex(16)}"
        self.created_at = time.time()  # for people; ages are counted on the monotonic clock
        self.queued_at_s = time.monotonic()
        self.finished_at_s: float | None = None
        self.is_cancel_requested = False  # asked for; the job ends at its next step
        self._changed = threading.Condition()
        self._event: JobEvent = Queued(position=1)
        self._version = 1
        self._done_callbacks: list[Callable[[], object]] = []

    @property
    def last_event(self) -> JobEvent:
        """What happened last."""
        return self._event

    @property
    def state(self) -> str:
        """queued, running, done, failed or cancelled."""
        return STATES[type(self._event)]

    @property
    def is_finished(self) -> bool:
        return isinstance(self._event, FINAL_EVENTS)

    def publish(self, event: JobEvent) -> None:
        """What happened; nothing more happens to a job that is over."""
        with self._changed:
            if self.is_finished:
                return
            self._event, self._version = event, self._version + 1
            self.finished_at_s = time.monotonic() if self.is_finished else None
            listeners: list[Callable[[], object]] = self._done_callbacks if self.is_finished else []
            self._changed.notify_all()
        for listener in listeners:
            listener()

    def stream_events(self, *, heartbeat_s: float = HEARTBEAT_S) -> Iterator[JobEvent]:
        """What happens, until it is over; the newest only, and the same again after beat_s without news."""
        seen = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._version > seen, timeout=heartbeat_s)  # noqa: B023 (called at once)
                event, seen = self._event, self._version
            yield event
            if isinstance(event, FINAL_EVENTS):
                return

    def wait(self, timeout_s: float | None = None) -> JobEvent:
        """The last event; the newest where it is not over in time."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_finished, timeout=timeout_s)
            return self._event

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call from the worker's thread once it is over; at once where it is."""
        with self._changed:
            if not self.is_finished:
                self._done_callbacks.append(callback)
                return
        callback()
