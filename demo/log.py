"""The server's log: what a visitor has written is cut, and takes one line."""

import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any

MAX_LOGGED_CHARS = 200
LIBRARIES_WITH_HANDLERS = ("diffusers", "transformers")


class ShorteningFormatter(logging.Formatter):
    """Cuts messages and the texts of exceptions, which may hold prompts; the frames of a traceback stay whole."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name of logging)
        record.message = shorten(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the name of logging)
        parts = []
        for error in reversed(list(_iterate_chain(ei[1]))):
            frames = "".join(traceback.format_tb(error.__traceback__))
            parts.append(
                f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}: {shorten(str(error))}"
            )
        return "\n\nThen:\n\n".join(parts)


def shorten(text: str) -> str:
    """One line of at most MAX_LOGGED_CHARS printable characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: MAX_LOGGED_CHARS + 1])
    return line if len(line) <= MAX_LOGGED_CHARS else f"{line[: MAX_LOGGED_CHARS - 3]}..."


def configure_logging() -> None:
    """Let all loggers of this process write warnings to stderr in the shortened form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ShorteningFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in LIBRARIES_WITH_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True


def _iterate_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that led to it as Python shows them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
