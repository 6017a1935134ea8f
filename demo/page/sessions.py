"""Sessions of the page's visitors: their histories and conversations, kept within limits until cleared.

A visitor is identified by a token that the browser stores; a reload of the page finds the same session.
"""

import re
import secrets
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dianjing.demo.page.runs import SessionRun
from dianjing.errors import DianjingError
from dianjing.pipelines.media.metadata import GenerationMetadata

if TYPE_CHECKING:
    from dianjing.demo.page.canvas import RegionCanvas
    from dianjing.pipelines.conversation.session import Conversation
    from dianjing.pipelines.conversation.turn import Turn

T = TypeVar("T")

TOKEN_PATTERN = re.compile(r"[\w-]{43}")  # the form of secrets.token_urlsafe(32)
MAX_HISTORY_ITEMS = 200  # of each history of a session
MAX_SESSIONS = 500
MAX_CONVERSATIONS = 8
MAX_FAILED_MESSAGES = 50


@dataclass(frozen=True, kw_only=True)
class HistoryItem:
    """An image, or a video in its formats; `turn` is the conversation's turn that an image belongs to."""

    files: tuple[Path, ...]
    metadata: GenerationMetadata
    turn: "Turn | None" = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FailedMessage:
    """A message that a conversation refused or that failed, with its error; it follows `num_turns` turns."""

    conversation: "Conversation"
    num_turns: int
    text: str
    error: DianjingError


@dataclass(kw_only=True)
class Session:
    """Histories, newest first, and conversations of one visitor."""

    folder: Path
    images: list[HistoryItem] = field(default_factory=list)
    edits: list[HistoryItem] = field(default_factory=list)
    videos: list[HistoryItem] = field(default_factory=list)
    animations: list[HistoryItem] = field(default_factory=list)
    chat_images: list[HistoryItem] = field(default_factory=list)
    conversations: list["Conversation"] = field(default_factory=list)
    conversation_index: int = 0
    failed_messages: list[FailedMessage] = field(default_factory=list)
    deleted_turns: list["Turn"] = field(default_factory=list)  # those whose image was deleted from the history
    runs: dict[str, SessionRun] = field(default_factory=dict)  # the last one of each tab
    canvas: "RegionCanvas | None" = None

    @property
    def current_conversation(self) -> "Conversation | None":
        return self.conversations[self.conversation_index] if self.conversations else None

    def add_conversation(self, conversation: "Conversation") -> None:
        """Append a conversation and select it; the oldest above the limit is dropped."""
        self.conversations.append(conversation)
        del self.conversations[:-MAX_CONVERSATIONS]
        self.conversation_index = len(self.conversations) - 1

    def select_conversation(self, number: int) -> None:
        """Select a conversation by its number, from 1."""
        self.conversation_index = min(max(int(number) - 1, 0), max(len(self.conversations) - 1, 0))

    def add_item(
        self,
        history: list[HistoryItem],
        files: Sequence[Path],
        metadata: GenerationMetadata,
        *,
        turn: "Turn | None" = None,
    ) -> HistoryItem:
        """Add copies of files to a history, as the queue's own expire; the oldest item above the limit is removed."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        copies = tuple(Path(shutil.copy2(file, folder)) for file in files)
        item = HistoryItem(files=copies, metadata=metadata, turn=turn)
        history.insert(0, item)
        for old in history[MAX_HISTORY_ITEMS:]:
            _remove_files(old)
        del history[MAX_HISTORY_ITEMS:]
        return item

    def clear(self, history: list[HistoryItem]) -> None:
        """Remove all items of a history and their files."""
        for item in list(history):
            self.remove_item(history, item)

    def remove_item(self, history: list[HistoryItem], item: HistoryItem) -> None:
        """Remove one item of a history and its files."""
        history[:] = [each for each in history if each is not item]
        if item.turn is not None:
            self.deleted_turns.append(item.turn)
        _remove_files(item)

    def add_failure(self, failure: FailedMessage) -> None:
        """Keep a message that failed; the oldest above the limit is dropped."""
        self.failed_messages.append(failure)
        del self.failed_messages[:-MAX_FAILED_MESSAGES]

    def clear_conversations(self) -> None:
        self.conversations.clear()
        self.failed_messages.clear()
        self.deleted_turns.clear()
        self.conversation_index = 0


def _remove_files(item: HistoryItem) -> None:
    shutil.rmtree(item.files[0].parent, ignore_errors=True)


class SessionStore:
    """All sessions, in a temporary folder that is removed with the store."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dianjing-page-"))
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def get_session(self, token: object, session_hash: str | None) -> tuple[str, Session]:
        """Look up a visitor's token and session; both are new for a token that is not ours.

        `session_hash` identifies one load of the page: events that come before the browser has stored its token find
        the same session.
        """
        with self._lock:
            if not isinstance(token, str) or not TOKEN_PATTERN.fullmatch(token):
                token = _get_or_create(self._tokens, session_hash or "", lambda: secrets.token_urlsafe(32))
            session = _get_or_create(
                self._sessions, token, lambda: Session(folder=Path(tempfile.mkdtemp(dir=self.folder)))
            )
            if len(self._sessions) > MAX_SESSIONS:
                _, oldest = self._sessions.popitem(last=False)
                shutil.rmtree(oldest.folder, ignore_errors=True)
            if len(self._tokens) > MAX_SESSIONS:
                self._tokens.popitem(last=False)
            return token, session


def _get_or_create(entries: OrderedDict[str, T], key: str, create: Callable[[], T]) -> T:
    """The entry of a key, created if missing, and moved to the end as the most recently used."""
    if key not in entries:
        entries[key] = create()
    entries.move_to_end(key)
    return entries[key]


def find_history_item(history: Sequence[HistoryItem], file: str | None) -> HistoryItem | None:
    """The item of a history that a file belongs to, if any."""
    return next((item for item in history if file is not None and Path(file) in item.files), None)
