"""What each visitor has made: kept until cleared, also over a reload of the page, within bounds.

A visitor is known by a token that the browser keeps; whoever has no token sees nothing.
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

from dianjing.pipelines.media.metadata import GenerationMetadata

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.session import Conversation
    from dianjing.pipelines.conversation.turn import Turn


T = TypeVar("T")
TOKEN_PATTERN = re.compile(r"[\w-]{43}")  # what token_urlsafe(32) gives
MAX_HISTORY_ITEMS = 200  # of one kind, for one visitor
MAX_SESSIONS = 500
MAX_CONVERSATIONS = 8


@dataclass(frozen=True, kw_only=True)
class HistoryItem:
    """One picture, or one film in several formats. turn: of a talk, that it is the picture of."""

    files: tuple[Path, ...]
    metadata: GenerationMetadata
    turn: "Turn | None" = None


@dataclass(kw_only=True)
class Session:
    """Newest first. talks: each goes its own way; `talk` is the number of the one that is shown."""

    folder: Path
    images: list[HistoryItem] = field(default_factory=list)
    videos: list[HistoryItem] = field(default_factory=list)
    animations: list[HistoryItem] = field(default_factory=list)
    chat_images: list[HistoryItem] = field(default_factory=list)
    conversations: list["Conversation"] = field(default_factory=list)
    conversation_index: int = 0

    @property
    def current_conversation(self) -> "Conversation | None":
        return self.conversations[self.conversation_index] if self.conversations else None

    def add_conversation(self, conversation: "Conversation") -> None:
        """To the end, and shown; the oldest of too many goes."""
        self.conversations.append(conversation)
        del self.conversations[:-MAX_CONVERSATIONS]
        self.conversation_index = len(self.conversations) - 1

    def select_conversation(self, number: int) -> None:
        """By its number from 1."""
        self.conversation_index = min(max(int(number) - 1, 0), max(len(self.conversations) - 1, 0))

    def add_item(
        self,
        history: list[HistoryItem],
        files: Sequence[Path],
        metadata: GenerationMetadata,
        *,
        turn: "Turn | None" = None,
    ) -> HistoryItem:
        """A copy of the files, for the worker's own expire; the oldest of too many goes."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        copies = tuple(Path(shutil.copy2(file, folder)) for file in files)
        entry = HistoryItem(files=copies, metadata=metadata, turn=turn)
        history.insert(0, entry)
        for old in history[MAX_HISTORY_ITEMS:]:
            _remove(old)
        del history[MAX_HISTORY_ITEMS:]
        return entry

    def clear(self, history: list[HistoryItem]) -> None:
        for entry in history:
            _remove(entry)
        history.clear()

    def clear_conversations(self) -> None:
        self.conversations.clear()
        self.conversation_index = 0


def _remove(item: HistoryItem) -> None:
    shutil.rmtree(item.files[0].parent, ignore_errors=True)


class SessionStore:
    """All visitors' things, in a temporary folder that goes when the shelf does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dianjing-page-"))
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def get_session(self, token: object, session_hash: str | None) -> tuple[str, Session]:
        """A visitor's token and things; both are new where the token is none of ours.

        session: of this load of the page. What is asked before the browser gave the token back finds the same things.
        """
        with self._lock:
            if not isinstance(token, str) or not TOKEN_PATTERN.fullmatch(token):
                token = _get_most_recent(self._tokens, session_hash or "", lambda: secrets.token_urlsafe(32))
            visit = _get_most_recent(
                self._sessions, token, lambda: Session(folder=Path(tempfile.mkdtemp(dir=self.folder)))
            )
            if len(self._sessions) > MAX_SESSIONS:
                _, oldest = self._sessions.popitem(last=False)
                shutil.rmtree(oldest.folder, ignore_errors=True)
            if len(self._tokens) > MAX_SESSIONS:
                self._tokens.popitem(last=False)
            return token, visit


def _get_most_recent(entries: OrderedDict[str, T], key: str, make: Callable[[], T]) -> T:
    """The thing of a key, made if need be, as the one that was asked for last."""
    if key not in entries:
        entries[key] = make()
    entries.move_to_end(key)
    return entries[key]


def find_history_item(history: Sequence[HistoryItem], file: str | None) -> HistoryItem | None:
    """What a file belongs to."""
    return next((each for each in history if file is not None and Path(file) in each.files), None)
