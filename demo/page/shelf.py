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

from dianjing.pipelines.media import Record

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.talk import Conversation, Turn

T = TypeVar("T")
TOKEN = re.compile(r"[\w-]{43}")  # what token_urlsafe(32) gives
MAX_MADE = 200  # of one kind, for one visitor
MAX_VISITORS = 500
MAX_TALKS = 8


@dataclass(frozen=True, kw_only=True)
class Made:
    """One picture, or one film in several formats. turn: of a talk, that it is the picture of."""

    files: tuple[Path, ...]
    record: Record
    turn: "Turn | None" = None


@dataclass(kw_only=True)
class Visit:
    """Newest first. talks: each goes its own way; `talk` is the number of the one that is shown."""

    folder: Path
    pictures: list[Made] = field(default_factory=list)
    films: list[Made] = field(default_factory=list)
    animations: list[Made] = field(default_factory=list)
    talked: list[Made] = field(default_factory=list)
    talks: list["Conversation"] = field(default_factory=list)
    talk: int = 0

    @property
    def current_talk(self) -> "Conversation | None":
        return self.talks[self.talk] if self.talks else None

    def add_talk(self, talk: "Conversation") -> None:
        """To the end, and shown; the oldest of too many goes."""
        self.talks.append(talk)
        del self.talks[:-MAX_TALKS]
        self.talk = len(self.talks) - 1

    def choose_talk(self, number: int) -> None:
        """By its number from 1."""
        self.talk = min(max(int(number) - 1, 0), max(len(self.talks) - 1, 0))

    def keep(self, made: list[Made], files: Sequence[Path], record: Record, *, turn: "Turn | None" = None) -> Made:
        """A copy of the files, for the worker's own expire; the oldest of too many goes."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        copies = tuple(Path(shutil.copy2(file, folder)) for file in files)
        entry = Made(files=copies, record=record, turn=turn)
        made.insert(0, entry)
        for old in made[MAX_MADE:]:
            _remove(old)
        del made[MAX_MADE:]
        return entry

    def clear(self, made: list[Made]) -> None:
        for entry in made:
            _remove(entry)
        made.clear()

    def clear_talks(self) -> None:
        self.talks.clear()
        self.talk = 0


def _remove(made: Made) -> None:
    shutil.rmtree(made.files[0].parent, ignore_errors=True)


class Shelf:
    """All visitors' things, in a temporary folder that goes when the shelf does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dianjing-page-"))
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._gone = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def visit(self, token: object, session: str | None) -> tuple[str, Visit]:
        """A visitor's token and things; both are new where the token is none of ours.

        session: of this load of the page. What is asked before the browser gave the token back finds the same things.
        """
        with self._lock:
            if not isinstance(token, str) or not TOKEN.fullmatch(token):
                token = _newest(self._tokens, session or "", lambda: secrets.token_urlsafe(32))
            visit = _newest(self._visits, token, lambda: Visit(folder=Path(tempfile.mkdtemp(dir=self.folder))))
            if len(self._visits) > MAX_VISITORS:
                _, oldest = self._visits.popitem(last=False)
                shutil.rmtree(oldest.folder, ignore_errors=True)
            if len(self._tokens) > MAX_VISITORS:
                self._tokens.popitem(last=False)
            return token, visit


def _newest(things: OrderedDict[str, T], key: str, make: Callable[[], T]) -> T:
    """The thing of a key, made if need be, as the one that was asked for last."""
    if key not in things:
        things[key] = make()
    things.move_to_end(key)
    return things[key]


def find(made: Sequence[Made], file: str | None) -> Made | None:
    """What a file belongs to."""
    return next((each for each in made if file is not None and Path(file) in each.files), None)
