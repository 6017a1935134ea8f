"""A server as it runs: a client that dies frees its slot, SIGTERM ends it cleanly, nothing is fetched."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from dianjing.demo.app import bind_socket, make_app

ASK = {"prompt": "cat", "num_inference_steps": 1000}


def until(condition, timeout_s=120.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.01)


def send(address, asked):
    """Ask for a picture, and read nothing."""
    client = socket.create_connection(address)
    body = json.dumps(asked).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n"
    client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return client


@pytest.fixture
def live(make_queue, counting):
    """The address of a server over `counting`, and its queue; the server runs in a thread."""
    import uvicorn

    queue = make_queue()
    taken = bind_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(queue), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    yield taken.getsockname(), queue
    server.should_exit = True
    thread.join(120)


def test_a_client_that_dies_frees_its_slot_within_two_steps(live, counting):
    address, queue = live
    counting.step_s = 1.0  # longer than a busy machine takes to notice
    client = send(address, ASK)
    until(lambda: counting.steps >= 1)
    client.close()
    steps = counting.steps
    until(lambda: "cancelled" in queue.metrics.to_prometheus_text().decode())
    assert counting.steps - steps <= 2
    counting.step_s = 0.0
    asked = urllib.request.Request(
        f"http://{address[0]}:{address[1]}/v1/images/generations",
        json.dumps({"prompt": "dog"}).encode(),
        {"Content-Type": "application/json"},
    )
    assert json.load(urllib.request.urlopen(asked, timeout=120))["data"]


def test_a_client_that_dies_in_the_queue_leaves_it(live, counting):
    address, queue = live
    counting.gate.clear()
    first, second = send(address, ASK), send(address, ASK)
    until(lambda: queue.queue_length == 1)
    second.close()
    until(lambda: queue.queue_length == 0)
    first.close()


def test_an_address_that_is_taken_is_refused_by_name():
    with bind_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1 port {port} cannot be listened on"):
            bind_socket("127.0.0.1", port)
    with pytest.raises(ValueError, match="port 70000"):
        bind_socket("127.0.0.1", 70_000)


SERVER = """
import sys
sys.path.insert(0, {tests!r})
from conftest import CountingEngine
from dianjing.demo.app import bind_socket, make_app, run_server
from dianjing.demo.queue import JobQueue
engine = CountingEngine(step_s=0.05)
queue = JobQueue(engine)
taken = bind_socket("127.0.0.1", 0)
print(taken.getsockname()[1], queue.results.root, flush=True)
run_server(make_app(queue), queue, taken)
print("ended", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_who_waits_and_leaves_nothing_behind(how):
    code = SERVER.format(tests=os.path.dirname(os.path.dirname(__file__)))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port, folder = process.stdout.readline().split()
        until(lambda: _answers(process, int(port)))
        client = send(("127.0.0.1", int(port)), ASK)
        waiting = send(("127.0.0.1", int(port)), ASK)
        time.sleep(0.5)
        assert os.path.isdir(folder)
        process.send_signal(how)
        for each in (client, waiting):
            answer = each.recv(10_000)
            assert b" 503 " in answer.splitlines()[0]
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert not os.path.exists(folder)
    if how == signal.SIGTERM:
        assert (process.returncode, said) == (0, "ended\n"), errors


def _answers(process, port):
    assert process.poll() is None, process.stderr.read()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
