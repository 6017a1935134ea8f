"""A client of the API, over an engine that only counts or over a tiny model."""

import base64
import io
import threading

import pytest
from PIL import Image


@pytest.fixture
def make_client(make_queue):
    """Make a client of an engine's API; `headers` are sent with every request."""
    from fastapi.testclient import TestClient

    from dianjing.demo.api.auth import AccessControl
    from dianjing.demo.app import make_app

    def make(engine, *, headers=None, access=None, keys=(), auth=None, aliases=(), **limits):
        queue = make_queue(engine, **limits)
        app = make_app(queue, access=access or AccessControl(keys=keys, auth=auth), aliases=aliases)
        client = TestClient(app, raise_server_exceptions=False, headers=headers)
        client.job_queue = queue
        return client

    return make


@pytest.fixture
def client(make_client, tiny_engine):
    return make_client(tiny_engine)


@pytest.fixture(scope="session")
def square():
    """A red square on white, 32 x 32 px, as PNG in base64."""
    image = Image.new("RGB", (32, 32), "white")
    image.paste((200, 30, 30), (8, 8, 22, 22))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def make_live(make_queue):
    """Serve an engine in a thread: the address, the queue, and its jobs in order."""
    import uvicorn

    from dianjing.demo.app import bind_socket, make_app

    started = []

    def make(engine):
        queue, jobs = make_queue(engine, max_run_s=3600), []  # `counting` predicts a second a step
        submit = queue.submit
        queue.submit = lambda request, owner: jobs.append(submit(request, owner)) or jobs[-1]
        listening_socket = bind_socket("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(make_app(queue), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening_socket]})
        thread.start()
        started.append((server, thread))
        return listening_socket.getsockname(), queue, jobs

    yield make
    for server, thread in started:
        server.should_exit = True
        thread.join(120)


@pytest.fixture
def live(make_live, counting):
    """A server over `counting`."""
    return make_live(counting)
