"""The shipped command as a process of its own, audited or with other options, and raw HTTP to it."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from dianjing.cli import app
from tests.demo.security.sitecustomize import LOG_VARIABLE
from tests.processes import start_process

ROOT = Path(__file__).parents[3]
COMMAND = ("demo", "--port", "0")
START_TIMEOUT_S = 400  # the machine may be busy
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
    """A running `dianjing demo`: its process, its port, its files and the file of its standard error."""

    pid: int
    port: int
    errors: Path
    temporary_folder: Path
    audit_log: Path  # of what it touches, if it is audited

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
        return psutil.Process(self.pid).memory_info().rss


@contextmanager
def run_audited_server(folder, *options):
    """Start the command as users do, with a log of the files and names that it opens and looks up; end it."""
    environment = {
        **make_environment(folder),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        LOG_VARIABLE: str(folder / "audit.log"),
    }
    command = [sys.executable, "-m", "dianjing", *COMMAND, *options]
    with (folder / "errors.txt").open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, env=environment, cwd=folder)
    try:
        yield wait_for_server(folder, process.pid, get_exit_code=process.poll)
    finally:
        process.kill()
        process.wait()


@contextmanager
def run_server(folder, *options, environment=None):
    """Run the command in a process of the fork server, and end it."""
    process = start_process(
        run_command,
        folder,
        [*COMMAND, *options],
        environment={**make_environment(folder), **(environment or {})},
        error_file=folder / "errors.txt",
    )
    try:
        yield wait_for_server(folder, process.pid, get_exit_code=lambda: process.exitcode)
    finally:
        process.kill()
        process.join()


def make_environment(folder):
    (folder / "tmp").mkdir(parents=True)
    return {**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}


def run_command(folder, arguments):
    """Run `dianjing` in a folder: a target of `start_process`."""
    os.chdir(folder)
    sys.argv = ["dianjing", *arguments]
    app.main()


def wait_for_server(folder, pid, *, get_exit_code):
    """Wait until a server on a free port is ready."""
    errors, end_s = folder / "errors.txt", time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        text = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
        assert get_exit_code() is None, text
        if match := re.search(r"Dianjing 点睛: http://\S+:(\d+)", text):
            connection = HTTPConnection("127.0.0.1", int(match[1]), timeout=TIMEOUT_S)
            connection.request("GET", "/healthz")  # answered once the server runs
            assert connection.getresponse().status == 200
            connection.close()
            return ServerProcess(
                pid=pid,
                port=int(match[1]),
                errors=errors,
                temporary_folder=folder / "tmp",
                audit_log=folder / "audit.log",
            )
        time.sleep(0.1)
    raise AssertionError(f"the server does not start: {errors.read_text()}")


@pytest.fixture(scope="session")
def open_server(tiny_video_folder, tmp_path_factory):
    """A server that anybody may use."""
    with run_audited_server(tmp_path_factory.mktemp("open"), "--model", str(tiny_video_folder)) as server:
        yield server
