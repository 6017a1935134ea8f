"""The whole page: a head, four tabs, and what programs may call."""

from typing import Any

import gradio as gr

from dianjing.demo.page.draw_tab import make_draw_tab, restore_pictures
from dianjing.demo.page.look import text
from dianjing.demo.page.shared import Shared, quiet
from dianjing.demo.page.shelf import Shelf
from dianjing.demo.worker import Worker

CACHE_S = 24 * 3600  # how long Gradio keeps copies of what it showed


def make_page(worker: Worker, studio: Any, *, visible_label: bool = False) -> gr.Blocks:
    """Four tabs and their endpoints over one worker. visible_label: how its switch stands at first."""
    with gr.Blocks(title="点睛 Dianjing", analytics_enabled=False, delete_cache=(CACHE_S // 24, CACHE_S)) as page:
        token = gr.BrowserState(None, storage_key="dianjing-visitor")
        shared = Shared(worker=worker, studio=studio, shelf=Shelf(), token=token)
        with gr.Row(elem_classes="dj-head"):
            gr.HTML(text("head_title"), elem_classes="dj-title")
            gr.HTML(text("head_motto"), elem_classes="dj-motto")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(text("tab_draw"), id="draw"):
                draw = make_draw_tab(shared, visible_label=visible_label)

        def come(known: str | None) -> dict[Any, Any]:
            """Give back what the visitor had made before the page was loaded again."""
            mine, visit = shared.shelf.visit(known)
            return {token: mine, **restore_pictures(draw, visit)}

        shown = [token, draw.gallery, draw.clear, draw.stage, draw.chosen, draw.to_animate, draw.to_settings,
                 draw.download]  # fmt: skip
        page.load(come, token, shown, **quiet())
    return page
