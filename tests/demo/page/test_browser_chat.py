"""The Chat tab in a real browser, in both languages."""

import pytest

from tests.demo.page.browser import (
    TEXTS,
    check_language,
    open_tab,
    paused_runs,
    wait_for_cancel_at_preview,
    wait_for_count,
    wait_for_status,
    wait_for_text,
    wait_for_value,
    wait_until_idle,
)

pytestmark = pytest.mark.timeout(600)  # the machine may be busy
ANSWERS = "#chat-history .bot.message"


@pytest.mark.parametrize("locale", TEXTS)
def test_an_image_is_edited_by_messages_and_those_that_fail_stay_in_view(locale, server, open_page):
    texts, page = TEXTS[locale], open_page(server.address, locale=locale)
    open_tab(page, "chat")
    first = texts["messages"][0]
    page.fill("#chat-message textarea", first)
    with paused_runs(server.engine, wait_for_cancel_at_preview):
        page.press("#chat-message textarea", "Enter")
        page.wait_for_selector("#chat-stage img")
        page.click("#chat-cancel")
        wait_for_status(page, "chat", texts["stopped"])
    wait_for_value(page, "#chat-message textarea", first)
    page.wait_for_selector("#chat-stage img")
    wait_for_count(page, ANSWERS, 0)
    page.fill("#chat-message textarea", texts["refused"])  # nothing is there yet that could be changed
    page.click("#chat-button")
    wait_for_count(page, ANSWERS, 1)
    wait_until_idle(page, "chat")
    wait_for_text(page, "#chat-history .user", texts["refused"])
    wait_for_value(page, "#chat-message textarea", texts["refused"])
    for text, count in zip(texts["messages"], (2, 3, 4, 3), strict=True):  # the last one is undo
        page.fill("#chat-message textarea", text)
        page.click("#chat-button")
        wait_for_count(page, ANSWERS, count)
        wait_until_idle(page, "chat")
    wait_for_text(page, "#chat-history", texts["scene"])
    page.wait_for_selector("#chat-stage img")
    check_language(page, locale)
    page.reload()
    open_tab(page, "chat")
    wait_for_count(page, ANSWERS, 3)
    wait_for_text(page, "#chat-history", texts["refused"])
