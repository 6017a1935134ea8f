"""One thread draws for one device, request by request, from a queue that has an end."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from PIL import Image

from dianjing.demo.errors import (
    BROKEN,
    OUT_OF_MEMORY,
    NoSuchJobError,
    QueueFullError,
    StoppingError,
    without_paths,
)
from dianjing.demo.files import Files
from dianjing.demo.jobs import Cancelled, Done, Event, Failed, Job, Progress, Result, Waiting
from dianjing.demo.limits import Limits
from dianjing.demo.metrics import Metrics
from dianjing.demo.requests import Abilities, AnyRequest, check_cost

logger = logging.getLogger(__name__)
SWEEP_S = 5.0  # how often an idle worker looks for what has expired


class Stopped(BaseException):
    """Ends a run inside a step: nobody waits for it any more."""


class Draws(Protocol):
    """What a worker needs of a `Studio`."""

    abilities: Abilities

    def run(self, job: Job, files: Files, *, tell: Any) -> Result: ...

    def free_memory(self) -> None: ...


class Worker:
    """Takes settled requests in order; an error ends its job and never the worker."""

    def __init__(
        self, studio: Draws, limits: Limits | None = None, *, files: Files | None = None, metrics: Metrics | None = None
    ):
        self.studio, self.limits = studio, limits or Limits()
        self.files, self.metrics = files or Files(), metrics or Metrics()
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="dianjing-worker", daemon=True)
        self._thread.start()

    @property
    def queue_length(self) -> int:
        return len(self._queue)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing

    def submit(self, request: AnyRequest, owner: str) -> Job:
        """Queue a request.

        Raises: QueueFullError, StoppingError; ValueError for what this server cannot draw or what costs too much.
        """
        try:
            settled = request.settled(self.studio.abilities)
            check_cost(settled, self.studio.abilities, max_cost=self.limits.max_cost)
            job = Job(settled, owner=owner)
            with self._changed:
                self._check_room(owner)
                self._sweep()
                self._jobs[job.id] = job
                self._queue.append(job)
                self._tell_positions()
                self._changed.notify_all()
        except ValueError:
            self.metrics.requests.labels(request.kind, "refused").inc()
            raise
        return job

    def get(self, job_id: str, owner: str) -> Job:
        """Raises: NoSuchJobError, also for another's job and for one whose time is over."""
        with self._changed:
            self._sweep()
            job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise NoSuchJobError("there is no such job; it may have expired, or been deleted")
        return job

    def cancel(self, job_id: str, owner: str) -> Job:
        """A waiting job is over at once, a running one at its next step; one that is over stays as it is."""
        job = self.get(job_id, owner)
        self._cancel(job)
        return job

    def delete(self, job_id: str, owner: str) -> None:
        """Cancel, and forget the result."""
        self.drop(self.get(job_id, owner))

    def drop(self, job: Job) -> None:
        """As `delete`, for whoever has the job itself; of one that is gone nothing happens."""
        self._cancel(job)
        with self._changed:
            self._forget(job)

    def follow(self, job: Job) -> Iterator[Event]:
        """`job.events()` for a listener that matters: a job that nobody follows to its end is cancelled."""
        try:
            yield from job.events()
        finally:
            self._cancel(job)

    def close(self, timeout_s: float = 30.0) -> None:
        """Cancel all, wait for the step that runs, remove the files; a second call does nothing."""
        with self._changed:
            self._is_closing = True
            jobs = list(self._jobs.values())
            self._changed.notify_all()
        for job in jobs:
            self._cancel(job)
        self._thread.join(timeout_s)
        self.files.close()

    def _cancel(self, job: Job) -> None:
        with self._changed:
            job.is_cancelled = True
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, Cancelled())
                self._tell_positions()

    def _check_room(self, owner: str) -> None:
        if self._is_closing:
            raise StoppingError("the server is stopping; ask again in a minute")
        waiting, limits = len(self._queue), self.limits
        if waiting >= limits.max_queue:
            raise QueueFullError(f"{waiting} requests are waiting, and no more are taken; ask again in a minute")
        own = sum(job.owner == owner for job in self._queue)
        if own >= limits.max_queue_per_owner:
            raise QueueFullError(f"{own} requests of yours are waiting, and no more are taken; wait for one of them")

    def _tell_positions(self) -> None:
        for position, job in enumerate(self._queue, start=1):
            if job.event != Waiting(position=position):
                job.tell(Waiting(position=position))
        self.metrics.queue.set(len(self._queue))

    def _end(self, job: Job, event: Event) -> None:
        job.tell(event)
        self.metrics.requests.labels(job.request.kind, job.state).inc()

    def _sweep(self) -> None:
        """Forget jobs whose time is over, and the oldest of those that are too many."""
        over = [job for job in self._jobs.values() if job.ended_s is not None]
        latest = time.monotonic() - self.limits.keep_s
        kept: dict[str, int] = {}
        for number, job in enumerate(reversed(over)):
            kept[job.owner] = kept.get(job.owner, 0) + 1
            is_old = job.ended_s is not None and job.ended_s < latest
            if is_old or kept[job.owner] > self.limits.max_jobs_kept_per_owner or number >= self.limits.max_jobs_kept:
                self._forget(job)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self.files.forget(job.id)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closing, timeout=SWEEP_S)
                self._sweep()
                if self._is_closing and not self._queue:
                    return
                job = self._queue.popleft() if self._queue else None
                self._tell_positions()
            if job is not None:
                self._run(job)

    def _run(self, job: Job) -> None:
        self.metrics.wait_s.observe(time.monotonic() - job.began_s)
        watch = _Watch(job, self.metrics)
        began_s = time.monotonic()
        try:
            watch.check()
            result = self.studio.run(job, self.files, tell=watch)
            watch.check()
            event: Event = Done(result=result)
        except Stopped:
            event = Cancelled(preview=watch.preview)
        except ValueError as error:
            event = Failed(error=without_paths(str(error)))
        except Exception as error:
            event = self._excuse(job, error)
        self.metrics.job_s.labels(job.request.kind).observe(time.monotonic() - began_s)
        with self._changed:
            is_forgotten = job.id not in self._jobs
        if is_forgotten or not isinstance(event, Done):
            self.files.forget(job.id)
        self._end(job, event)

    def _excuse(self, job: Job, error: Exception) -> Failed:
        if is_out_of_memory(error):
            logger.warning("%s: out of memory", job.id)
            self.studio.free_memory()
            return Failed(error=OUT_OF_MEMORY, fault="memory")
        logger.error("%s failed", job.id, exc_info=error)
        return Failed(error=BROKEN, fault="server")


class _Watch:
    """What a run calls at every step: tells the job, counts the seconds, stops what nobody waits for."""

    def __init__(self, job: Job, metrics: Metrics):
        self.job, self.metrics = job, metrics
        self.preview: Image.Image | None = None
        self.stepped_s: float | None = None

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if self.stepped_s is not None:
            self.metrics.step_s.labels(self.job.request.kind).observe(now_s - self.stepped_s)
        self.stepped_s, self.preview = now_s, progress.preview
        self.job.tell(progress)
        self.check()

    def check(self) -> None:
        if self.job.is_cancelled:
            raise Stopped


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class of its own for devices, and a plain RuntimeError for the machine's memory."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(part in said for part in ("out of memory", "allocate memory", "enough memory"))
    )
