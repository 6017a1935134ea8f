"""The whole page: a head, four tabs, and what programs may call."""

from typing import Any

import gradio as gr

from dianjing.demo.page.animate_tab import (
    TAB_ID,
    AnimateTab,
    connect_send_to_animate,
    make_animate_tab,
    suggest_motions,
)
from dianjing.demo.page.api_endpoints import connect_api_endpoints
from dianjing.demo.page.chat_tab import ChatTab, make_chat_tab, show_conversation
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.image_tab import ImageTab, make_image_tab, show_image_history
from dianjing.demo.page.run_panel import Updates
from dianjing.demo.page.sessions import SessionStore
from dianjing.demo.page.theme import translations
from dianjing.demo.page.video_panel import show_video_history
from dianjing.demo.page.video_tab import VideoTab, make_video_tab
from dianjing.demo.queue import JobQueue

GRADIO_CACHE_S = 24 * 3600  # how long Gradio keeps copies of what it showed


def make_page(worker: JobQueue, engine: Any) -> gr.Blocks:
    """Four tabs and their endpoints over one worker."""
    with gr.Blocks(
        title="点睛 Dianjing", analytics_enabled=False, delete_cache=(GRADIO_CACHE_S // 24, GRADIO_CACHE_S)
    ) as page:
        token = gr.BrowserState(None, storage_key="dianjing-visitor")
        shared = PageContext(queue=worker, engine=engine, session_store=SessionStore(), token=token)
        connect_api_endpoints(shared)  # first: a private event of the same name would take theirs
        with gr.Row(elem_classes="dj-head"):
            gr.HTML(translations("head_title"), elem_classes="dj-title")
            gr.HTML(translations("head_motto"), elem_classes="dj-motto")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(translations("tab_image"), id="image"):
                draw = make_image_tab(shared)
            with gr.Tab(translations("tab_animate"), id=TAB_ID):
                animate = make_animate_tab(shared)
            with gr.Tab(translations("tab_video"), id="video"):
                film = make_video_tab(shared)
            with gr.Tab(translations("tab_chat"), id="chat"):
                talk = make_chat_tab(shared)
        if animate is not None:
            send = {"context": shared, "tabs": tabs}
            connect_send_to_animate(
                draw.to_animate, draw.selected_file, animate, get_history=lambda visit: visit.images, **send
            )
            connect_send_to_animate(
                talk.to_animate, talk.selected_file, animate, get_history=lambda visit: visit.chat_images, **send
            )
        _connect_on_load(page, shared, draw, animate, film, talk)
    return page


def _connect_on_load(
    page: gr.Blocks,
    context: PageContext,
    image_tab: ImageTab,
    animate_tab: AnimateTab | None,
    video_tab: VideoTab | None,
    chat_tab: ChatTab,
) -> None:
    def come(request: gr.Request, known: str | None) -> Updates:
        """Give back what the visitor had made before the page was loaded again."""
        mine, visit = context.session_store.get_session(known, request.session_hash)
        language = get_request_language(request)
        updates = {
            context.token: mine,
            **show_image_history(image_tab, visit),
            **show_conversation(chat_tab, context, visit, language),
        }
        if animate_tab is not None:
            updates |= show_video_history(animate_tab.video_panel, visit) | suggest_motions(
                animate_tab, context, language
            )
        return updates | (show_video_history(video_tab.video_panel, visit) if video_tab is not None else {})

    shown = [context.token, *image_tab.history_outputs, *chat_tab.chat_outputs]
    if animate_tab is not None:
        shown += [*animate_tab.video_panel.history_outputs, *animate_tab.motions]
    if video_tab is not None:
        shown += video_tab.video_panel.history_outputs
    page.load(come, context.token, shown, **instant())
