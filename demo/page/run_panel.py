"""The run panel of a tab: buttons to start and stop, a status line, a preview, and the run that updates them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.runs import RunHandlers, SessionRun, Updates
from dianjing.demo.page.sessions import Session
from dianjing.demo.page.status import StatusView, render_error, stream_status
from dianjing.demo.page.theme import translations
from dianjing.errors import Language

SubmitFunction = Callable[[str], Job]  # takes the owner; raises DianjingError for a request that is refused
RefusalCallback = Callable[[Session, Exception], Updates]


@dataclass(frozen=True, kw_only=True)
class RunPanel:
    """Components; `name` is that of the tab.

    The state `job_id` holds the id of the running job, `resumed_job_id` that of one that ran when the page was loaded.
    """

    name: str
    button: gr.Button
    cancel: gr.Button
    status: gr.HTML
    preview: gr.Image
    job_id: gr.State
    resumed_job_id: gr.State

    @property
    def outputs(self) -> list[Any]:
        return [self.button, self.cancel, self.status, self.preview, self.job_id]


def make_run_buttons(name: str) -> tuple[gr.Button, gr.Button]:
    """Make the buttons that start and stop a run."""
    with gr.Row(elem_classes="dj-run"):
        button = gr.Button(
            translations(f"{name}_button"), variant="primary", elem_id=f"{name}-button", scale=3, min_width=120
        )
        cancel = gr.Button(translations("cancel"), elem_id=f"{name}-cancel", interactive=False, scale=1, min_width=80)
    return button, cancel


def make_run_panel(name: str, *, button: gr.Button, cancel: gr.Button, status: gr.HTML, preview: gr.Image) -> RunPanel:
    """Put the components of a tab together with the states of its run."""
    return RunPanel(
        name=name,
        button=button,
        cancel=cancel,
        status=status,
        preview=preview,
        job_id=gr.State(None),
        resumed_job_id=gr.State(None),
    )


def make_status(name: str) -> gr.HTML:
    return gr.HTML(elem_id=f"{name}-status", elem_classes="dj-status")


def connect_cancel(run_panel: RunPanel, context: PageContext) -> None:
    def cancel(request: gr.Request, token: str, job_id: str | None) -> None:
        if job_id is not None:
            context.queue.cancel(job_id, context.get_owner(token, request))

    run_panel.cancel.click(cancel, [context.token, run_panel.job_id], None, **instant())


def run_job(
    run_panel: RunPanel,
    context: PageContext,
    request: gr.Request,
    token: str,
    *,
    submit: SubmitFunction,
    handlers: RunHandlers,
    error_language: Language | None = None,
    on_refused: RefusalCallback | None = None,
) -> Iterator[Updates]:
    """Submit a job and yield updates until it is finished; it goes on when the page is closed or loaded again.

    A request that is refused updates the status line, and what `on_refused` returns. `error_language` is the language
    of errors, None: that of the browser.
    """
    language = error_language or get_request_language(request)
    owner, session = context.get_owner(token, request), context.get_session(token, request)
    try:
        job = submit(owner)
    except Exception as error:
        refused = {} if on_refused is None else on_refused(session, error)
        yield {run_panel.status: render_error(error, language), **refused}
        return
    run = SessionRun(job, partial(handlers.save, session), error_language=language)
    session.runs[run_panel.name] = run
    yield from _follow_run(run_panel, request, session, run, handlers)


def resume_run(
    run_panel: RunPanel, context: PageContext, request: gr.Request, token: str, *, handlers: RunHandlers
) -> Iterator[Updates]:
    """Follow the run that went on while the page was loaded again."""
    session = context.get_session(token, request)
    run = session.runs.get(run_panel.name)
    if run is None:
        yield {run_panel.status: gr.skip()}  # Gradio would empty the outputs of an event that yields nothing
    else:
        yield from _follow_run(run_panel, request, session, run, handlers)


def get_resumed_job_id(run_panel: RunPanel, session: Session) -> str | None:
    """The id of the tab's job if it is not finished."""
    run = session.runs.get(run_panel.name)
    return None if run is None or run.job.is_finished else run.job.id


def _follow_run(
    run_panel: RunPanel, request: gr.Request, session: Session, run: SessionRun, handlers: RunHandlers
) -> Iterator[Updates]:
    busy = {
        run_panel.button: gr.Button(interactive=False),
        run_panel.cancel: gr.Button(interactive=True),
        run_panel.job_id: run.job.id,
    }
    yield {**handlers.start(session, run.job), **busy}
    last: StatusView | None = None
    language = get_request_language(request)
    for view in stream_status(run.job, language, error_language=run.error_language):
        if view is None:  # at a heartbeat Gradio notices a page that was closed
            yield {run_panel.status: gr.skip()}
        else:
            yield _make_status_updates(run_panel, view, previous_view=last)
            last = view
    assert last is not None
    idle = {
        run_panel.button: gr.Button(interactive=True),
        run_panel.cancel: gr.Button(interactive=False),
        run_panel.job_id: None,
    }
    run.save()
    failed = {} if run.error is None else {run_panel.status: render_error(run.error, run.error_language)}
    yield {**idle, **handlers.done(session, run.job, last), **failed}


def _make_status_updates(run_panel: RunPanel, view: StatusView, *, previous_view: StatusView | None) -> Updates:
    """Updates of the status, and of a preview that is new: Gradio would rewrite a file that the browser loads."""
    is_old = view.preview is None or (previous_view is not None and view.preview is previous_view.preview)
    return {run_panel.status: view.status} | ({} if is_old else {run_panel.preview: view.preview})
