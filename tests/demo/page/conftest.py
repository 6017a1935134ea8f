"""The page on a port of its own, and a real browser that opens it."""

import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import pytest

# Debian's Chromium sends requests of its own unless it is told not to
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
POLICY = "Content Security Policy"  # in what Chromium writes to the console about something that is blocked
TIMEOUT_MS = 120_000  # the machine may be busy with other things
MOUNT_MS = 300


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server that runs in a thread, with its engine."""

    address: str
    engine: Any


@contextmanager
def run_app(model, *, mcp=False, **options):
    """Serve the whole app over a model."""
    import uvicorn

    from dianjing.demo.app import bind_socket, make_app
    from dianjing.demo.engine import InferenceEngine
    from dianjing.demo.queue import JobQueue

    class Server(uvicorn.Server):
        """Sets an event once it answers requests."""

        async def startup(self, sockets=None):
            await super().startup(sockets=sockets)
            is_started.set()

    is_started = threading.Event()
    engine = InferenceEngine.from_pretrained(str(model), **options)
    queue = JobQueue(engine)
    listening_socket = bind_socket("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening_socket.getsockname()[1]}/"
    app = make_app(queue, engine, mcp_url=address if mcp else None)
    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening_socket]}, daemon=True)
    thread.start()
    assert is_started.wait(TIMEOUT_MS / 1000)
    try:
        yield RunningServer(address=address, engine=engine)
    finally:
        server.should_exit = True
        thread.join(30)
        queue.close()


@pytest.fixture(scope="session")
def image_server(tiny_folder):
    """A server of a model without motion blocks."""
    with run_app(tiny_folder) as server:
        yield server


@pytest.fixture(scope="session")
def extended_server(tiny_video_folder, adapters, controlnet):
    """A server with adapters and a ControlNet."""
    with run_app(tiny_video_folder, adapters=adapters, controlnets={"edges": str(controlnet)}) as server:
        yield server


@pytest.fixture(scope="session")
def server():
    """A server of the bundled model."""
    with run_app("sticker") as server:
        yield server


@pytest.fixture(scope="session")
def address(server):
    return server.address


@pytest.fixture(scope="session")
def mcp_address():
    """The MCP address of a server of the bundled model."""
    with run_app("sticker", mcp=True) as server:
        yield f"{server.address}gradio_api/mcp/"


@pytest.fixture(scope="module")  # its event loop must end before other tests use asyncio
def chromium():
    """The Chromium of this machine, or Playwright's; without either these tests fail."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        executable = shutil.which("chromium") or shutil.which("chromium-browser")
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        except Error as error:
            pytest.fail(
                f"no Chromium starts: `python3 run.py test` installs one, or `playwright install chromium` ({error})"
            )
        yield browser
        browser.close()


def wait_until_mounted(page, selector):
    """Wait until a field takes what is typed.

    Gradio mounts the components of a tab or an accordion when it is opened for the first time, and sets their values
    again about 50 ms later. No visitor types that early, but Playwright does.
    """
    page.wait_for_selector(selector)
    page.wait_for_timeout(MOUNT_MS)
    page.evaluate("() => new Promise(resolve => requestIdleCallback(() => requestIdleCallback(resolve)))")


def make_fill_wait(page):
    """Let `page.fill` wait until the field is mounted."""
    fill = page.fill

    def fill_mounted(selector, value):
        wait_until_mounted(page, selector)
        fill(selector, value)

    page.fill = fill_mounted


@pytest.fixture
def open_page(chromium):
    """Open a page in a language.

    At the end no script must have failed, no request have left the machine, and nothing have broken the content policy.
    """
    contexts, script_errors, violations, hosts = [], [], [], set()

    def add_host(request):
        if not request.url.startswith(("data:", "blob:")):
            hosts.add(urlparse(request.url).hostname)

    def open_page(address, *, locale="en-US", width=1280, height=900, color_scheme="light"):
        context = chromium.new_context(
            locale=locale, viewport={"width": width, "height": height}, color_scheme=color_scheme, accept_downloads=True
        )
        contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.on("request", add_host)
        page.on("pageerror", lambda error: script_errors.append(str(error)))
        page.on("console", lambda message: violations.append(message.text) if POLICY in message.text else None)
        page.goto(address)
        page.wait_for_selector("#image-button")
        page.wait_for_function("localStorage.getItem('dianjing-visitor') !== null")  # the page is ready
        make_fill_wait(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert script_errors == []
    assert violations == []
    assert hosts == {"127.0.0.1"}


@pytest.fixture
def save_download(tmp_path):
    def save(page, button: str):
        """The file that a click on a download button gives."""
        with page.expect_download() as download:
            page.click(button)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    return save
