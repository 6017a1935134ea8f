"""ASGI middleware: the origins that may call the server."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import error_response
from dianjing.demo.errors import ForbiddenOriginError


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
