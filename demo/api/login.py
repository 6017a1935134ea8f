"""ASGI middleware: with keys or a password, everything that generates is closed to others, before a body is read.

Programs send `Authorization`; browsers log in once and get a cookie.
"""

import secrets
import time
from collections import OrderedDict
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import error_response
from dianjing.demo.api.login_page import render_login_page
from dianjing.demo.api.throttle import LoginThrottle
from dianjing.demo.errors import ApiError, MissingKeyError, TooManyFailuresError
from dianjing.demo.i18n.translation import parse_accept_language, render_for_http

PUBLIC_PATHS = {"/healthz", "/metrics", "/docs", "/openapi.json", "/robots.txt"}
RESULTS_PREFIX = "/results"  # the addresses of results hold a token, and are opened without a key
LOGIN_COOKIE = "dianjing-login"
LOGIN_LIFETIME_S = 7 * 24 * 3600
MAX_LOGINS = 10_000
MAX_FORM_BYTES = 4096


class AccessMiddleware:
    """Refuse requests without valid credentials, and answer `/login` and `/logout` itself."""

    def __init__(self, app: ASGIApp, *, access: AccessControl):
        self.app, self.access = app, access
        self.throttle = LoginThrottle()
        self._expiries_s: OrderedDict[str, float] = OrderedDict()  # by the cookie of a login, oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        response = await self._respond(request)
        if response is None:
            await self.app(scope, receive, send)
            return
        response.headers["Connection"] = "close"  # the body is not read
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response | None:
        """Answer a request here, or return None for one that may go on."""
        path = request.scope["path"].rstrip("/")
        if path == "/login":
            return await self._log_in(request) if request.method == "POST" else self._make_login_response(request)
        if path == "/logout":
            return self._log_out(request)
        if self._has_login(request):
            return None
        if "authorization" not in request.headers:
            return self._refuse(request, MissingKeyError("api_key_missing"))
        address = _get_address(request)
        if wait_s := self.throttle.get_wait_s(address):
            return self._refuse(request, _make_wait_error(wait_s))
        try:
            self.access.get_owner(request)
        except MissingKeyError as error:
            self.throttle.add_failure(address)
            return self._refuse(request, error)
        self.throttle.reset(address)
        return None

    async def _log_in(self, request: Request) -> Response:
        address = _get_address(request)
        if wait_s := self.throttle.get_wait_s(address):
            return self._refuse(request, _make_wait_error(wait_s))
        form = await _read_form(request)
        if not self.access.is_login(form.get("username", ""), form.get("password", "")):
            self.throttle.add_failure(address)
            return self._refuse(request, MissingKeyError("login_wrong"))
        self.throttle.reset(address)
        response = RedirectResponse("./", status_code=303) if _wants_html(request) else JSONResponse({"success": True})
        token = secrets.token_urlsafe(32)
        self._expiries_s[token] = time.monotonic() + LOGIN_LIFETIME_S
        while len(self._expiries_s) > MAX_LOGINS:
            self._expiries_s.popitem(last=False)
        response.set_cookie(
            LOGIN_COOKIE,
            token,
            max_age=LOGIN_LIFETIME_S,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    def _log_out(self, request: Request) -> Response:
        self._expiries_s.pop(request.cookies.get(LOGIN_COOKIE, ""), None)
        response = RedirectResponse("./login", status_code=303)
        response.delete_cookie(LOGIN_COOKIE)
        return response

    def _has_login(self, request: Request) -> bool:
        return self._expiries_s.get(request.cookies.get(LOGIN_COOKIE, ""), 0.0) > time.monotonic()

    def _make_login_response(
        self, request: Request, *, status: int = 200, error: ApiError | None = None
    ) -> HTMLResponse:
        language = parse_accept_language(request.headers.get("accept-language", ""))
        text = None if error is None else render_for_http(error, language)
        page = render_login_page(language, has_user=self.access.auth is not None, error=text)
        headers = {"Content-Language": language, "Cache-Control": "no-store"}
        return HTMLResponse(page, status_code=status, headers=headers)

    def _refuse(self, request: Request, error: ApiError) -> Response:
        """The login form for a browser that opens the page, and an error in JSON for all others."""
        response: Response = error_response(request, error)
        path = request.scope["path"].rstrip("/")
        if _wants_html(request) and path in ("", "/login"):
            is_first_visit = error.message_id == "api_key_missing"
            response = self._make_login_response(request, status=error.status, error=None if is_first_visit else error)
        if isinstance(error, TooManyFailuresError):
            response.headers["Retry-After"] = str(error.arguments["seconds"])
        return response


def is_public(path: str) -> bool:
    """True for a path that is open without a key; nothing there generates."""
    return path in PUBLIC_PATHS or path.startswith(f"{RESULTS_PREFIX}/")


def _make_wait_error(wait_s: float) -> TooManyFailuresError:
    return TooManyFailuresError("login_too_often", seconds=int(wait_s) + 1)


def _get_address(request: Request) -> str:
    return request.client.host if request.client else ""


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


async def _read_form(request: Request) -> dict[str, str]:
    """The fields of a small URL-encoded form; none for any other body."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            return {}
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}
