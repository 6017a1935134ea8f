"""The page served on a port of its own, and a real browser that looks at it."""

import shutil
import socket
import threading
import time
from contextlib import contextmanager

import pytest

# Debian's Chromium asks the network for things of its own unless it is told not to
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000  # the machine may be busy with other things


@contextmanager
def serving(model, *, mcp=False):
    """The address of the whole app over a model, in a thread of its own."""
    import uvicorn

    from dianjing.demo.app import make_app
    from dianjing.demo.engine import InferenceEngine
    from dianjing.demo.queue import JobQueue

    engine = InferenceEngine.from_pretrained(str(model))
    queue = JobQueue(engine)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    app = make_app(queue, engine, mcp_url=address if mcp else None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it began"
        time.sleep(0.05)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(30)
        queue.close()


@pytest.fixture(scope="session")
def picture_address(tiny_folder):
    """Of a model of still pictures."""
    with serving(tiny_folder) as address:
        yield address


@pytest.fixture(scope="session")
def address():
    """Of the embedded model, which also makes films."""
    with serving("sticker") as address:
        yield address


@pytest.fixture(scope="session")
def agents_address():
    """Of the embedded model, where agents find its tools."""
    with serving("sticker", mcp=True) as address:
        yield f"{address}gradio_api/mcp/"


@pytest.fixture(scope="session")
def chromium():
    """A browser of this machine, or Playwright's own; a machine without any fails these tests."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        own = shutil.which("chromium") or shutil.which("chromium-browser")
        try:
            browser = playwright.chromium.launch(executable_path=own, args=FLAGS)
        except Error as error:
            pytest.fail(
                f"no Chromium starts: `python3 run.py test` installs one, or `playwright install chromium` ({error})"
            )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, tmp_path):
    """Open a page as a reader of a language; all requests, and errors of the page's own code, are kept."""
    contexts = []

    def open_page(address, *, locale="en-US", width=1280, color_scheme="light"):
        context = chromium.new_context(
            locale=locale, viewport={"width": width, "height": 900}, color_scheme=color_scheme, accept_downloads=True
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.requested, page.faults = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#image-button")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def save_download(tmp_path):
    def save(page, button: str):
        """What a click on a download button gives."""
        with page.expect_download() as download:
            page.click(button)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    return save
