"""A signal ends the server within seconds, whatever blocks: a step of a run, a thread, or the event loop itself."""

import multiprocessing
import os
import signal
import time
from http.client import HTTPConnection

import pytest

from tests.demo.servers import serve_what_blocks
from tests.processes import start_process

IMAGE = b'{"prompt": "cat", "num_inference_steps": 10}'


@pytest.fixture
def server(tmp_path, request):
    """A server with a short time to end by itself, or the time that a test is parametrized with."""
    folder = tmp_path / "files"
    folder.mkdir()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = start_process(serve_what_blocks, sender, folder, getattr(request, "param", 1))
    sender.close()
    try:
        yield process, receiver, folder
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/block/loop", None), ("GET", "/block/thread", None), ("POST", "/v1/images/generations", IMAGE)],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_blocked_server(server, method, path, body, number):
    process, receiver, folder = server
    connection = HTTPConnection("127.0.0.1", receiver.recv(), timeout=120)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    assert receiver.recv() == "blocks"
    os.kill(process.pid, number)
    process.join(100)
    assert process.exitcode == 128 + number  # a step gives up after 120 s, the other two never
    assert not folder.exists()
    connection.close()


@pytest.mark.parametrize("server", [None], indirect=True, ids=["its own time"])
def test_a_blocked_server_ends_within_its_own_time(server):
    process, receiver, _ = server
    connection = HTTPConnection("127.0.0.1", receiver.recv(), timeout=120)
    connection.request("GET", "/block/loop")
    assert receiver.recv() == "blocks"
    start_s = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(100)
    assert process.exitcode == 128 + signal.SIGTERM
    assert time.monotonic() - start_s < 20  # ten seconds, and what a busy machine adds
    connection.close()
