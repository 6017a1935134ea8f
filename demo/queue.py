"""The job queue: one thread runs the jobs of one device, one after the other, within limits."""

import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import Any, Protocol

from PIL import Image

from dianjing.demo.conversation_request import MAX_SAMPLING_RUNS_PER_TURN
from dianjing.demo.errors import JobNotFoundError, QueueFullError, ServerMemoryError, ShuttingDownError, to_user_error
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, JobEvent, JobResult, Progress, Queued
from dianjing.demo.limits import DEFAULT_MAX_RUN_S, ModelCapabilities, ServerLimits
from dianjing.demo.metrics import ServerMetrics
from dianjing.demo.requests import AnyRequest, TextToImageRequest
from dianjing.demo.results import ResultStore
from dianjing.demo.video_request_base import VideoRequestBase
from dianjing.errors import DianjingError
from dianjing.pipelines.cost_model import describe_duration

MAX_DEFAULT_VIDEOS = 2
EVICTION_INTERVAL_S = 5.0  # an idle queue looks for expired jobs this often


class JobCancelled(BaseException):
    """Ends a run between two steps; a BaseException, so that no handler inside the run catches it."""


class Engine(Protocol):
    """The part of `InferenceEngine` that a queue uses."""

    capabilities: ModelCapabilities

    def predict_s(self, request: AnyRequest) -> float: ...

    def run(self, job: Job, results: ResultStore, *, on_progress: Any) -> JobResult: ...

    def free_memory(self) -> None: ...


class JobQueue:
    """Run requests in the order of their arrival; an error ends its job and never the queue."""

    def __init__(
        self,
        engine: Engine,
        limits: ServerLimits | None = None,
        *,
        results: ResultStore | None = None,
        metrics: ServerMetrics | None = None,
    ):
        self.engine, self.limits = engine, limits or ServerLimits()
        self.results, self.metrics = results or ResultStore(), metrics or ServerMetrics()
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._run_loop, name="dianjing-queue", daemon=True)
        self._thread.start()

    @property
    def queue_length(self) -> int:
        return len(self._queue)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing

    def submit(self, request: AnyRequest, owner: str) -> Job:
        """Queue a request.

        Raises: QueueFullError, ShuttingDownError; DianjingError for what this model cannot generate or what costs too
        much.
        """
        try:
            request = request.with_defaults(self.engine.capabilities)
            predicted_s = self._check_duration(request)
            warnings = request.list_warnings(self.engine.capabilities)
            job = Job(request, owner=owner, predicted_s=predicted_s, warnings=warnings)
            with self._changed:
                self._check_queue_limits(owner)
                self._evict_expired()
                self._jobs[job.id] = job
                self._queue.append(job)
                self._publish_positions()
                self._changed.notify_all()
        except DianjingError:
            self.metrics.requests.labels(request.kind, "refused").inc()
            raise
        return job

    def get_max_run_s(self, request: AnyRequest | None = None) -> float:
        """The longest predicted duration in s of a request, or of any that names no published model.

        By default five minutes; on a machine that is slow for its model, whatever a long turn of a conversation takes,
        and two videos of a published model's own size, length and steps.
        """
        if self.limits.max_run_s is not None:
            return self.limits.max_run_s
        capabilities = self.engine.capabilities
        if isinstance(request, VideoRequestBase) and request.video_model is not None:
            default_video = request.without_sampling_params().with_defaults(capabilities)
            return max(DEFAULT_MAX_RUN_S, MAX_DEFAULT_VIDEOS * self.engine.predict_s(default_video))
        default_image = TextToImageRequest(prompt="default", slow=True).with_defaults(capabilities)
        return max(DEFAULT_MAX_RUN_S, (MAX_SAMPLING_RUNS_PER_TURN + 1) * self.engine.predict_s(default_image))

    def _check_duration(self, request: AnyRequest) -> float:
        """Predict the duration of a request in s. Raises: DianjingError for one that takes too long."""
        predicted_s, max_run_s = self.engine.predict_s(request), self.get_max_run_s(request)
        if predicted_s > max_run_s:
            capabilities = self.engine.capabilities
            sizes = capabilities.format_sizes()
            if isinstance(request, VideoRequestBase):
                sizes = request.format_sizes(capabilities)
            raise DianjingError(
                "run_too_long",
                duration=describe_duration(predicted_s),
                maximum=describe_duration(max_run_s),
                sizes=sizes,
            )
        return predicted_s

    def get(self, job_id: str, owner: str) -> Job:
        """Look up a job. Raises: JobNotFoundError, also for another owner's job and for an expired one."""
        with self._changed:
            self._evict_expired()
            job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise JobNotFoundError("job_not_found")
        return job

    def get_public(self, job_id: str) -> Job:
        """Look up a job with public files, without its owner: the id cannot be guessed. Raises: JobNotFoundError."""
        with self._changed:
            self._evict_expired()
            job = self._jobs.get(job_id)
        if job is None or not job.has_public_files:
            raise JobNotFoundError("job_not_found")
        return job

    def list_jobs(self, owner: str, *, kinds: Collection[str]) -> list[Job]:
        """The jobs of an owner in the order of their arrival."""
        with self._changed:
            self._evict_expired()
            return [job for job in self._jobs.values() if job.owner == owner and job.request.kind in kinds]

    def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job: a queued one ends at once, a running one at its next step, a finished one is left as it is."""
        job = self.get(job_id, owner)
        self._cancel(job)
        return job

    def delete(self, job_id: str, owner: str) -> None:
        """Cancel a job and remove its result."""
        self.discard(self.get(job_id, owner))

    def discard(self, job: Job) -> None:
        """Cancel a job and remove its result, without a look-up; harmless for one that is removed already."""
        self._cancel(job)
        with self._changed:
            self._remove(job)

    def stream_events(self, job: Job) -> Iterator[JobEvent]:
        """Yield a job's events; the job is cancelled if the iterator is closed before its end."""
        try:
            yield from job.stream_events()
        finally:
            self._cancel(job)

    def close(self, timeout_s: float = 30.0) -> None:
        """Cancel all jobs, wait for the current step, and remove all files; a second call does nothing."""
        with self._changed:
            self._is_closing = True
            jobs = list(self._jobs.values())
            self._changed.notify_all()
        for job in jobs:
            self._cancel(job)
        self._thread.join(timeout_s)
        self.results.close()

    def _cancel(self, job: Job) -> None:
        with self._changed:
            job.cancel_requested.set()
            if job in self._queue:
                self._queue.remove(job)
                self._finish(job, Cancelled())
                self._publish_positions()

    def _check_queue_limits(self, owner: str) -> None:
        if self._is_closing:
            raise ShuttingDownError("server_stopping")
        count, limits = len(self._queue), self.limits
        if count >= limits.max_queue_length:
            raise QueueFullError("queue_full", count=count)
        count = sum(job.owner == owner for job in self._queue)
        if count >= limits.max_queue_length_per_owner:
            raise QueueFullError("queue_full_for_owner", count=count)

    def _publish_positions(self) -> None:
        for position, job in enumerate(self._queue, start=1):
            if job.last_event != Queued(position=position):
                job.publish(Queued(position=position))
        self.metrics.queue_length.set(len(self._queue))

    def _finish(self, job: Job, event: JobEvent) -> None:
        job.publish(event)
        self.metrics.requests.labels(job.request.kind, job.state).inc()

    def _evict_expired(self) -> None:
        """Remove finished jobs past their time to live, and the oldest ones above the limits."""
        finished = [job for job in self._jobs.values() if job.finished_at_s is not None]
        expired_before_s = time.monotonic() - self.limits.result_ttl_s
        count_by_owner: dict[str, int] = {}
        for index, job in enumerate(reversed(finished)):
            count_by_owner[job.owner] = count_by_owner.get(job.owner, 0) + 1
            if (
                (job.finished_at_s is not None and job.finished_at_s < expired_before_s)
                or count_by_owner[job.owner] > self.limits.max_finished_jobs_per_owner
                or index >= self.limits.max_finished_jobs
            ):
                self._remove(job)

    def _remove(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self.results.remove(job.id)

    def _run_loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closing, timeout=EVICTION_INTERVAL_S)
                self._evict_expired()
                if self._is_closing and not self._queue:
                    return
                job = self._queue.popleft() if self._queue else None
                self._publish_positions()
            if job is not None:
                self._run(job)

    def _run(self, job: Job) -> None:
        start_s = time.monotonic()
        self.metrics.wait_s.observe(start_s - job.queued_at_s)
        reporter = _ProgressReporter(job, self.metrics)
        try:
            reporter.raise_if_cancelled()
            result = self.engine.run(job, self.results, on_progress=reporter)
            reporter.raise_if_cancelled()
            event: JobEvent = Done(result=result)
        except JobCancelled:
            event = Cancelled(preview=reporter.preview, images=reporter.decode_images(context=job.id))
        except Exception as error:
            event = Failed(error=to_user_error(error, context=job.id))
            if isinstance(event.error, ServerMemoryError):
                self.engine.free_memory()
        self.metrics.job_s.labels(job.request.kind).observe(time.monotonic() - start_s)
        with self._changed:
            is_removed = job.id not in self._jobs
        if is_removed or not isinstance(event, Done):
            self.results.remove(job.id)
        self._finish(job, event)


class _ProgressReporter:
    """Progress listener of one run: publishes to the job, measures steps, and ends a cancelled run."""

    def __init__(self, job: Job, metrics: ServerMetrics):
        self.job, self.metrics = job, metrics
        self.last_progress: Progress | None = None
        self.last_step_s: float | None = None

    @property
    def preview(self) -> Image.Image | None:
        return None if self.last_progress is None else self.last_progress.preview

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if self.last_step_s is not None:
            self.metrics.step_s.labels(self.job.request.kind).observe(now_s - self.last_step_s)
        self.last_step_s, self.last_progress = now_s, progress
        self.job.publish(progress)
        self.raise_if_cancelled()

    def decode_images(self, *, context: str) -> tuple[Image.Image, ...]:
        """Decode the unfinished images of a job that was stopped; none before its first preview."""
        progress = self.last_progress
        if progress is None or progress.preview is None or progress.decode_images is None:
            return ()
        try:
            return tuple(progress.decode_images())
        except Exception as error:  # a job that is stopped ends in any case
            to_user_error(error, context=context)
            return ()

    def raise_if_cancelled(self) -> None:
        if self.job.cancel_requested.is_set():
            raise JobCancelled
