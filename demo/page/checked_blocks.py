"""Gradio's blocks with every input checked first: a file is the visitor's own upload, and errors show no values.

Gradio copies a file that any input names, of whatever kind the component is, before its own checks. Here each input is
searched for files before Gradio sees it.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import gradio as gr

from dianjing.demo.errors import NotFoundError, get_status, to_user_error
from dianjing.demo.i18n.translation import parse_accept_language, render_for_http
from dianjing.demo.upload_store import Upload, UploadStore
from dianjing.demo.visitor import get_visitor
from dianjing.errors import DianjingError

FILE_KEYS = {"path", "url", "meta", "is_stream"}  # any of them makes Gradio, or a component, take an object for a file
ERROR_STATUS = "dianjing.error_status"  # in the scope of a request: where an event leaves the status of its error
MAX_DEPTH = 20
MAX_PUBLISHED_FILES = 100_000


class PublishedFiles:
    """Paths of the files that events have returned; no other file of Gradio's folder is served.

    A path holds a hash that nobody can guess, so it is not bound to a visitor: an agent passes addresses on.
    """

    def __init__(self) -> None:
        self._paths: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def add_from(self, output: Any) -> None:
        """Add every file in the output of an event; the oldest above the limit are forgotten."""
        if isinstance(output, list | tuple):
            for item in output:
                self.add_from(item)
        elif isinstance(output, dict):
            if isinstance(output.get("path"), str) and "meta" in output:
                self._paths[output["path"]] = None
                self._paths.move_to_end(output["path"])
            for item in output.values():
                self.add_from(item)
        while len(self._paths) > MAX_PUBLISHED_FILES:
            self._paths.popitem(last=False)


class CheckedBlocks(gr.Blocks):
    """Blocks that open only files of `uploads`, of the visitor who sends the event."""

    uploads: UploadStore
    published_files: PublishedFiles

    async def process_api(
        self, block_fn: Any, inputs: list[Any], *, request: Any = None, iterator: Any = None, **options: Any
    ) -> dict[str, Any]:
        """Check the inputs of an event, then run it. Raises: gr.Error, in the visitor's language."""
        try:
            if iterator is None:
                inputs = self._check_inputs(
                    self.fns[block_fn] if isinstance(block_fn, int) else block_fn, inputs, request
                )
            return await super().process_api(block_fn, inputs, request=request, iterator=iterator, **options)
        except Exception as error:
            if isinstance(error, gr.Error) and not error.print_exception:
                raise  # an endpoint's own
            is_component = isinstance(error, gr.Error)  # it has refused a value, and would print it
            user_error = (
                DianjingError("event_value_invalid")
                if is_component
                else to_user_error(error, context="an event of the page")
            )
            if request is not None:
                _get_http_request(request).scope.get(ERROR_STATUS, {})["status"] = get_status(user_error)
            header = "" if request is None else request.headers.get("accept-language") or ""
            raise gr.Error(render_for_http(user_error, parse_accept_language(header)), print_exception=False) from None

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """Make the outputs of an event, and publish their files; later Gradio reduces them to what has changed."""
        data = await super().postprocess_data(block_fn, predictions, state)
        self.published_files.add_from(data)
        return data

    def handle_streaming_diffs(
        self,
        block_fn: Any,
        data: list[Any],
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list[Any]:
        """Send outputs that have changed as new values in place of Gradio's edits of the values before.

        Gradio's page makes edits in place, also in updates that it has not shown yet: of two that arrive together, the
        first would be lost.
        """
        values = list(data)
        sent = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format)
        if final:
            return sent
        return [
            [["replace", [], value]] if edits is not value and edits else edits
            for edits, value in zip(sent, values, strict=True)
        ]

    def _check_inputs(self, block_fn: Any, inputs: list[Any], request: Any) -> list[Any]:
        if block_fn.fn is None:  # an event that the browser answers by itself
            raise NotFoundError("endpoint_not_found")
        count = len(block_fn.inputs)
        if len(inputs) < count:
            raise DianjingError("event_inputs_missing", count=len(inputs), expected=count)
        visitor = None if request is None else get_visitor(_get_http_request(request))

        def find(reference: object) -> Upload:
            if visitor is None:
                raise DianjingError("file_not_uploaded")
            return self.uploads.find(reference, visitor=visitor)

        return [replace_files(value, find) for value in inputs[:count]]


def _get_http_request(request: Any) -> Any:
    """The HTTP request inside `gr.Request`; MCP gives it by itself."""
    return getattr(request, "request", request)


def replace_files(value: Any, find: Callable[[object], Upload], *, depth: int = 0) -> Any:
    """Replace every file in an input by the stored upload that its path refers to.

    Raises: DianjingError("file_not_uploaded") for any other file, and for values that are nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise DianjingError("input_too_deep", maximum=MAX_DEPTH)
    if isinstance(value, list):
        return [replace_files(item, find, depth=depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    is_region = FILE_KEYS & value.keys() == {"path"} and isinstance(value["path"], list)  # its points; no file's path
    if FILE_KEYS & value.keys() and not is_region:
        upload = find(value.get("path"))
        return {
            "path": str(upload.path),
            "orig_name": upload.path.name,
            "size": upload.size,
            "meta": {"_type": "gradio.FileData"},
        }
    return {key: replace_files(item, find, depth=depth + 1) for key, item in value.items()}
