"""A running server: a client that leaves frees its slot, and a signal ends the server cleanly."""

import json
import multiprocessing
import os
import signal
import socket
import time
import urllib.request

import pytest

from dianjing.demo.app import bind_socket
from dianjing.demo.jobs import Cancelled, Progress
from tests.demo.servers import serve_until_cancelled
from tests.processes import start_process

BODY = {"prompt": "cat", "num_inference_steps": 1000}


def wait_until(condition, timeout_s=120.0):
    """Poll a condition that another process or thread makes true."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "the condition did not become true"
        time.sleep(0.01)


def send(address, body):
    """Send a request for an image, and read nothing."""
    client = socket.create_connection(address)
    content = json.dumps(body).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: here\r\nContent-Length: {len(content)}\r\n"
    client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
    return client


def read_text(url):
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()


def test_a_client_that_leaves_ends_its_job_within_two_steps(live, counting):
    address, _, jobs = live
    counting.gate.clear()
    client = send(address, BODY)
    wait_until(lambda: jobs)
    next(event for event in jobs[0].stream_events() if isinstance(event, Progress))
    client.close()
    assert jobs[0].cancel_requested.wait(120)
    before = counting.num_steps
    counting.gate.set()
    assert isinstance(jobs[0].wait(120), Cancelled)
    assert counting.num_steps - before <= 2
    request = urllib.request.Request(
        f"http://{address[0]}:{address[1]}/v1/images/generations",
        json.dumps({"prompt": "dog"}).encode(),
        {"Content-Type": "application/json"},
    )
    assert json.load(urllib.request.urlopen(request, timeout=120))["data"]


def test_a_client_that_leaves_the_queue_gives_up_its_position(live, counting):
    address, queue, _ = live
    counting.gate.clear()
    first, second = send(address, BODY), send(address, BODY)
    wait_until(lambda: queue.queue_length == 1)
    second.close()
    wait_until(lambda: queue.queue_length == 0)
    first.close()
    counting.gate.set()


def test_an_address_in_use_is_refused_by_name():
    with bind_socket("127.0.0.1", 0) as listening_socket:
        port = listening_socket.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1 port {port} cannot be used"):
            bind_socket("127.0.0.1", port)
    with pytest.raises(ValueError, match="port 70000"):
        bind_socket("127.0.0.1", 70_000)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_waiting_clients_and_removes_all_files(signal_number):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = start_process(serve_until_cancelled, sender)
    sender.close()
    try:
        port, folder = receiver.recv()
        running, queued = (send(("127.0.0.1", port), BODY) for _ in range(2))
        metrics = f"http://127.0.0.1:{port}/metrics"
        wait_until(lambda: "dianjing_queue_length 1.0" in read_text(metrics))
        assert os.path.isdir(folder)
        os.kill(process.pid, signal_number)
        for client in (running, queued):
            assert b" 503 " in client.recv(10_000).splitlines()[0]
        process.join(120)
    finally:
        process.kill()
    assert not os.path.exists(folder)
    if signal_number == signal.SIGTERM:
        assert process.exitcode == 0
        assert receiver.recv() == "ended"
