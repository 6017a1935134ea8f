"""The whole page: a header, four tabs, and the endpoints for programs."""

from typing import Any

import gradio as gr

from dianjing.demo.page.animate_tab import TAB_ID as ANIMATE_TAB_ID
from dianjing.demo.page.animate_tab import AnimateTab, connect_send_to_animate, make_animate_tab, suggest_motions
from dianjing.demo.page.api_endpoints import connect_api_endpoints
from dianjing.demo.page.chat_tab import ChatTab, make_chat_tab, show_conversation
from dianjing.demo.page.checked_blocks import CheckedBlocks
from dianjing.demo.page.context import PageContext, get_request_language, instant
from dianjing.demo.page.image_tab import ImageTab, make_image_tab, show_image_history
from dianjing.demo.page.run_panel import Updates
from dianjing.demo.page.sessions import MAX_SESSIONS, SessionStore
from dianjing.demo.page.theme import translations
from dianjing.demo.page.video_panel import show_video_history
from dianjing.demo.page.video_tab import VideoTab, make_video_tab
from dianjing.demo.queue import JobQueue
from dianjing.demo.upload_store import UploadStore

GRADIO_CACHE_S = 24 * 3600  # Gradio's copies of files are deleted after this time


def make_page(queue: JobQueue, engine: Any, uploads: UploadStore) -> CheckedBlocks:
    """Build the page and its endpoints over one queue; files of visitors come from `uploads` alone."""
    with CheckedBlocks(
        title="点睛 Dianjing", analytics_enabled=False, delete_cache=(GRADIO_CACHE_S // 24, GRADIO_CACHE_S)
    ) as page:
        page.uploads = uploads
        page.state_session_capacity = MAX_SESSIONS
        token = gr.BrowserState(None, storage_key="dianjing-visitor")
        context = PageContext(queue=queue, uploads=uploads, engine=engine, session_store=SessionStore(), token=token)
        connect_api_endpoints(context)  # first: a private event of the same name would take their names
        with gr.Row(elem_classes="dj-head"):
            gr.HTML(translations("head_title"), elem_classes="dj-title")
            gr.HTML(translations("head_subtitle"), elem_classes="dj-subtitle")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(translations("tab_image"), id="image"):
                image_tab = make_image_tab(context)
            with gr.Tab(translations("tab_animate"), id=ANIMATE_TAB_ID):
                animate_tab = make_animate_tab(context)
            with gr.Tab(translations("tab_video"), id="video"):
                video_tab = make_video_tab(context)
            with gr.Tab(translations("tab_chat"), id="chat"):
                chat_tab = make_chat_tab(context)
        if animate_tab is not None:
            for tab, get_history in (
                (image_tab, lambda session: session.images),
                (chat_tab, lambda session: session.chat_images),
            ):
                connect_send_to_animate(
                    tab.to_animate, tab.selected_file, animate_tab, context, get_history=get_history, tabs=tabs
                )
        _connect_on_load(page, context, image_tab, animate_tab, video_tab, chat_tab)
    return page


def _connect_on_load(
    page: gr.Blocks,
    context: PageContext,
    image_tab: ImageTab,
    animate_tab: AnimateTab | None,
    video_tab: VideoTab | None,
    chat_tab: ChatTab,
) -> None:
    """Show a visitor's history again when the page is loaded."""

    def on_load(request: gr.Request, stored_token: str | None) -> Updates:
        token, session = context.session_store.get_session(stored_token, request.session_hash)
        language = get_request_language(request)
        updates = {
            context.token: token,
            **show_image_history(image_tab, session),
            **show_conversation(chat_tab, context, session, language),
        }
        if animate_tab is not None:
            updates |= show_video_history(animate_tab.video_panel, session)
            updates |= suggest_motions(animate_tab, context, language)
        if video_tab is not None:
            updates |= show_video_history(video_tab.video_panel, session)
        return updates

    outputs = [context.token, *image_tab.history_outputs, *chat_tab.chat_outputs]
    if animate_tab is not None:
        outputs += [*animate_tab.video_panel.history_outputs, *animate_tab.motions]
    if video_tab is not None:
        outputs += video_tab.video_panel.history_outputs
    page.load(on_load, context.token, outputs, **instant())
