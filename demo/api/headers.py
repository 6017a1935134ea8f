"""ASGI middleware: response headers that confine what a page of this server may load and who may frame it."""

import base64
import hashlib
import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What Gradio needs that is unsafe:
# - 'unsafe-eval' for scripts: gr.HTML compiles its template (`${value}`), and events with js= their function
# - 'unsafe-inline' for styles: components set style attributes, and the page inserts its style sheet as an element
# Inline scripts do not pass, but for those of the page itself: they carry a nonce, or have the hash of the script that
# Gradio inserts when it has started.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-eval' 'nonce-{nonce}' {hashes}",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",  # previews of files that are about to be uploaded
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' blob: data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-src 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # frame-ancestors for old browsers
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
SCRIPT_TAG = re.compile(rb"<script(?=[\s>])")


class HeadersMiddleware:
    """Add the headers to every response, and a nonce to the scripts of the page.

    head: HTML that Gradio inserts into the head of the page; its scripts may run.
    """

    def __init__(self, app: ASGIApp, *, head: str = ""):
        self.app = app
        digests = (hashlib.sha256(script.encode()).digest() for script in INLINE_SCRIPT.findall(head))
        self.hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)
        response = _ConfinedResponse(send, nonce=nonce, policy=POLICY.format(nonce=nonce, hashes=self.hashes))
        if scope["path"] == "/":  # a compressed page could not be changed
            headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
            scope = {**scope, "headers": headers}
        await self.app(scope, receive, response.send)


class _ConfinedResponse:
    """Passes a response on with its headers; an HTML page is held back until its scripts have their nonce."""

    def __init__(self, send: Send, *, nonce: str, policy: str):
        self._send, self._nonce, self._policy = send, nonce, policy
        self._start: Message | None = None  # of an HTML page
        self._parts: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = self._policy
            for name, value in HEADERS.items():
                headers[name] = value
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
        elif self._start is not None:
            self._parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = SCRIPT_TAG.sub(f'<script nonce="{self._nonce}"'.encode(), b"".join(self._parts))
            headers = MutableHeaders(scope=self._start)
            if "content-length" in headers and body:
                headers["content-length"] = str(len(body))
            await self._send(self._start)
            message, self._start = {"type": "http.response.body", "body": body}, None
        await self._send(message)
