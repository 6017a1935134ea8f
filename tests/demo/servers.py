"""Servers over an engine that only counts, in processes of their own: targets of `start_process`."""

import hashlib
import shutil
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from dianjing.demo import app as app_module
from dianjing.demo.app import bind_socket, make_app, run_server
from dianjing.demo.limits import ServerLimits
from dianjing.demo.queue import JobQueue
from tests.demo.conftest import CountingEngine


def serve_until_cancelled(connection: Connection) -> None:
    """Serve runs that end when they are cancelled; send the port and the folder of the results, then "ended"."""
    engine = CountingEngine()
    engine.waits_for_cancel = True
    queue = JobQueue(engine, ServerLimits(max_run_s=3600))
    listening_socket = bind_socket("127.0.0.1", 0)
    connection.send((listening_socket.getsockname()[1], str(queue.results.root)))
    run_server(make_app(queue), queue, listening_socket)
    connection.send("ended")


def serve_what_blocks(connection: Connection, folder: Path, forced_stop_timeout_s: float | None) -> None:
    """Serve runs and routes that do not return, with all files in a folder; send the port, then "blocks".

    forced_stop_timeout_s: the time that the server has to end by itself, None for its own.
    """

    class ClosedGate(threading.Event):
        """A step that does not return, and does not look whether it is cancelled."""

        def wait(self, timeout: float | None = None) -> bool:
            connection.send("blocks")
            return super().wait(timeout)

    if forced_stop_timeout_s is not None:
        app_module.FORCED_STOP_TIMEOUT_S = forced_stop_timeout_s
    tempfile.tempdir = str(folder)
    engine = CountingEngine()
    engine.gate = ClosedGate()
    queue = JobQueue(engine)
    app = make_app(queue)

    def block() -> None:
        connection.send("blocks")
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # hours, deaf to signals

    @app.get("/block/loop")
    async def block_loop() -> None:
        block()

    @app.get("/block/thread")
    def block_thread() -> None:
        block()

    listening_socket = bind_socket("127.0.0.1", 0)
    connection.send(listening_socket.getsockname()[1])
    run_server(app, queue, listening_socket, remove_files=lambda: shutil.rmtree(folder))
