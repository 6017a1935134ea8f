"""Runs of a session: jobs that go on and are saved whether or not a page follows them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dianjing.demo.errors import to_user_error
from dianjing.demo.jobs import Job, JobEvent
from dianjing.errors import DianjingError, Language

if TYPE_CHECKING:
    from dianjing.demo.page.sessions import Session
    from dianjing.demo.page.status import StatusView

Updates = dict[Any, Any]


class SessionRun:
    """A job of one tab. Its result is saved once: by the queue's thread, or by the first page that needs it.

    `save(job, event)` adds the result of the last event to the session.
    """

    def __init__(self, job: Job, save: Callable[[Job, JobEvent], None], *, error_language: Language):
        self.job, self.error_language = job, error_language
        self.error: DianjingError | None = None  # of saving
        self._save_result, self._is_saved, self._lock = save, False, threading.Lock()
        job.add_done_callback(self.save)

    def save(self) -> None:
        """Save the result of the finished job, unless that has been done."""
        with self._lock:
            if self._is_saved:
                return
            self._is_saved = True
            try:
                self._save_result(self.job, self.job.last_event)
            except Exception as error:  # the queue's thread goes on with the next job
                self.error = to_user_error(error, context=self.job.id)


@dataclass(frozen=True, kw_only=True)
class RunHandlers:
    """Handlers of the jobs of one tab.

    `start`: updates that show a job that was accepted. `save`: adds the result of the last event to the session.
    `done`: updates that show the saved result.
    """

    start: Callable[["Session", Job], Updates]
    save: Callable[["Session", Job, JobEvent], None]
    done: Callable[["Session", Job, "StatusView"], Updates]
