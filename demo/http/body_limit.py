"""A body is read whole before anything looks at it, and only if it is not too long."""

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dianjing.demo.errors import translate, wanted_language


class BodyLimit:
    """ASGI: bodies of more than max_bytes under `prefix` are refused with 413."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, prefix: str = "/v1"):
        self.app, self.max_bytes, self.prefix = app, max_bytes, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self.prefix):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self.max_bytes:
            await self._refuse(headers, send)
            return
        messages, size = [], 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                await self._refuse(headers, send)
                return
            if message["type"] != "http.request" or not message.get("more_body"):
                break

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)

    async def _refuse(self, headers: dict[bytes, bytes], send: Send) -> None:
        language = wanted_language(headers.get(b"accept-language", b"").decode("latin-1"))
        message = translate(f"the request is too long; at most {self.max_bytes:,} bytes are taken", language)
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "content_too_large"}
        body = json.dumps({"error": error}, ensure_ascii=False).encode()
        head = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": head})
        await send({"type": "http.response.body", "body": body})
