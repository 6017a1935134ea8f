"""The run panel of a tab: buttons to start and stop, a status line, a preview, and the run that updates them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.sessions import Session
from dianjing.demo.page.status import StatusView, render_error, stream_status
from dianjing.demo.page.theme import translations
from dianjing.errors import Language

Updates = dict[Any, Any]
SubmitFunction = Callable[[str], Job]  # takes the owner; raises DianjingError for a request that is refused
DoneCallback = Callable[[Session, Job, StatusView], Updates]


@dataclass(frozen=True, kw_only=True)
class RunPanel:
    """Components; `job_id` is the state that holds the id of the running job."""

    button: gr.Button
    cancel: gr.Button
    status: gr.HTML
    preview: gr.Image
    job_id: gr.State

    @property
    def outputs(self) -> list[Any]:
        return list(vars(self).values())


def make_run_buttons(name: str) -> tuple[gr.Button, gr.Button]:
    """Make the buttons that start and stop a run."""
    with gr.Row(elem_classes="dj-run"):
        button = gr.Button(
            translations(f"{name}_button"), variant="primary", elem_id=f"{name}-button", scale=3, min_width=120
        )
        cancel = gr.Button(translations("cancel"), elem_id=f"{name}-cancel", interactive=False, scale=1, min_width=80)
    return button, cancel


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
    on_done: DoneCallback,
    on_start: Updates | None = None,
    error_language: Language | None = None,
) -> Iterator[Updates]:
    """Submit a job, yield updates until it is finished, and then those of `on_done`.

    A request that is refused updates the status line alone; `on_start` holds further updates for an accepted one.
    `error_language` is the language of errors, None: that of the browser.
    """
    language = get_request_language(request)
    error_language = error_language or language
    owner, session = context.get_owner(token, request), context.get_session(token, request)
    try:
        job = submit(owner)
    except Exception as error:
        yield {run_panel.status: render_error(error, error_language)}
        return
    busy = {
        run_panel.button: gr.Button(interactive=False),
        run_panel.cancel: gr.Button(interactive=True),
        run_panel.job_id: job.id,
    }
    yield {**(on_start or {}), **busy}
    last: StatusView | None = None
    for view in stream_status(context.queue, job, language, error_language=error_language):
        if view is None:
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
    yield {**idle, **on_done(session, job, last)}


def _make_status_updates(run_panel: RunPanel, view: StatusView, *, previous_view: StatusView | None) -> Updates:
    """Updates of the status, and of a preview that is new: Gradio would rewrite a file that the browser loads."""
    is_old = view.preview is None or (previous_view is not None and view.preview is previous_view.preview)
    return {run_panel.status: view.status} | ({} if is_old else {run_panel.preview: view.preview})


def make_prompt_box(name: str, *, label: str) -> gr.Textbox:
    return gr.Textbox(
        label=translations(label),
        placeholder=translations(f"{name}_placeholder"),
        lines=2,
        max_lines=6,
        elem_id=f"{name}-prompt",
    )


def make_examples(prompt: gr.Textbox, examples: tuple[str, ...]) -> None:
    """Make example prompts; a click puts one into the prompt box."""
    dataset = gr.Dataset(
        components=[prompt],
        samples=[[example] for example in examples],
        label=translations("examples"),
        elem_classes="dj-examples",
    )
    dataset.click(lambda sample: sample[0], dataset, prompt, **instant())


def make_gallery(name: str) -> tuple[gr.Gallery, gr.Button]:
    """Make the gallery of a tab's history and the button that clears it."""
    gallery = gr.Gallery(
        label=translations("history"),
        columns=6,
        fit_columns=False,
        allow_preview=False,
        interactive=False,
        object_fit="cover",
        buttons=[],
        elem_id=f"{name}-gallery",
        elem_classes="dj-gallery",
        visible=False,
    )
    clear = gr.Button(
        translations("clear_all"), size="sm", visible=False, elem_id=f"{name}-clear", elem_classes="dj-clear"
    )
    return gallery, clear
