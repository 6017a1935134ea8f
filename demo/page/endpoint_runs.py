"""Runs of the endpoints: a request through the queue, its files in Gradio's cache, errors in the caller's language."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dianjing.demo.errors import to_user_error
from dianjing.demo.i18n.translation import render_for_http
from dianjing.demo.jobs import Done, Failed, JobResult
from dianjing.demo.page.context import PageContext, get_request_language
from dianjing.demo.requests import AnyRequest
from dianjing.errors import Language

GradioFiles = list[dict[str, Any]]


def generate_files(
    context: PageContext, cache: gr.File, request: gr.Request, make_request: Callable[[], AnyRequest]
) -> Iterator[GradioFiles]:
    """Yield no files for every event of the job, and those of its result at the end."""
    for result in run_request(context, request, make_request):
        yield cache_files(cache, () if result is None else result.files)


def run_request(
    context: PageContext,
    request: gr.Request,
    make_request: Callable[[], AnyRequest],
    *,
    error_language: Language | None = None,
) -> Iterator[JobResult | None]:
    """Yield None for every event of the job, and its result at the end; a client that leaves ends the job."""
    job = call_with_gradio_errors(
        request, lambda: context.queue.submit(make_request(), f"program-{request.session_hash}")
    )
    for event in context.queue.stream_events(job):
        if isinstance(event, Failed):
            raise _to_gradio_error(event.error, error_language or get_request_language(request))
        yield event.result if isinstance(event, Done) else None


def call_with_gradio_errors(request: gr.Request, function: Callable[[], Any]) -> Any:
    """Call a function; its exceptions become `gr.Error`s in the caller's language."""
    try:
        return function()
    except Exception as error:
        raise _to_gradio_error(error, get_request_language(request)) from None


def _to_gradio_error(error: Exception, language: Language) -> gr.Error:
    text = render_for_http(to_user_error(error, context="an endpoint"), language)
    return gr.Error(text, print_exception=False)


def cache_files(cache: gr.File, files: Sequence[Path]) -> GradioFiles:
    """Copy files to Gradio's cache, in the form in which its clients download them."""
    return [
        {
            "path": cache.move_resource_to_block_cache(file),
            "url": None,
            "orig_name": file.name,
            "meta": {"_type": "gradio.FileData"},
        }
        for file in files
    ]
