"""Which web pages may drive the server: its own, and those it was told of."""

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from dianjing.demo.errors import RefusedError
from dianjing.demo.http.access import Access
from dianjing.demo.http.faults import answer


class ForeignError(RefusedError):
    status = 403


class Door:
    """ASGI: browsers say which site's page asks (Origin), and which name they took the server for (Host).

    A page of another site is refused, and so is a name that was made to lead here (DNS rebinding): with it that page
    would pass for the server's own. Programs send no Origin, and pass.
    """

    def __init__(self, app: ASGIApp, *, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            request = HTTPConnection(scope)
            try:
                check_site(request, self.access)
            except ForeignError as error:
                refuse = answer(request, str(error), status=error.status)
                await refuse(scope, receive, send)
                return
        await self.app(scope, receive, send)


def check_site(request: HTTPConnection, access: Access) -> None:
    """Raises: ForeignError."""
    host, origin = request.headers.get("host", "").lower(), request.headers.get("origin")
    if access.hosts is not None and _name(host) not in access.hosts:
        raise ForeignError(
            f"this server is not known as {_shown(host)}; open it at its own address, or name that with --allow-origin"
        )
    if origin is not None and origin not in access.origins and origin.lower().partition("://")[2] != host:
        raise ForeignError(f"pages of {_shown(origin)} may not drive this server; --allow-origin lets them")


def _name(host: str) -> str | None:
    """Without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _shown(text: str) -> str:
    return ascii(text)[1:-1][:80]
