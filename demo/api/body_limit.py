"""ASGI middleware: the length of request bodies, counted while they arrive and before anything is parsed."""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dianjing.demo.api.errors import error_response
from dianjing.demo.errors import ApiError, BodyTooLongError, SlowBodyError
from dianjing.demo.limits import ServerLimits
from dianjing.demo.uploads import ITEM_MARKS

FORM_TYPE = b"multipart/form-data"


class BodyLimitMiddleware:
    """Refuse bodies that are too long (413), that hold too many values, or that stop arriving (408).

    Nothing is buffered here: the app receives the parts as they come, and the end of the connection instead of the
    first part above the limit.
    """

    def __init__(self, app: ASGIApp, *, limits: ServerLimits):
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        content_length = dict(scope["headers"]).get(b"content-length", b"0")
        body = _LimitedBody(scope, receive, send, self.limits)
        if not content_length.isdigit() or int(content_length) > self.limits.max_body_bytes:
            await body.refuse(BodyTooLongError("body_too_long", max_size=self.limits.max_body_bytes))
            return
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            if body.error is None:
                raise
        if body.error is not None:
            await body.refuse(body.error)


class _LimitedBody:
    """The body of one request; `error` is set as soon as it breaks a limit, and the app's own response is dropped."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: ServerLimits):
        self.scope, self.limits = scope, limits
        self.error: ApiError | None = None
        self._receive, self._send = receive, send
        headers = dict(scope["headers"])
        self._has_response = False
        self._is_complete = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"
        self._is_form = headers.get(b"content-type", b"").lower().startswith(FORM_TYPE)
        self._size = self._items = 0

    async def receive(self) -> Message:
        """The next part of the body; "http.disconnect" in place of one above a limit."""
        if self.error is not None:
            return {"type": "http.disconnect"}
        if self._is_complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self.limits.body_timeout_s)
        except asyncio.TimeoutError:
            self.error = SlowBodyError("body_too_slow", seconds=self.limits.body_timeout_s)
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            self._is_complete = not message.get("more_body", False)
            self._count(message.get("body", b""))
        return message if self.error is None else {"type": "http.disconnect"}

    def _count(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self.limits.max_body_bytes:
            self.error = BodyTooLongError("body_too_long", max_size=self.limits.max_body_bytes)
        if not self._is_form:
            self._items += sum(part.count(mark) for mark in ITEM_MARKS)
            if self._items > self.limits.max_body_items:
                self.error = BodyTooLongError("body_too_many_items", maximum=self.limits.max_body_items)

    async def send(self, message: Message) -> None:
        """Send the app's response, unless the body has broken a limit before it began."""
        if self.error is not None and not self._has_response:
            return
        if message["type"] == "http.response.start":
            self._has_response = True
            if not self._is_complete:
                MutableHeaders(scope=message)["Connection"] = "close"  # the rest of the body is not read
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Send the response for an error, if none has begun."""
        if self._has_response:
            return
        self._has_response = True
        response = error_response(HTTPConnection(self.scope), error)
        response.headers["Connection"] = "close"
        await response(self.scope, self._receive, self._send)
