"""Pictures of the page for the documentation, of a running `dianjing demo` with the bundled model.

python tools/page_screenshots.py ADDRESS docs/pictures

page.webp is a contact sheet of every tab after a run, at 1280 and 390 px, light and dark, in both languages;
demo-image.webp and demo-animate.webp show two tabs in Chinese.
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
GUIDE_PROMPTS = ("草地上的一只小猫", "夜空下的一座房子", "三个红色的气球", "草地上，一只狐狸在一棵树的左边")
GUIDE_SEED = 7
GUIDE_CLICKS = (((0.25, 0.55), "跳"), ((0.78, 0.45), "摇摆"))  # positions as shares of the sides, and motions
GUIDE_SIZE_PX = (1200, 1080)
TIMEOUT_MS = 180_000
MAX_BYTES = 400_000


def click_on_picture(page: Page, x: float, y: float) -> None:
    """Click at shares of the sides of the picture on the tab Animate, and wait for the mask."""
    picture = page.locator("#animate-picture img")
    picture.scroll_into_view_if_needed()
    source, box = picture.get_attribute("src"), picture.bounding_box()
    assert box is not None
    side = min(box["width"], box["height"])
    page.mouse.click(box["x"] + box["width"] / 2 + (x - 0.5) * side, box["y"] + box["height"] / 2 + (y - 0.5) * side)
    page.wait_for_function(f"document.querySelector('#animate-picture img').src != {source!r}")


def generate(page: Page, texts: dict[str, str]) -> None:
    """Run every tab once."""
    page.fill("#image-prompt textarea", texts["image"])
    page.click("#image-button")
    page.wait_for_selector("#image-gallery img")
    page.click("#image-to-animate")
    click_on_picture(page, 0.5, 0.5)
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
                row.append(_take_screenshot(page))
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


def take_guide_pictures(address: str) -> dict[str, Image.Image]:
    """The tabs Image and Animate in Chinese, after the runs that the guide describes, by file name."""
    pictures = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        size = {"width": GUIDE_SIZE_PX[0], "height": GUIDE_SIZE_PX[1]}
        page = browser.new_context(locale="zh-CN", viewport=size, color_scheme="light").new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(address)
        page.wait_for_function("localStorage.getItem('dianjing-visitor') !== null")
        for number, prompt in enumerate(GUIDE_PROMPTS, start=1):
            page.fill("#image-prompt textarea", prompt)
            page.fill("#image-seed input, #image-seed textarea", str(GUIDE_SEED))
            page.click("#image-button")
            page.wait_for_selector("#image-button:not([disabled])")
            page.wait_for_function(f"document.querySelectorAll('#image-gallery .thumbnail-item').length >= {number}")
        pictures["demo-image.webp"] = _take_screenshot(page)
        page.click("#image-to-animate")
        page.wait_for_selector("#animate-picture img")
        for number, ((x, y), motion) in enumerate(GUIDE_CLICKS, start=1):
            if number > 1:
                page.click("#animate-add")
                page.wait_for_selector(f"#animate-motion-{number} input")
            click_on_picture(page, x, y)
            page.fill(f"#animate-motion-{number} input", motion)
            page.keyboard.press("Enter")
        page.click("#animate-button")
        page.wait_for_selector("#animate-video video")
        pictures["demo-animate.webp"] = _take_screenshot(page)
        browser.close()
    return pictures


def _take_screenshot(page: Page) -> Image.Image:
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def main(address: str, folder: Path) -> None:
    pictures = {"page.webp": make_contact_sheet(take_screenshots(address)), **take_guide_pictures(address)}
    for name, picture in pictures.items():
        picture.save(folder / name, quality=80)
        size = (folder / name).stat().st_size
        if size > MAX_BYTES:
            raise SystemExit(f"{folder / name}: {size} bytes, at most {MAX_BYTES}; lower SCALE")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
