"""Errors that a user can mend, with their messages in English and Chinese.

The messages stand in `dianjing/messages/*.toml`, one table a message id: `en`, `zh`, and an `example` of arguments.
This module is below every floor: it imports the standard library alone, and everything may import it.
"""

import errno
import os
import re
import shutil
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
MESSAGES_FOLDER = Path(__file__).with_name("messages")
SEPARATORS: Mapping[Language, str] = {"en": ", ", "zh": "、"}
NETWORK_ERRORS = {  # of packages that may not be imported
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "ReadTimeout",
    "HfHubHTTPError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "RepositoryNotFoundError",
}


class Message:
    """A message id with its arguments, which may be messages, errors and lists of them."""

    def __init__(self, message_id: str, /, **arguments: Any):
        self.message_id, self.arguments = message_id, arguments

    def render(self, language: Language = "en") -> str:
        """The text in a language. Raises: KeyError for an unknown message id or a missing argument."""
        values = {name: _localize(value, language) for name, value in self.arguments.items()}
        return Formatter().vformat(get_messages()[self.message_id][language], (), values)

    def __str__(self) -> str:
        return self.render("en")


class Lines(list[Any]):
    """Arguments of a message that stand on a line each, below its first line."""


class DianjingError(ValueError):
    """An error in what the user gave: what was given, what is allowed and what to do.

    `str(error)` is English; `render(language)` is either. Any other exception that leaves a public function is a fault
    of this package.
    """

    def __init__(self, message_id: str, /, **arguments: Any):
        self.message = Message(message_id, **arguments)
        super().__init__(self.message.render("en"))

    @property
    def message_id(self) -> str:
        return self.message.message_id

    @property
    def arguments(self) -> dict[str, Any]:
        return self.message.arguments

    def render(self, language: Language = "en") -> str:
        """The message in a language."""
        return self.message.render(language)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (type(self), self.message_id, self.arguments)


def _rebuild_error(cls: type[DianjingError], message_id: str, arguments: dict[str, Any]) -> DianjingError:
    return cls(message_id, **arguments)


def _localize(value: Any, language: Language) -> Any:
    if isinstance(value, Message | DianjingError):
        return value.render(language)
    if isinstance(value, Lines):
        return "".join(f"\n  {_localize(item, language)}" for item in value)
    if isinstance(value, list | tuple):
        return SEPARATORS[language].join(str(_localize(item, language)) for item in value)
    return value


@cache
def get_messages() -> dict[str, dict[str, Any]]:
    """Every message: id -> {"en", "zh", "example"}. Raises: ValueError for an id that two files define."""
    messages: dict[str, dict[str, Any]] = {}
    for path in sorted(MESSAGES_FOLDER.glob("*.toml")):
        for message_id, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if message_id in messages:
                raise ValueError(f"{path.name} defines {message_id} again")
            messages[message_id] = entry
    return messages


def get_language() -> Language:
    """The language of this process's user, read from DIANJING_LANG, LC_ALL, LC_MESSAGES and LANG in this order."""
    for name in ("DIANJING_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def is_out_of_memory(error: BaseException) -> bool:
    """True for a lack of memory, also as torch reports it: by its own class, or by a plain RuntimeError on a CPU."""
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    text = str(error).lower()
    parts = ("out of memory", "allocate memory", "enough memory")
    return isinstance(error, RuntimeError) and any(part in text for part in parts)


def convert_system_error(error: BaseException) -> DianjingError | None:
    """The user's error behind a lack of memory, a full disk, a missing permission or a missing network, else None."""
    if isinstance(error, DianjingError):
        return error
    if is_out_of_memory(error):
        return DianjingError("out_of_memory")
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, shutil.Error) or "SafetensorError" in names:  # hold the error of the system as a text
        found = re.search(r"\[Errno (\d+)\]|\(os error (\d+)\)", str(error))
        error = error if found is None else OSError(int(found[1] or found[2]), "")
    if isinstance(error, OSError):
        path = error.filename or "?"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DianjingError("disk_full", path=path)
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return DianjingError("permission_denied", path=path)
    if names & NETWORK_ERRORS:
        return DianjingError("network_failed", reason=str(error).split("\n")[0][:200])
    return None
