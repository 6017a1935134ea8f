"""The status line of a run: a job's events as HTML, with the preview and the result."""

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from dianjing.demo.errors import to_user_error
from dianjing.demo.i18n.catalog import format_status
from dianjing.demo.i18n.translation import render_for_page
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, JobEvent, JobResult, Progress, Queued
from dianjing.errors import SEPARATORS, Language, Message
from dianjing.pipelines.cost_model import LONG_RUN_S, describe_duration
from dianjing.pipelines.prompting.normalization.normalizer import describe_words


@dataclass(frozen=True, kw_only=True)
class StatusView:
    """A job's state as the page shows it: HTML, the newest preview, and the result of a finished job."""

    status: str
    preview: Image.Image | None = None
    result: JobResult | None = None
    is_cancelled: bool = False


def stream_status(job: Job, language: Language, *, error_language: Language) -> Iterator[StatusView | None]:
    """Yield views until the job is finished; None for a heartbeat, without news."""
    previous: JobEvent | None = None
    for event in job.stream_events():
        if event is previous:
            yield None
        else:
            seconds = time.monotonic() - job.queued_at_s
            yield (
                StatusView(status=render_error(event.error, error_language))
                if isinstance(event, Failed)
                else _make_status_view(event, language, seconds=seconds, predicted_s=job.predicted_s)
            )
        previous = event


def _make_status_view(event: JobEvent, language: Language, *, seconds: float, predicted_s: float) -> StatusView:
    if isinstance(event, Queued):
        ahead = event.position - 1
        text = format_status("waiting", language, position=ahead) if ahead else format_status("starting", language)
        if predicted_s > LONG_RUN_S:
            text += f" · {Message('run_takes_long', duration=describe_duration(predicted_s)).render(language)}"
        return StatusView(status=render_progress_bar(text, share=0.0))
    if isinstance(event, Progress):
        text = format_status(
            "step" if event.windows == 1 else "window",
            language,
            step=event.step,
            total=event.total,
            window=event.window,
            windows=event.windows,
        )
        bar = render_progress_bar(text, share=event.step / max(event.total, 1))
        return StatusView(status=bar, preview=event.preview)
    if isinstance(event, Done):
        return StatusView(status=render_done(event.result, language, seconds=seconds), result=event.result)
    assert isinstance(event, Cancelled)
    text = format_status("stopped" if event.preview is None else "cancelled", language)
    return StatusView(status=render_line(text), preview=event.preview, is_cancelled=True)


def render_done(result: JobResult, language: Language, *, seconds: float) -> str:
    """The line of a finished job, and hints: what the model does not know or read, and how the image was cropped."""
    lines = [render_line(format_status("done", language, seconds=f"{seconds:.1f}"))]
    if result.unknown_words:
        described = describe_words(result.unknown_words)
        words = SEPARATORS[language].join(w if isinstance(w, str) else w.render(language) for w in described)
        lines.append(render_hint(format_status("unknown_words", language, words=words)))
    lines += [
        render_hint(format_status("truncated", language, text=cut.text, max_tokens=cut.max_tokens))
        for cut in result.truncated
    ]
    if result.crop is not None and result.crop.message_id != "crop_none":
        lines.append(render_hint(result.crop.render(language)))
    return "".join(lines)


def render_line(text: str) -> str:
    return f'<p class="dj-line" role="status">{html.escape(text)}</p>'


def render_progress_bar(text: str, *, share: float) -> str:
    return f'{render_line(text)}<progress max="1" value="{share:.3f}"></progress>'


def render_hint(text: str) -> str:
    return f'<p class="dj-hint" role="note">{html.escape(text)}</p>'


def render_error(error: Exception, language: Language) -> str:
    """The message of an error in the reader's language; a fault of the server is logged and not described."""
    text = render_for_page(to_user_error(error, context="the page"), language)
    return f'<p class="dj-error" role="alert">{html.escape(text)}</p>'
