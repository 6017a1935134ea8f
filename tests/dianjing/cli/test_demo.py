"""`dianjing demo`: what is wrong is said before any weights load; what is right answers, and stops cleanly."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from dianjing.cli import demo_server

USUAL = {
    "model": "sticker",
    "host": "127.0.0.1",
    "port": 0,
    "auth": None,
    "api_keys": [],
    "allowed_origins": [],
    "max_queue": None,
    "mcp": False,
    "segmenter": None,
    "device": "cpu",
    "dtype": "auto",
    "producer": None,
    "visible_label": False,
    "certificate_path": None,
    "private_key_path": None,
}


def plan(**changed):
    made = demo_server.validate_demo_server(**{**USUAL, **changed})
    made.listening_socket.close()
    return made


def test_without_options_it_listens_here_alone_and_asks_for_no_key():
    made = demo_server.validate_demo_server(**USUAL)
    with made.listening_socket:
        assert made.address == f"http://127.0.0.1:{made.listening_socket.getsockname()[1]}"
    assert not made.access.requires_key
    assert made.limits.max_queue_length == 32


def test_it_is_known_by_the_names_of_this_machine_unless_others_may_reach_it():
    assert plan().access.hosts == {"localhost", "127.0.0.1", "::1"}
    assert plan(host="0.0.0.0").access.hosts is None
    allowed = plan(allowed_origins=["https://Draw.example.com/"]).access
    assert allowed.origins == ("https://draw.example.com",)
    assert "draw.example.com" in allowed.hosts


def test_keys_and_a_user_close_the_api():
    made = plan(api_keys=["a-long-key", " another-key "], auth="ann:secret:with:colons")
    assert made.access.keys == ("a-long-key", "another-key")
    assert made.access.auth == ("ann", "secret:with:colons")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model": "stiker"}, "did you mean 'sticker'"),
        ({"device": "gpu"}, "--device is 'gpu'"),
        ({"auth": "ann"}, "--auth takes USER:PASSWORD"),
        ({"auth": ":secret"}, "--auth takes USER:PASSWORD"),
        ({"api_keys": ["short"]}, "has 5 characters; give at least 8"),
        ({"api_keys": ["a key with blanks"]}, "no blanks"),
        ({"allowed_origins": ["draw.example.com"]}, "--allow-origin is 'draw.example.com'"),
        ({"allowed_origins": ["https://draw.example.com/path"]}, "SCHEME://HOST"),
        ({"mcp": True, "auth": "ann:secret"}, "agents cannot log in"),
        ({"certificate_path": "chain.pem"}, "belong together"),
        ({"host": "192.0.2.1"}, "cannot be listened on"),
    ],
)
def test_what_is_wrong_is_said_before_weights_load(changed, reason):
    with pytest.raises(ValueError, match=reason):
        plan(**changed)


def test_agents_without_their_package_are_told_which_to_install(monkeypatch):
    monkeypatch.setattr(demo_server, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"dianjing\[mcp\]"):
        plan(mcp=True)


def test_a_taken_port_ends_with_2_and_names_it():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "dianjing", "demo", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 2
    assert f"port {port} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(900)  # all libraries are imported, on a machine that may be busy
def test_the_command_draws_over_http_and_ends_on_sigterm(tiny_folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dianjing", "demo", "--model", str(tiny_folder), "--port", str(port)]
    environment = {**os.environ, "DIANJING_API_KEYS": "a-long-key,another-key"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = _ready(process, port)
        asked = urllib.request.Request(
            f"{address}/v1/images/generations",
            json.dumps({"prompt": "cat"}).encode(),
            {"Content-Type": "application/json", "Authorization": "Bearer another-key"},
        )
        answer = json.load(urllib.request.urlopen(asked, timeout=120))
        assert len(answer["data"]) == 1
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert f"Dianjing 点睛: {address}" in errors
    assert "Traceback" not in errors


def _ready(process, port):
    address, end_s = f"http://127.0.0.1:{port}", time.monotonic() + 500
    while time.monotonic() < end_s:
        assert process.poll() is None, process.stderr.read()
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=120) as answer:
                if answer.status == 200:
                    return address
        except OSError:
            time.sleep(0.5)  # not only before it listens: it listens before its weights are loaded
    raise AssertionError("the server does not answer")
