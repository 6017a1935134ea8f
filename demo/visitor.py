"""The visitor of a request: an unguessable cookie that the page sets, or the network address without one."""

import hashlib
import re
import secrets

from starlette.requests import HTTPConnection

VISITOR_COOKIE = "dianjing-visitor"
COOKIE_PATTERN = re.compile(r"[\w-]{43}", re.ASCII)  # the form of secrets.token_urlsafe(32)


def make_visitor_cookie() -> str:
    """Make the value of a new visitor's cookie."""
    return secrets.token_urlsafe(32)


def get_visitor_cookie(request: HTTPConnection) -> str | None:
    """The visitor's cookie, None for a request without one that this server could have set."""
    value = request.cookies.get(VISITOR_COOKIE, "")
    return value if COOKIE_PATTERN.fullmatch(value) else None


def get_visitor(request: HTTPConnection) -> str:
    """A hash that identifies the visitor of a request, by the cookie or else by the network address."""
    cookie = get_visitor_cookie(request)
    identity = f"address {request.client.host if request.client else ''}" if cookie is None else f"cookie {cookie}"
    return hashlib.sha256(identity.encode()).hexdigest()
