"""Contact sheet of the page: every tab after a run, at 1280 and 390 px, light and dark, in both languages.

python tools/page_screenshots.py ADDRESS FILE     ADDRESS of a running `dianjing demo`; FILE ends with .webp
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

TABS = ("image", "edit", "animate", "video", "chat")
TEXTS = {
    "zh-CN": {"image": "草地上的一只小猫", "motion": "跳", "video": "一只小狗在向右走", "chat": "画一只小猫"},
    "en-US": {"image": "a cat on the grass", "motion": "jump", "video": "a dog moving right", "chat": "draw a cat"},
}
VIEWS = (("zh-CN", 1280, "light"), ("en-US", 1280, "dark"), ("zh-CN", 390, "dark"), ("en-US", 390, "light"))
SIZE_PX = {1280: (1280, 900), 390: (390, 844)}
SCALE, GAP_PX = 0.5, 8
TIMEOUT_MS = 180_000
MAX_BYTES = 400_000


def generate(page: Page, texts: dict[str, str]) -> None:
    """Run every tab once."""
    page.fill("#image-prompt textarea", texts["image"])
    page.click("#image-button")
    page.wait_for_selector("#image-gallery img")
    page.click("#image-to-animate")
    picture = page.locator("#animate-picture img")
    picture.scroll_into_view_if_needed()
    source = picture.get_attribute("src")
    picture.click()
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {source!r}")
    page.fill("#animate-motion-1 input", texts["motion"])
    page.keyboard.press("Enter")
    page.click("#animate-button")
    page.wait_for_selector("#animate-video video")
    page.get_by_role("tab").nth(TABS.index("video")).click()
    page.fill("#video-prompt textarea", texts["video"])
    page.click("#video-button")
    page.wait_for_selector("#video-video video")
    page.get_by_role("tab").nth(TABS.index("chat")).click()
    page.fill("#chat-message textarea", texts["chat"])
    page.click("#chat-button")
    page.wait_for_selector("#chat-history .bot.message")


def take_screenshots(address: str) -> list[list[Image.Image]]:
    """One row of pictures for each of VIEWS, one picture a tab."""
    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for locale, width, color_scheme in VIEWS:
            size = {"width": SIZE_PX[width][0], "height": SIZE_PX[width][1]}
            context = browser.new_context(locale=locale, viewport=size, color_scheme=color_scheme)
            context.set_default_timeout(TIMEOUT_MS)
            page = context.new_page()
            page.goto(address)
            page.wait_for_function("localStorage.getItem('dianjing-visitor') !== null")
            generate(page, TEXTS[locale])
            row = []
            for index in range(len(TABS)):
                page.get_by_role("tab").nth(index).click()
                page.evaluate("scrollTo(0, 0)")
                page.wait_for_timeout(500)
                row.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
            rows.append(row)
            context.close()
        browser.close()
    return rows


def make_contact_sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Lay the pictures out, one row below the other."""
    small = [[image.resize((round(image.width * SCALE), round(image.height * SCALE))) for image in row] for row in rows]
    width = max(sum(image.width + GAP_PX for image in row) for row in small)
    sheet = Image.new("RGB", (width, sum(row[0].height + GAP_PX for row in small)), "gray")
    top = 0
    for row in small:
        left = 0
        for image in row:
            sheet.paste(image, (left, top))
            left += image.width + GAP_PX
        top += row[0].height + GAP_PX
    return sheet


def main(address: str, path: Path) -> None:
    make_contact_sheet(take_screenshots(address)).save(path, quality=80)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES}; lower SCALE")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
