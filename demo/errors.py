"""What a server refuses, and how it says so in the caller's language without a word about its own files."""

import re


class ApiError(ValueError):
    """A request that is not taken now; `status` is the HTTP status that says the same."""

    status = 400


class MissingKeyError(ApiError):
    status = 401


class JobNotFoundError(ApiError):
    """The same for a job that never was, is gone, or is somebody else's."""

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
    """A message that names no folder of the server."""
    return PATH_PATTERN.sub("...", message)
