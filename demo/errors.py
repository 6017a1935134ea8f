"""Errors of the server, each with its HTTP status, and what is removed from messages that leave the server."""

import re


class ApiError(ValueError):
    """A request that is refused; `status` is the HTTP status."""

    status = 400


class MissingKeyError(ApiError):
    status = 401


class JobNotFoundError(ApiError):
    """The same for a job that never existed, has expired, or belongs to another owner."""

    status = 404


class QueueFullError(ApiError):
    status = 429


class ShuttingDownError(ApiError):
    status = 503


OUT_OF_MEMORY = "the server ran out of memory on this request; ask for a smaller size, fewer pictures or fewer frames"
INTERNAL_ERROR = (
    "the server failed on this request, and noted why; other requests go on: try again, or change the settings"
)
PATH_PATTERN = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:\\|/)(?:[\w.@+-]+[/\\])+[\w.@+-]*")


def redact_paths(message: str) -> str:
    """Replace paths of the server's files in a message by an ellipsis."""
    return PATH_PATTERN.sub("...", message)
