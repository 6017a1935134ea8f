"""`dianjing demo`: wrong options are refused before weights load; the server responds and stops cleanly."""

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

DEFAULTS = {
    "model": "sticker",
    "host": "127.0.0.1",
    "port": 0,
    "auth": None,
    "api_keys": [],
    "allowed_origins": [],
    "aliases": [],
    "max_queue": None,
    "max_run_s": None,
    "loras": [],
    "controlnets": [],
    "preprocessors": [],
    "ip_adapter": None,
    "ip_adapter_encoder": None,
    "chat_model": None,
    "mcp": False,
    "segmenter": None,
    "video_models": [],
    "device": "cpu",
    "dtype": "auto",
    "producer": None,
    "visible_label": False,
    "certificate_path": None,
    "private_key_path": None,
}


def validate(**changed):
    server = demo_server.validate_demo_server(**{**DEFAULTS, **changed})
    server.listening_socket.close()
    return server


def test_by_default_the_server_is_local_and_needs_no_key():
    server = demo_server.validate_demo_server(**DEFAULTS)
    with server.listening_socket:
        assert server.address == f"http://127.0.0.1:{server.listening_socket.getsockname()[1]}"
    assert not server.access.requires_key
    assert server.limits.max_queue_length == 32


def test_a_local_server_allows_only_the_host_names_of_the_machine():
    assert validate().access.hosts == {"localhost", "127.0.0.1", "::1"}
    assert validate(host="0.0.0.0").access.hosts is None
    allowed = validate(allowed_origins=["https://Draw.example.com/"]).access
    assert allowed.origins == ("https://draw.example.com",)
    assert "draw.example.com" in allowed.hosts


def test_aliases_name_the_served_model():
    assert validate(aliases=["gpt-image-1", "sora-2=sticker", "org/name"]).aliases == (
        "gpt-image-1",
        "sora-2",
        "org/name",
    )


def test_keys_and_a_login_restrict_the_api():
    server = validate(api_keys=["a-long-key", " another-key "], auth="ann:secret:with:colons")
    assert server.access.keys == ("a-long-key", "another-key")
    assert server.access.auth == ("ann", "secret:with:colons")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model": "stiker"}, "did you mean 'sticker'"),
        ({"device": "gpu"}, "--device is 'gpu'"),
        ({"auth": "ann"}, "--auth takes USER:PASSWORD"),
        ({"auth": ":secret"}, "--auth takes USER:PASSWORD"),
        ({"api_keys": ["short"]}, "of 5 characters is not accepted; give at least 8"),
        ({"api_keys": ["a key with blanks"]}, "without blanks"),
        ({"aliases": ["gpt-image-1=other"]}, "--alias 'gpt-image-1=other' is not usable; give NAME, or NAME=sticker"),
        ({"aliases": ["gpt image"]}, "without blanks"),
        ({"aliases": ["=sticker"]}, "without blanks"),
        ({"aliases": ["gpt-image-1="]}, "give NAME"),
        ({"allowed_origins": ["draw.example.com"]}, "--allow-origin is 'draw.example.com'"),
        ({"allowed_origins": ["https://draw.example.com/path"]}, "SCHEME://HOST"),
        ({"certificate_path": "chain.pem"}, "belong together"),
        ({"host": "192.0.2.1"}, "cannot be used"),
    ],
)
def test_wrong_options_are_refused_before_weights_load(changed, reason):
    with pytest.raises(ValueError, match=reason):
        validate(**changed)


def test_mcp_without_its_package_names_what_to_install(monkeypatch):
    monkeypatch.setattr(demo_server, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"dianjing\[mcp\]"):
        validate(mcp=True)


def test_a_port_in_use_ends_with_2_and_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "dianjing", "demo", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 2
    assert f"port {port} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(600)  # all libraries are imported, on a machine that may be busy
def test_the_command_generates_over_http_and_stops_on_sigterm(tiny_folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dianjing", "demo", "--model", str(tiny_folder), "--port", str(port)]
    command += ["--alias", "gpt-image-1"]
    environment = {**os.environ, "DIANJING_API_KEYS": "a-long-key,another-key"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = _ready(process, port)
        request = urllib.request.Request(
            f"{address}/v1/images/generations",
            json.dumps({"prompt": "cat", "model": "gpt-image-1", "response_format": "url"}).encode(),
            {"Content-Type": "application/json", "Authorization": "Bearer another-key"},
        )
        response = json.load(urllib.request.urlopen(request, timeout=120))
        [image] = response["data"]
        assert image["url"].startswith(f"{address}/")
        with urllib.request.urlopen(image["url"], timeout=120) as file:  # without a key, though the page is mounted too
            assert file.read(4) == b"\x89PNG"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert f"Dianjing 点睛: {address}" in errors
    assert "Traceback" not in errors


def _ready(process, port):
    address, end_s = f"http://127.0.0.1:{port}", time.monotonic() + 400
    while time.monotonic() < end_s:
        assert process.poll() is None, process.stderr.read()
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=120) as response:
                if response.status == 200:
                    return address
        except OSError:
            time.sleep(0.5)  # it listens before its weights are loaded
    raise AssertionError("the server does not respond")
