"""What a server refuses, and how it says so in the caller's language without a word about its own files."""

import re


class RefusedError(ValueError):
    """A request that is not taken now; `status` is the HTTP status that says the same."""

    status = 400


class QueueFullError(RefusedError):
    status = 429


class StoppingError(RefusedError):
    status = 503


class NoSuchJobError(RefusedError):
    """The same for a job that never was, is gone, or is somebody else's."""

    status = 404


OUT_OF_MEMORY = "the server ran out of memory on this request; ask for a smaller size, fewer pictures or fewer frames"
BROKEN = "the server failed on this request, and noted why; other requests go on: try again, or change the settings"
PATH = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:\\|/)(?:[\w.@+-]+[/\\])+[\w.@+-]*")


def without_paths(message: str) -> str:
    """A message that names no folder of the server."""
    return PATH.sub("...", message)
