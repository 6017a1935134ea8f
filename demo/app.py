"""The page and the API in one process, served until it is told to stop."""

import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from dianjing.demo.http.access import Access
from dianjing.demo.http.api import make_api
from dianjing.demo.worker import Worker

if TYPE_CHECKING:
    from dianjing.demo.studio import Studio

HURRY_S = 5  # what is still open this long after the stop is cut


def make_app(
    worker: Worker, studio: "Studio | None" = None, *, access: Access | None = None, mcp: str | None = None
) -> FastAPI:
    """The API, and the page with it where a studio is given. Whoever runs the app closes the worker with it.

    mcp: where this server will be found, for Gradio calls itself there for agents; None: none are served.
    """
    access = access or Access()
    app = make_api(worker, access)
    app.router.lifespan_context = _closing(worker, app.router.lifespan_context)
    return app if studio is None else _with_page(app, worker, studio, access, mcp=mcp)


def _closing(worker: Worker, inner: Any) -> Any:
    """The app's lifespan with the worker's in it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator:
        async with inner(app) as state:
            yield state
        await run_in_threadpool(worker.close)

    return lifespan


def _with_page(app: FastAPI, worker: Worker, studio: "Studio", access: Access, *, mcp: str | None) -> FastAPI:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported
    import gradio

    from dianjing.demo.page import make_page, page_options

    page = make_page(worker, studio)
    app = gradio.mount_gradio_app(
        app, page, path="/", auth=access.auth, mcp_server=mcp is not None,
        max_file_size=worker.limits.max_upload_bytes, **page_options(),
    )  # fmt: skip
    if mcp is not None:
        from dianjing.demo.page.agents import let_agents_see

        let_agents_see(page.mcp_server_obj, address=mcp)
    return app


class _Server(uvicorn.Server):
    """Stops drawing as soon as it is told to, so that nobody who waits for a picture holds it up."""

    def __init__(self, config: uvicorn.Config, worker: Worker):
        super().__init__(config)
        self.worker = worker

    def handle_exit(self, sig: int, frame: object) -> None:
        threading.Thread(target=self.worker.close, daemon=True).start()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


@contextmanager
def _quiet_end() -> Iterator[None]:
    """uvicorn raises SIGTERM again once it has stopped, which would end this process as if it had been killed."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listen(host: str, port: int) -> socket.socket:
    """Take the address before any weights load. Raises: ValueError where that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen()  # a second server must not share it while this one loads
    except (OSError, OverflowError) as error:
        taken.close()
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{host} port {port} cannot be listened on ({reason}); choose another --port or --host"
        ) from None
    return taken


def serve(app: FastAPI, worker: Worker, taken: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C; then cancel what is drawn, answer what waits, remove the files."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=HURRY_S, server_header=False)
    with _quiet_end():
        _Server(config, worker).run(sockets=[taken])
