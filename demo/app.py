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

from dianjing.demo.api.app import make_api
from dianjing.demo.api.auth import AccessControl
from dianjing.demo.queue import JobQueue

if TYPE_CHECKING:
    from dianjing.demo.engine import InferenceEngine

SHUTDOWN_TIMEOUT_S = 5  # what is still open this long after the stop is cut


def make_app(
    worker: JobQueue,
    engine: "InferenceEngine | None" = None,
    *,
    access: AccessControl | None = None,
    mcp_url: str | None = None,
) -> FastAPI:
    """The API, and the page with it where a studio is given. Whoever runs the app closes the worker with it.

    mcp: where this server will be found, for Gradio calls itself there for agents; None: none are served.
    """
    access = access or AccessControl()
    app = make_api(worker, access)
    app.router.lifespan_context = _make_lifespan(worker, app.router.lifespan_context)
    return app if engine is None else _mount_page(app, worker, engine, access, mcp_url=mcp_url)


def _make_lifespan(worker: JobQueue, inner_lifespan: Any) -> Any:
    """The app's lifespan with the worker's in it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator:
        async with inner_lifespan(app) as state:
            yield state
        await run_in_threadpool(worker.close)

    return lifespan


def _mount_page(
    app: FastAPI, worker: JobQueue, engine: "InferenceEngine", access: AccessControl, *, mcp_url: str | None
) -> FastAPI:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported
    import gradio

    from dianjing.demo.page import get_page_options, make_page

    page = make_page(worker, engine)
    app = gradio.mount_gradio_app(
        app,
        page,
        path="/",
        auth=access.auth,
        mcp_server=mcp_url is not None,
        max_file_size=worker.limits.max_upload_bytes,
        **get_page_options(),
    )
    if mcp_url is not None:
        from dianjing.demo.page.mcp import serve_files

        serve_files(page.mcp_server_obj, server_url=mcp_url)
    return app


class _Server(uvicorn.Server):
    """Stops drawing as soon as it is told to, so that nobody who waits for a picture holds it up."""

    def __init__(self, config: uvicorn.Config, worker: JobQueue):
        super().__init__(config)
        self.worker = worker

    def handle_exit(self, sig: int, frame: object) -> None:
        threading.Thread(target=self.worker.close, daemon=True).start()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


@contextmanager
def _suppress_sigterm() -> Iterator[None]:
    """uvicorn raises SIGTERM again once it has stopped, which would end this process as if it had been killed."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def bind_socket(host: str, port: int) -> socket.socket:
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


def run_server(app: FastAPI, worker: JobQueue, listening_socket: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C; then cancel what is drawn, answer what waits, remove the files."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S, server_header=False)
    with _suppress_sigterm():
        _Server(config, worker).run(sockets=[listening_socket])
