"""The gate before the page: only the routes that the page needs, and files by token instead of by path.

Gradio's own routes for files read any path of the server when the page is mounted in another app, and fetch addresses.
None of them is reached: uploads and downloads are answered here.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dianjing.demo.api.errors import error_response, validation_error_response
from dianjing.demo.errors import ApiError, MethodNotAllowedError, NotFoundError, get_status, to_user_error
from dianjing.demo.i18n.translation import parse_accept_language, render_for_http
from dianjing.demo.page.checked_blocks import ERROR_STATUS, CheckedBlocks
from dianjing.demo.visitor import VISITOR_COOKIE, get_visitor, get_visitor_cookie, make_visitor_cookie
from dianjing.errors import DianjingError

API_PREFIX = "/gradio_api"
MCP_PREFIX = f"{API_PREFIX}/mcp"
UPLOAD_PATH = f"{API_PREFIX}/upload"
UPLOAD_PROGRESS_PATH = f"{API_PREFIX}/upload_progress"
FILE_PREFIX = f"{API_PREFIX}/file="
NAME = r"[\w-]{1,100}"
ASSET = r"(?!.*\.\.)[\w./@+-]{1,300}"
# the other routes of Gradio fetch addresses, open files by path, or change the app
ALLOWED_GET = re.compile(
    rf"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(?:assets|static|svelte)/{ASSET}"
    rf"|{API_PREFIX}/(?:info/?|startup-events|app_id/?|theme\.css|heartbeat/{NAME}|queue/data|queue/status"
    rf"|call/{NAME}/{NAME}|call/v2/{NAME}/{NAME})",
    re.ASCII,
)
ALLOWED_POST = re.compile(
    rf"{API_PREFIX}/(?:(?:run|api|call)/{NAME}/?|call/v2/{NAME}/?|queue/join|cancel|reset/?)", re.ASCII
)
INLINE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
}
MAX_FILES_PER_REQUEST = 1
MAX_FIELDS_PER_REQUEST = 4


class PageGate:
    """ASGI middleware: routes of the API pass, those of the page by a list, and files by token.

    own_routes: the routes that the app serves besides the page.
    """

    def __init__(self, app: ASGIApp, *, page: CheckedBlocks, own_routes: Sequence[BaseRoute], has_mcp: bool):
        self.app, self.page, self.own_routes, self.has_mcp = app, page, tuple(own_routes), has_mcp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        response = await self._respond(request)
        if response is not None:
            await response(scope, receive, send)
        else:
            send = _set_visitor_cookie(request, send) if scope["path"] == "/" else _set_error_status(scope, send)
            await self.app(scope, receive, send)

    async def _respond(self, request: Request) -> Response | None:
        """Answer a request here, or return None for one that the app may answer."""
        method, path = request.method, request.scope["path"]
        is_read = method in ("GET", "HEAD")
        if path == UPLOAD_PATH and method == "POST":
            return await self._upload(request)
        if path == UPLOAD_PROGRESS_PATH and is_read:
            # an upload is stored when its request ends, so there is nothing to tell in between
            return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
        if path.startswith(FILE_PREFIX) and is_read:
            return await self._download(request)
        matches = {route.matches(request.scope)[0] for route in self.own_routes}
        if Match.FULL in matches or (self.has_mcp and f"{path}/".startswith(f"{MCP_PREFIX}/")):
            return None
        if (is_read and ALLOWED_GET.fullmatch(path)) or (method == "POST" and ALLOWED_POST.fullmatch(path)):
            return None
        is_known = ALLOWED_GET.fullmatch(path) or ALLOWED_POST.fullmatch(path) or path.startswith(FILE_PREFIX)
        if Match.PARTIAL in matches or is_known or path in (UPLOAD_PATH, UPLOAD_PROGRESS_PATH):
            return error_response(request, MethodNotAllowedError("method_not_allowed"))
        return error_response(request, NotFoundError("route_not_found"))

    async def _upload(self, request: Request) -> Response:
        """Store a file and respond with its reference; an error is plain text, which the page shows as it is."""
        try:
            async with request.form(max_files=MAX_FILES_PER_REQUEST, max_fields=MAX_FIELDS_PER_REQUEST) as form:
                files = [value for value in form.getlist("files") if isinstance(value, UploadFile)]
                if not files:
                    raise ApiError("upload_form_invalid")
                [file] = files
                reference = await run_in_threadpool(self._store, file, get_visitor(request))
        except Exception as error:
            # Starlette's is of a form that it cannot read, or with too many parts
            is_malformed = isinstance(error, HTTPException | KeyError)
            user_error = ApiError("upload_form_invalid") if is_malformed else to_user_error(error, context="an upload")
            language = parse_accept_language(request.headers.get("accept-language", ""))
            text = render_for_http(user_error, language)
            return PlainTextResponse(text, status_code=get_status(user_error), headers={"Content-Language": language})
        return JSONResponse([reference])

    def _store(self, file: UploadFile, visitor: str) -> str:
        store = self.page.uploads
        return store.add(file.file, name=file.filename or "", size=file.size or 0, visitor=visitor).reference

    async def _download(self, request: Request) -> Response:
        reference = request.scope["path"].removeprefix(FILE_PREFIX)
        try:
            if reference in self.page.published_files:
                path = Path(reference)
            else:
                path = self.page.uploads.find(reference, visitor=get_visitor(request)).path
        except DianjingError:
            return error_response(request, NotFoundError("file_not_found"))
        if not await run_in_threadpool(path.is_file):  # it has expired
            return error_response(request, NotFoundError("file_not_found"))
        media_type = INLINE_TYPES.get(path.suffix.lower())
        return FileResponse(
            path,
            media_type=media_type or "application/octet-stream",
            filename=path.name,
            content_disposition_type="attachment" if media_type is None else "inline",
        )


def get_exception_handlers() -> dict[Any, Callable[..., Any]]:
    """Handlers of what Gradio's routes raise for requests that no page sends; it has none, and answers 500."""

    async def handle_unknown(request: Request, error: Exception) -> Response:
        return error_response(request, NotFoundError("endpoint_not_found"))

    async def handle_invalid(request: Request, error: RequestValidationError) -> Response:
        return validation_error_response(request, error.errors()[0])

    async def handle_http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return error_response(request, NotFoundError("endpoint_not_found"))
        return await http_exception_handler(request, error)

    return {
        KeyError: handle_unknown,  # a number or name of a function that does not exist
        FnIndexInferError: handle_unknown,
        TypeError: handle_unknown,  # arguments that the function does not have
        ValueError: handle_unknown,
        RequestValidationError: handle_invalid,
        HTTPException: handle_http,
    }


def _set_error_status(scope: Scope, send: Send) -> Send:
    """Send the status that an event has left for its error; Gradio's is 500 for every error."""
    error_status: dict[str, int] = {}
    scope[ERROR_STATUS] = error_status

    async def send_with_status(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            message = {**message, "status": error_status.get("status", 500)}
        await send(message)

    return send_with_status


def _set_visitor_cookie(request: Request, send: Send) -> Send:
    """Add a cookie to the response for a visitor who has none."""
    if get_visitor_cookie(request) is not None:
        return send

    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            secure = "; Secure" if request.url.scheme == "https" else ""
            cookie = f"{VISITOR_COOKIE}={make_visitor_cookie()}; Path=/; HttpOnly; SameSite=Lax{secure}"
            MutableHeaders(scope=message).append("Set-Cookie", cookie)
        await send(message)

    return send_with_cookie
