"""Jobs: a request on its way through the queue, and its events, which any thread may read."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dianjing.demo.requests import AnyRequest
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.prompt_embeds import TruncatedText

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.turn import Turn

HEARTBEAT_S = 0.5  # the last event is repeated this often, so that a reader notices when its client has left


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Files and metadata of a finished job.

    `files`: one PNG for each image, or one video as MP4, WebP and GIF, all with metadata and label inside.
    `metadata`: one entry for each image, or one for the video. `unknown_words`: each word that the model does not know,
    with the known names that look most like it. `truncated`: ends of the prompts that an encoder did not read.
    `crop`: how an uploaded image was scaled and cropped.
    """

    files: tuple[Path, ...]
    metadata: tuple[GenerationMetadata, ...]
    unknown_words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    truncated: tuple[TruncatedText, ...] = ()
    crop: Message | None = None
    turn: "Turn | None" = None


@dataclass(frozen=True, kw_only=True)
class Queued:
    """The job waits; position 1 is the next to run."""

    position: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Steps done of all steps of the job, the newest preview, and the window (from 1) of a long video.

    `decode_images` decodes what the present step predicts, one image for each image of a batch or frame of a video.
    """

    step: int
    total: int
    preview: Image.Image | None = None
    window: int = 1
    windows: int = 1
    decode_images: Callable[[], list[Image.Image]] | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    result: JobResult


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job ended with an error for the user."""

    error: DianjingError


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """The job was stopped: its last preview, and its unfinished images, or frames of the window of a video."""

    preview: Image.Image | None = None
    images: tuple[Image.Image, ...] = ()


JobEvent = Queued | Progress | Done | Failed | Cancelled
STATES = {Queued: "queued", Progress: "running", Done: "done", Failed: "failed", Cancelled: "cancelled"}
FINAL_EVENTS = (Done, Failed, Cancelled)


class Job:
    """A request, with defaults filled in, of one owner; `predicted_s` and `warnings` are for its user."""

    def __init__(self, request: AnyRequest, *, owner: str, predicted_s: float = 0.0, warnings: Sequence[Message] = ()):
        self.request, self.owner = request, owner
        self.predicted_s, self.warnings = predicted_s, tuple(warnings)
        self.id = f"{request.kind}_{secrets.token_hex(16)}"
        self.created_at = time.time()  # shown to users; ages are measured on the monotonic clock
        self.queued_at_s = time.monotonic()
        self.finished_at_s: float | None = None
        self.has_public_files = False  # the client has been given addresses that hold the id and need no key
        self.cancel_requested = threading.Event()  # the job ends at its next step
        self._changed = threading.Condition()
        self._event: JobEvent = Queued(position=1)
        self._version = 1
        self._done_callbacks: list[Callable[[], object]] = []

    @property
    def last_event(self) -> JobEvent:
        return self._event

    @property
    def state(self) -> str:
        """The state as a word: queued, running, done, failed or cancelled."""
        return STATES[type(self._event)]

    @property
    def is_finished(self) -> bool:
        return isinstance(self._event, FINAL_EVENTS)

    def publish(self, event: JobEvent) -> None:
        """Set the job's newest event and wake its readers; ignored once the job is finished."""
        with self._changed:
            if self.is_finished:
                return
            self._event, self._version = event, self._version + 1
            self.finished_at_s = time.monotonic() if self.is_finished else None
            callbacks: list[Callable[[], object]] = self._done_callbacks if self.is_finished else []
            self._changed.notify_all()
        for callback in callbacks:
            callback()

    def stream_events(self, *, heartbeat_s: float = HEARTBEAT_S) -> Iterator[JobEvent]:
        """Yield the newest event until the job is finished, and the same one again after heartbeat_s without news."""
        version = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._version > version, timeout=heartbeat_s)  # noqa: B023 (called at once)
                event, version = self._event, self._version
            yield event
            if isinstance(event, FINAL_EVENTS):
                return

    def wait(self, timeout_s: float | None = None) -> JobEvent:
        """Wait until the job is finished, and return the last event; after timeout_s, the newest."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_finished, timeout=timeout_s)
            return self._event

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` once the job is finished, from the queue's thread; at once if it is already."""
        with self._changed:
            if not self.is_finished:
                self._done_callbacks.append(callback)
                return
        callback()
