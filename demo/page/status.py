"""A job's events become what the page shows: a line, a bar, a preview."""

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from dianjing.demo.i18n.catalog import format_message
from dianjing.demo.i18n.translation import translate_with_labels
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, JobEvent, JobResult, Progress, Queued
from dianjing.demo.queue import JobQueue


@dataclass(frozen=True, kw_only=True)
class StatusView:
    """What to show now. status is HTML; preview is the newest there is; result comes last, if at all."""

    status: str
    preview: Image.Image | None = None
    result: JobResult | None = None
    is_cancelled: bool = False


def stream_status(worker: JobQueue, job: Job, language: str) -> Iterator[StatusView | None]:
    """Until the job is over; None where nothing is new, so that a closed tab is noticed within a beat."""
    began_s = time.monotonic()
    before: JobEvent | None = None
    for event in worker.stream_events(job):
        yield None if event is before else _make_status_view(event, language, seconds=time.monotonic() - began_s)
        before = event


def _make_status_view(event: JobEvent, language: str, *, seconds: float) -> StatusView:
    if isinstance(event, Queued):
        ahead = event.position - 1
        text = format_message("waiting", language, position=ahead) if ahead else format_message("starting", language)
        return StatusView(status=render_progress_bar(text, share=0.0))
    if isinstance(event, Progress):
        name = "step" if event.windows == 1 else "window"
        text = format_message(
            name, language, **{key: getattr(event, key) for key in ("step", "total", "window", "windows")}
        )
        return StatusView(
            status=render_progress_bar(text, share=event.step / max(event.total, 1)), preview=event.preview
        )
    if isinstance(event, Done):
        return StatusView(status=render_done(event.result, language, seconds=seconds), result=event.result)
    if isinstance(event, Cancelled):
        text = format_message("stopped" if event.preview is None else "cancelled", language)
        return StatusView(status=render_line(text), preview=event.preview, is_cancelled=True)
    assert isinstance(event, Failed)
    return StatusView(status=render_error(event.error, language))


def render_done(result: JobResult, language: str, *, seconds: float) -> str:
    """That it is done, and which words the model passed over."""
    lines = [render_line(format_message("done", language, seconds=f"{seconds:.1f}"))]
    if result.unknown_words:
        words = ("、" if language == "zh" else ", ").join(result.unknown_words)
        lines.append(render_hint(format_message("unknown_words", language, words=words)))
    return "".join(lines)


def render_line(text: str) -> str:
    """A line of text as HTML."""
    return f'<p class="dj-line" role="status">{html.escape(text)}</p>'


def render_progress_bar(text: str, *, share: float) -> str:
    """A line over a bar, while something runs."""
    return f'{render_line(text)}<progress max="1" value="{share:.3f}"></progress>'


def render_hint(text: str) -> str:
    return f'<p class="dj-hint" role="note">{html.escape(text)}</p>'


def render_error_text(text: str) -> str:
    return f'<p class="dj-error" role="alert">{html.escape(text)}</p>'


def render_error(error: object, language: str) -> str:
    """An error's message, in the reader's language."""
    return render_error_text(translate_with_labels(str(error), language))
