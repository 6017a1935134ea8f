"""Errors of the server with their HTTP statuses, and the conversion of any exception to an error for the user."""

import errno
import logging
import re
from typing import ClassVar, Literal

from dianjing.errors import DianjingError, is_out_of_memory

logger = logging.getLogger(__name__)

Cause = Literal["request", "memory", "server"]
PATH_PATTERN = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:\\|/)(?:[\w.@+-]+[/\\])+[\w.@+-]*")


class ApiError(DianjingError):
    """A request that is refused or has failed.

    `status` is the HTTP status; `cause` is what has to change: the request, its size (memory), or the server.
    """

    status: ClassVar[int] = 400
    cause: ClassVar[Cause] = "request"


class MissingKeyError(ApiError):
    status = 401


class TooManyFailuresError(ApiError):
    status = 429


class ForbiddenOriginError(ApiError):
    status = 403


class NotFoundError(ApiError):
    status = 404


class JobNotFoundError(NotFoundError):
    """The same for a job that never existed, has expired, or belongs to another owner."""


class MethodNotAllowedError(ApiError):
    status = 405


class JobNotFinishedError(ApiError):
    status = 409


class SlowBodyError(ApiError):
    status = 408


class BodyTooLongError(ApiError):
    status = 413


class UnsupportedMediaTypeError(ApiError):
    status = 415


class QueueFullError(ApiError):
    status = 429


class ServerMemoryError(ApiError):
    status = 503
    cause = "memory"


class ServerFaultError(ApiError):
    status = 500
    cause = "server"


class ShuttingDownError(ApiError):
    status = 503


def get_status(error: DianjingError) -> int:
    """The HTTP status of an error; 400 for one of the floors below."""
    return error.status if isinstance(error, ApiError) else 400


def get_cause(error: DianjingError) -> Cause:
    """The cause of an error; the request for one of the floors below."""
    return error.cause if isinstance(error, ApiError) else "request"


def to_user_error(error: Exception, *, context: str) -> DianjingError:
    """Convert an exception to an error for the user.

    Anything but a DianjingError is logged with its traceback: it is a fault of the server or of this package. `context`
    says in the log what failed.
    """
    if isinstance(error, DianjingError):
        return error
    if is_out_of_memory(error):
        logger.warning("%s: out of memory", context)
        return ServerMemoryError("server_out_of_memory")
    logger.error("%s failed", context, exc_info=error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ServerFaultError("server_disk_full")
    return ServerFaultError("server_failed")


def redact_paths(message: str) -> str:
    """Replace paths of the server's files in a message by an ellipsis."""
    return PATH_PATTERN.sub("...", message)
