"""Load time of the demo's page, and time to the first preview and to the image.

    python -m benchmarks.page

Chromium opens the demo, which runs in its own process: once to warm up, then repeatedly with an empty cache.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.server_load import start_server
from benchmarks.timing import Quantiles, compute_quantiles

HAS_PAINTED_JS = "performance.getEntriesByName('first-contentful-paint').length"
FIRST_PAINT_S_JS = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
TIMEOUT_MS = 60_000


def time_page_visit(browser: Browser, address: str, *, prompt: str) -> dict[str, float]:
    """Return the seconds to the first paint and a usable page, and from a click to the first preview and the image."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    start_s = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#image-button")
    usable_s = time.monotonic() - start_s
    page.wait_for_function(HAS_PAINTED_JS)
    painted_s = page.evaluate(FIRST_PAINT_S_JS)
    page.fill("#image-prompt textarea", prompt)
    clicked_s = time.monotonic()
    page.click("#image-button")
    page.wait_for_selector("#image-stage img")
    preview_s = time.monotonic() - clicked_s
    page.wait_for_selector("#image-gallery .thumbnail-item img")
    image_s = time.monotonic() - clicked_s
    context.close()
    return {"first_paint_s": painted_s, "usable_s": usable_s, "first_preview_s": preview_s, "image_s": image_s}


def measure_page(address: str, *, num_visits: int) -> dict[str, Quantiles]:
    """Return the quantiles of `time_page_visit` over several visits, without the first one."""
    chromium_path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        visits = [
            time_page_visit(browser, address, prompt=f"a cat on the grass {visit}") for visit in range(num_visits + 1)
        ]
        browser.close()
    return {name: compute_quantiles([each[name] for each in visits[1:]]) for name in visits[0]}


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--visits", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, address = start_server(arguments.model, Path(folder) / "server.log")
        try:
            results = measure_page(address, num_visits=arguments.visits)
        finally:
            process.terminate()
            process.wait(60)
    print(json.dumps({name: asdict(value) for name, value in results.items()}, indent=1))


if __name__ == "__main__":
    _main()
