"""Results of jobs for HTTP clients: statuses, errors, and waiting for the end of a job."""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from starlette.requests import Request

from dianjing.demo.api.errors import get_caller_language
from dianjing.demo.errors import ApiError, JobNotFinishedError, ShuttingDownError
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, JobEvent, JobResult

EVENT_POLL_S = 0.2  # a waiting request checks this often for news, and whether its client has left
OPENAI_STATUSES = {  # OpenAI's API has no status for a cancelled job
    "queued": "queued",
    "running": "in_progress",
    "done": "completed",
    "failed": "failed",
    "cancelled": "failed",
}


def get_result(job: Job) -> JobResult:
    """The result of a finished job. Raises: DianjingError with the reason if there is none."""
    event = job.last_event
    if isinstance(event, Done):
        return event.result
    if isinstance(event, Failed):
        raise copy.copy(event.error)  # every caller gets a traceback of its own
    if isinstance(event, Cancelled):
        raise ShuttingDownError("job_cancelled")
    raise JobNotFinishedError("job_not_finished", status=OPENAI_STATUSES[job.state])


async def iterate_events(job: Job, request: Request) -> AsyncIterator[JobEvent]:
    """Yield the newest event of a job every `EVENT_POLL_S`, and its last one as soon as the job is finished.

    Raises: ApiError if the client has left.
    """
    loop, is_done = asyncio.get_running_loop(), asyncio.Event()

    def set_done() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(is_done.set)

    job.add_done_callback(set_done)
    while not is_done.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(is_done.wait(), EVENT_POLL_S)
        if await request.is_disconnected():
            raise ApiError("client_disconnected")
        yield job.last_event


def describe_unread_words(result: JobResult | None) -> dict[str, Any]:
    """The fields of a response for what the model did not read: words that it does not know, ends that were cut off."""
    if result is None:
        return {"unknown_words": [], "nearest_words": {}, "truncated": []}
    words = {"unknown_words": list(result.unknown_words), "nearest_words": result.unknown_words}
    return {**words, "truncated": [asdict(each) for each in result.truncated]}


def render_warnings(job: Job, request: Request) -> list[str]:
    """Render the warnings about a request in the caller's language."""
    return [warning.render(get_caller_language(request)) for warning in job.warnings]


async def wait_for_job(job: Job, request: Request) -> None:
    """Wait until the job is finished. Raises: ApiError if the client has left."""
    async for _ in iterate_events(job, request):
        pass
