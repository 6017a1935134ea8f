"""`python -m benchmarks.page`: how soon the page is painted, and how soon a picture's first preview comes.

A real Chromium opens the demo, which runs in a process of its own: once to warm both, then again and again with an
empty cache.
"""

import argparse
import json
import shutil
import sys
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
    """Seconds to the first paint, to a page that can be used, and from a click to the first preview."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    began_s = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#image-button")
    usable_s = time.monotonic() - began_s
    page.wait_for_function(HAS_PAINTED_JS)
    painted_s = page.evaluate(FIRST_PAINT_S_JS)
    page.fill("#image-prompt textarea", prompt)
    clicked_s = time.monotonic()
    page.click("#image-button")
    page.wait_for_selector("#image-stage img")
    preview_s = time.monotonic() - clicked_s
    page.wait_for_selector("#image-gallery .thumbnail-item img")
    picture_s = time.monotonic() - clicked_s
    context.close()
    return {"first_paint_s": painted_s, "usable_s": usable_s, "first_preview_s": preview_s, "image_s": picture_s}


def measure_page(address: str, *, num_visits: int) -> dict[str, Quantiles]:
    own = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=own, args=["--headless", "--no-sandbox", "--disable-gpu"])
        visits = [
            time_page_visit(browser, address, prompt=f"a cat on the grass {turn}") for turn in range(num_visits + 1)
        ]
        browser.close()
    return {name: compute_quantiles([each[name] for each in visits[1:]]) for name in visits[0]}


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, address = start_server(given.model, Path(folder) / "server.log")
        try:
            found = measure_page(address, num_visits=given.turns)
        finally:
            process.terminate()
            process.wait(60)
    shown = {name: asdict(value) for name, value in found.items()}
    json.dump(shown, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    _main()
