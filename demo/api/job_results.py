"""Results of jobs for HTTP clients: statuses, errors, and waiting for the end of a job."""

import asyncio
import contextlib

from starlette.requests import Request

from dianjing.demo.errors import ApiError, ShuttingDownError
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, JobResult

DISCONNECT_POLL_S = 0.2  # a waiting request checks this often whether its client has left
OPENAI_STATUSES = {
    "queued": "queued",
    "running": "in_progress",
    "done": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
FAILURE_STATUS_CODES = {"request": 400, "memory": 503, "server": 500}


class UnknownModelError(ApiError):
    status = 404


class NotReadyError(ApiError):
    status = 409


class UnsupportedMediaTypeError(ApiError):
    status = 415


class JobFailedError(ApiError):
    """The error of a failed job."""

    def __init__(self, failed: Failed):
        super().__init__(failed.error)
        self.status = FAILURE_STATUS_CODES[failed.cause]


def check_model(name: str | None, *, served: str) -> None:
    """Raise UnknownModelError for a model that this server does not have."""
    if name not in (None, served):
        raise UnknownModelError(f"model is {ascii(name)[:60]}; this server has {served}")


def get_result(job: Job) -> JobResult:
    """The result of a finished job. Raises: ApiError with the reason if there is none."""
    event = job.last_event
    if isinstance(event, Done):
        return event.result
    if isinstance(event, Failed):
        raise JobFailedError(event)
    if isinstance(event, Cancelled):
        raise ShuttingDownError("this was cancelled, or the server is stopping; ask again")
    raise NotReadyError(f"this is not finished yet, but {OPENAI_STATUSES[job.state]}; ask again in a few seconds")


async def wait_for_job(job: Job, request: Request) -> None:
    """Wait until the job is finished.

    Raises: ApiError if the client has left.
    """
    loop, is_done = asyncio.get_running_loop(), asyncio.Event()

    def set_done() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(is_done.set)

    job.add_done_callback(set_done)
    while not is_done.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(is_done.wait(), DISCONNECT_POLL_S)
        if await request.is_disconnected():
            raise ApiError("the client left")
