"""A job's events become what the page shows: a line, a bar, a preview."""

import html
import time
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from dianjing.demo.jobs import Cancelled, Done, Event, Failed, Job, Progress, Result, Waiting
from dianjing.demo.texts.labels import told
from dianjing.demo.texts.messages import say
from dianjing.demo.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What to show now. status is HTML; preview is the newest there is; result comes last, if at all."""

    status: str
    preview: Image.Image | None = None
    result: Result | None = None
    is_cancelled: bool = False


def follow(worker: Worker, job: Job, language: str) -> Iterator[Shown | None]:
    """Until the job is over; None where nothing is new, so that a closed tab is noticed within a beat."""
    began_s = time.monotonic()
    before: Event | None = None
    for event in worker.follow(job):
        yield None if event is before else _shown(event, language, seconds=time.monotonic() - began_s)
        before = event


def _shown(event: Event, language: str, *, seconds: float) -> Shown:
    if isinstance(event, Waiting):
        ahead = event.position - 1
        text = say("waiting", language, position=ahead) if ahead else say("starting", language)
        return Shown(status=bar(text, share=0.0))
    if isinstance(event, Progress):
        name = "step" if event.windows == 1 else "window"
        text = say(name, language, **{key: getattr(event, key) for key in ("step", "total", "window", "windows")})
        return Shown(status=bar(text, share=event.step / max(event.total, 1)), preview=event.preview)
    if isinstance(event, Done):
        return Shown(status=done(event.result, language, seconds=seconds), result=event.result)
    if isinstance(event, Cancelled):
        text = say("stopped" if event.preview is None else "cancelled", language)
        return Shown(status=line(text), preview=event.preview, is_cancelled=True)
    assert isinstance(event, Failed)
    return Shown(status=failed(event.error, language))


def done(result: Result, language: str, *, seconds: float) -> str:
    """That it is done, and which words the model passed over."""
    lines = [line(say("done", language, seconds=f"{seconds:.1f}"))]
    if result.unknown_words:
        words = ("、" if language == "zh" else ", ").join(result.unknown_words)
        lines.append(hint(say("unknown_words", language, words=words)))
    return "".join(lines)


def line(text: str) -> str:
    """A line of text as HTML."""
    return f'<p class="dj-line" role="status">{html.escape(text)}</p>'


def bar(text: str, *, share: float) -> str:
    """A line over a bar, while something runs."""
    return f'{line(text)}<progress max="1" value="{share:.3f}"></progress>'


def hint(text: str) -> str:
    return f'<p class="dj-hint" role="note">{html.escape(text)}</p>'


def refused(text: str) -> str:
    return f'<p class="dj-error" role="alert">{html.escape(text)}</p>'


def failed(error: object, language: str) -> str:
    """An error's message, in the reader's language."""
    return refused(told(str(error), language))
