"""The shipped command as a process of its own, whose files and look-ups are written down, and raw HTTP to it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from tests.demo.security.sitecustomize import LOG_VARIABLE

ROOT = Path(__file__).parents[3]
START_TIMEOUT_S = 500  # the machine may be busy
TIMEOUT_S = 240


@dataclass(frozen=True, kw_only=True)
class Response:
    """Status, headers with lower-case names, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self):
        return self.body.decode(errors="replace")

    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A running `dianjing demo`, its port, the file of its standard error and the log of what it touches."""

    process: subprocess.Popen
    port: int
    errors: Path
    audit_log: Path
    temporary_folder: Path

    def send(self, method, path, body=None, headers=None):
        """Send one request, a dict or list as JSON."""
        headers = dict(headers or {})
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Response(status=answer.status, headers=names, body=answer.read())
        finally:
            connection.close()

    def upload(self, content, name="cat.png", headers=None):
        """Upload a file, as the page does."""
        form = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        form_headers = {"Content-Type": "multipart/form-data; boundary=edge", **(headers or {})}
        return self.send("POST", "/gradio_api/upload", form + content + b"\r\n--edge--\r\n", form_headers)

    def call(self, event, data, headers=None):
        """Call an event by its number, without the queue."""
        body = {"fn_index": event, "data": data, "session_hash": "session"}
        return self.send("POST", "/gradio_api/run/predict", body, headers)

    def join(self, event, data, session, headers=None):
        """Call an event by its number through Gradio's queue, and return all of its messages as text."""
        body = {"fn_index": event, "data": data, "session_hash": session}
        joined = self.send("POST", "/gradio_api/queue/join", body, headers)
        if joined.status != 200:
            return joined.text
        return self.send("GET", f"/gradio_api/queue/data?session_hash={session}", headers=headers).text

    def get_events(self):
        """Every event of the page, by its configuration."""
        return self.send("GET", "/config").json()["dependencies"]

    def make_visitor(self):
        """The cookie header of a new visitor."""
        return {"Cookie": self.send("GET", "/").headers["set-cookie"].partition(";")[0]}

    def get_memory_bytes(self):
        return psutil.Process(self.process.pid).memory_info().rss


@contextmanager
def run_server(folder, *options, environment=None):
    """Start the command on a free port, wait until it is ready, and end it."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary_folder = folder / "tmp"
    temporary_folder.mkdir()
    audit_log, errors = folder / "audit.log", folder / "errors.txt"
    process_environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        LOG_VARIABLE: str(audit_log),
        "TMPDIR": str(temporary_folder),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    command = [sys.executable, "-m", "dianjing", "demo", "--port", "0", *options]
    with errors.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, env=process_environment, cwd=folder)
    try:
        port = _wait_for_port(process, errors)
        yield ServerProcess(
            process=process, port=port, errors=errors, audit_log=audit_log, temporary_folder=temporary_folder
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _wait_for_port(process, errors):
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        text = errors.read_text(encoding="utf-8", errors="replace")
        assert process.poll() is None, text
        if match := re.search(r"Dianjing 点睛: http://\S+:(\d+)", text):
            connection = HTTPConnection("127.0.0.1", int(match[1]), timeout=TIMEOUT_S)
            connection.request("GET", "/healthz")  # answered once the server runs
            assert connection.getresponse().status == 200
            connection.close()
            return int(match[1])
        time.sleep(0.2)
    raise AssertionError(f"the server does not start: {errors.read_text()}")


@pytest.fixture(scope="session")
def open_server(tiny_video_folder, tmp_path_factory):
    """A server that anybody may use."""
    with run_server(tmp_path_factory.mktemp("open"), "--model", str(tiny_video_folder)) as server:
        yield server
