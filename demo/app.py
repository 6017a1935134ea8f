"""The web application: page and API in one process, served until it is told to stop."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from dianjing.demo.api.app import add_middleware, make_api
from dianjing.demo.api.auth import AccessControl
from dianjing.demo.queue import JobQueue
from dianjing.demo.upload_store import UploadStore
from dianjing.errors import DianjingError

if TYPE_CHECKING:
    from dianjing.demo.engine import InferenceEngine

logger = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_S = 5  # connections still open this long after the stop are cut
FORCED_STOP_TIMEOUT_S = 10  # a step of a large model, or anything that blocks, is not waited for any longer


def make_app(
    queue: JobQueue,
    engine: "InferenceEngine | None" = None,
    *,
    access: AccessControl | None = None,
    mcp_url: str | None = None,
    aliases: Sequence[str] = (),
) -> FastAPI:
    """Make the API, and the page as well if an engine is given; the app's end closes the queue.

    `aliases` are further names under which clients of the API may ask for the model.
    `mcp_url` is the server's own address, under which its MCP tools call it; None: no MCP.
    """
    access = access or AccessControl()
    app = make_api(queue, access, aliases=aliases)
    app.router.lifespan_context = _make_lifespan(queue, app.router.lifespan_context)
    head = "" if engine is None else _mount_page(app, queue, engine, access, mcp_url=mcp_url)
    add_middleware(app, queue.limits, access, head=head)  # after the page's own: it runs before that
    return app


def _make_lifespan(queue: JobQueue, inner_lifespan: Any) -> Any:
    """Extend a lifespan so that the queue is closed at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator:
        async with inner_lifespan(app) as state:
            yield state
        await run_in_threadpool(queue.close)

    return lifespan


def _mount_page(
    app: FastAPI, queue: JobQueue, engine: "InferenceEngine", access: AccessControl, *, mcp_url: str | None
) -> str:
    """Mount the page, and return the HTML that it inserts into its head."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported
    import gradio
    from gradio.utils import get_upload_folder

    from dianjing.demo.page import PageGate, get_exception_handlers, get_page_options, make_page

    # inside Gradio's folder, where it copies every file that lies elsewhere
    os.makedirs(get_upload_folder(), exist_ok=True)
    uploads = UploadStore(queue.limits, parent=get_upload_folder())
    page, options = make_page(queue, engine, uploads), get_page_options()
    app_kwargs: dict[str, Any] = {"exception_handlers": get_exception_handlers()}
    if mcp_url is not None:
        from dianjing.demo.page.mcp import FileMCPServer

        page.mcp_server_obj = FileMCPServer(page, server_url=access.add_own_credentials(mcp_url))
        app_kwargs["lifespan"] = page.mcp_server_obj.lifespan
    app.add_middleware(PageGate, page=page, own_routes=list(app.routes), has_mcp=mcp_url is not None)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        mcp_server=False,  # the page has its own, or none
        app_kwargs=app_kwargs,
        **options,
    )
    return options["head"]


class _Server(uvicorn.Server):
    """Cancels all jobs at the first signal, so that no waiting client delays the end."""

    def __init__(self, config: uvicorn.Config, queue: JobQueue):
        super().__init__(config)
        self.queue = queue

    def handle_exit(self, sig: int, frame: object) -> None:
        threading.Thread(target=self.queue.close, daemon=True).start()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


@contextmanager
def _suppress_sigterm() -> Iterator[None]:
    """Ignore the SIGTERM that uvicorn raises again after its end: the process would exit as if it had been killed."""
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _enforce_stop(remove_files: Callable[[], object]) -> Iterator[None]:
    """End the process some seconds after a signal, whatever any thread does.

    Python's own handlers wait for the main thread, which may be inside a call that does not return; the wake-up socket
    is written by the signal itself.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        for number in iter(lambda: receiver.recv(1), b""):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                time.sleep(FORCED_STOP_TIMEOUT_S)
                logger.warning(
                    "something did not end within %s s of the signal; the server ends", FORCED_STOP_TIMEOUT_S
                )
                remove_files()
                os._exit(128 + number[0])

    threading.Thread(target=watch, daemon=True, name="dianjing-stop").start()
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind the address before any weights load. Raises: DianjingError if that is not possible."""
    listening_socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening_socket.bind((host, port))
        listening_socket.listen()  # a second server must not share the address while this one loads
    except (OSError, OverflowError) as error:
        listening_socket.close()
        reason = getattr(error, "strerror", None) or error
        raise DianjingError("address_not_available", host=host, port=port, reason=reason) from None
    return listening_socket


def run_server(
    app: FastAPI, queue: JobQueue, listening_socket: socket.socket, *, remove_files: Callable[[], object] = lambda: None
) -> None:
    """Serve until SIGTERM or Ctrl-C; then cancel all jobs, answer the waiting clients and remove all files.

    What still runs `FORCED_STOP_TIMEOUT_S` after the signal is ended with the process, after a call of `remove_files`.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",  # others take the signals for themselves
        log_config=None,  # as the process logs
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        server_header=False,
    )
    with _suppress_sigterm(), _enforce_stop(remove_files):
        _Server(config, queue).run(sockets=[listening_socket])
