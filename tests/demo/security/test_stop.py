"""A signal ends the server within seconds, whatever blocks: a step of a run, a thread, or the event loop itself."""

import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SERVER = """
import hashlib, shutil, sys, tempfile, threading
sys.path.insert(0, {tests!r})
from conftest import CountingEngine
from dianjing.demo.app import bind_socket, make_app, run_server
from dianjing.demo.queue import JobQueue
tempfile.tempdir = {folder!r}
engine = CountingEngine()
engine.gate.clear()  # a step that does not return, and does not look whether it is cancelled
queue = JobQueue(engine)
app = make_app(queue)

def block():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # hours, deaf to signals

@app.get("/block/loop")
async def block_loop():
    block()

@app.get("/block/thread")
def block_thread():
    block()

listening_socket = bind_socket("127.0.0.1", 0)
print(listening_socket.getsockname()[1], flush=True)
run_server(app, queue, listening_socket, remove_files=lambda: shutil.rmtree({folder!r}))
"""
IMAGE = b'{"prompt": "cat", "num_inference_steps": 10}'


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    script = SERVER.format(tests=str(ROOT / "tests" / "demo"), folder=str(folder))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    yield process, int(process.stdout.readline()), folder
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/block/loop", None), ("GET", "/block/thread", None), ("POST", "/v1/images/generations", IMAGE)],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_blocked_server(server, method, path, body, number):
    process, port, folder = server
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    time.sleep(2)  # until the request blocks; a slower start only makes the test easier
    process.send_signal(number)
    assert process.wait(100) == 128 + number  # a step gives up after 120 s, the other two never
    assert not folder.exists()
    connection.close()
