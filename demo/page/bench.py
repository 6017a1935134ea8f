"""Where a tab works: the button that asks, the one that stops, the line that tells, and the run between them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.following import Shown, failed, follow
from dianjing.demo.page.look import text
from dianjing.demo.page.shared import Shared, language_for, quiet
from dianjing.demo.page.shelf import Visit

Updates = dict[Any, Any]
Submit = Callable[[str], Job]  # of an owner; raises ValueError
Keep = Callable[[Visit, Job, Shown], Updates]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Components. stage: where previews are shown; job: the id of what is being made."""

    button: gr.Button
    cancel: gr.Button
    status: gr.HTML
    stage: gr.Image
    job: gr.State

    @property
    def outputs(self) -> list[Any]:
        return list(vars(self).values())


def make_buttons(name: str) -> tuple[gr.Button, gr.Button]:
    """The one that asks, and the one that stops."""
    with gr.Row(elem_classes="dj-go"):
        button = gr.Button(text(f"{name}_button"), variant="primary", elem_id=f"{name}-button", scale=3, min_width=120)
        cancel = gr.Button(text("cancel"), elem_id=f"{name}-cancel", interactive=False, scale=1, min_width=80)
    return button, cancel


def make_status(name: str) -> gr.HTML:
    return gr.HTML(elem_id=f"{name}-status", elem_classes="dj-status")


def connect_cancel(bench: Bench, shared: Shared) -> None:
    def cancel(request: gr.Request, token: str, job_id: str | None) -> None:
        if job_id is not None:
            shared.worker.cancel(job_id, shared.owner(token, request))

    bench.cancel.click(cancel, [shared.token, bench.job], None, **quiet())


def work(
    bench: Bench, shared: Shared, request: gr.Request, token: str, *, submit: Submit, keep: Keep,
    begin: Updates | None = None,
) -> Iterator[Updates]:  # fmt: skip
    """Submit, show what happens until it is over, and keep what came of it; what is refused changes nothing else.

    begin: further updates once the job is taken.
    """
    language = language_for(request)
    owner, visit = shared.owner(token, request), shared.visit(token, request)
    try:
        job = submit(owner)
    except ValueError as error:
        yield {bench.status: failed(error, language)}
        return
    busy = {bench.button: gr.Button(interactive=False), bench.cancel: gr.Button(interactive=True), bench.job: job.id}
    yield {**(begin or {}), **busy}
    last: Shown | None = None
    for shown in follow(shared.worker, job, language):
        yield {bench.status: gr.skip()} if shown is None else _progress(bench, shown, before=last)
        last = shown or last
    assert last is not None
    idle = {bench.button: gr.Button(interactive=True), bench.cancel: gr.Button(interactive=False), bench.job: None}
    yield {**idle, **keep(visit, job, last)}


def _progress(bench: Bench, shown: Shown, *, before: Shown | None) -> Updates:
    """A preview is sent once: Gradio would write its file again while the browser reads it."""
    is_old = shown.preview is None or (before is not None and shown.preview is before.preview)
    return {bench.status: shown.status} | ({} if is_old else {bench.stage: shown.preview})
