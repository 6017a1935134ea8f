"""ASGI middleware: the origins that may call the server, and the length of request bodies."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import error_response
from dianjing.demo.errors import BodyTooLongError, ForbiddenOriginError


class OriginMiddleware:
    """Refuse pages of other sites (Origin) and foreign names of the server (Host).

    A foreign name that resolves to this server (DNS rebinding) would make another site's page pass for the server's
    own. Programs send no Origin and pass.
    """

    def __init__(self, app: ASGIApp, *, access: AccessControl):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            request = HTTPConnection(scope)
            try:
                check_origin(request, self.access)
            except ForbiddenOriginError as error:
                response = error_response(request, error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


def check_origin(request: HTTPConnection, access: AccessControl) -> None:
    """Raises: ForbiddenOriginError."""
    host, origin = request.headers.get("host", "").lower(), request.headers.get("origin")
    if access.hosts is not None and _parse_hostname(host) not in access.hosts:
        raise ForbiddenOriginError("host_not_allowed", host=_escape(host))
    if origin is not None and origin not in access.origins and origin.lower().partition("://")[2] != host:
        raise ForbiddenOriginError("origin_not_allowed", origin=_escape(origin))


def _parse_hostname(host: str) -> str | None:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _escape(text: str) -> str:
    return ascii(text)[1:-1][:80]


class BodyLimitMiddleware:
    """Refuse request bodies of more than `max_bytes` under `prefix` with 413."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, prefix: str = "/v1"):
        self.app, self.max_bytes, self.prefix = app, max_bytes, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self.prefix):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        content_length = headers.get(b"content-length", b"0")
        if not content_length.isdigit() or int(content_length) > self.max_bytes:
            await self._reject(scope, receive, send)
            return
        messages, size = [], 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                await self._reject(scope, receive, send)
                return
            if message["type"] != "http.request" or not message.get("more_body"):
                break

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)

    async def _reject(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = BodyTooLongError("body_too_long", max_size=self.max_bytes)
        response = error_response(HTTPConnection(scope), error)
        response.headers["Connection"] = "close"  # the rest of the body is not read
        await response(scope, receive, send)
