"""From a job to what its client may have."""

import asyncio
import contextlib

from starlette.requests import Request

from dianjing.demo.errors import RefusedError, StoppingError
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, Result

LISTEN_S = 0.2  # how often a request that waits looks whether anybody is still there
STATUSES = {
    "queued": "queued", "running": "in_progress", "done": "completed", "failed": "failed", "cancelled": "cancelled",
}  # fmt: skip
FAULTS = {"request": 400, "memory": 503, "server": 500}


class UnknownModelError(RefusedError):
    status = 404


class NotReadyError(RefusedError):
    status = 409


class WrongContentError(RefusedError):
    status = 415


class FailedError(RefusedError):
    """What a job said when it failed."""

    def __init__(self, failed: Failed):
        super().__init__(failed.error)
        self.status = FAULTS[failed.fault]


def check_model(name: str | None, *, served: str) -> None:
    if name not in (None, served):
        raise UnknownModelError(f"model is {ascii(name)[:60]}; this server has {served}")


def result_of(job: Job) -> Result:
    """Raises: RefusedError where there is none, with the reason."""
    event = job.event
    if isinstance(event, Done):
        return event.result
    if isinstance(event, Failed):
        raise FailedError(event)
    if isinstance(event, Cancelled):
        raise StoppingError("this was cancelled, or the server is stopping; ask again")
    raise NotReadyError(f"this is not finished yet, but {STATUSES[job.state]}; ask again in a few seconds")


async def finish(job: Job, request: Request) -> None:
    """Wait as long as the client does.

    Raises: RefusedError, which nobody hears, where the client left.
    """
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(over.set)

    job.when_over(tell)
    while not over.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(over.wait(), LISTEN_S)
        if await request.is_disconnected():
            raise RefusedError("the client left")
