"""The whole page: a header, a tab for each thing that the model can do, and the endpoints for programs."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.page.animate_tab import TAB_ID as ANIMATE_TAB_ID
from dianjing.demo.page.animate_tab import AnimateTab, connect_send_to_animate, make_animate_tab, resume_animate_run
from dianjing.demo.page.api_endpoints import connect_api_endpoints
from dianjing.demo.page.chat_tab import ChatTab, make_chat_tab, resume_chat_run, show_conversation
from dianjing.demo.page.checked_blocks import CheckedBlocks, PublishedFiles
from dianjing.demo.page.context import PageContext, get_request_language, instant, job_event
from dianjing.demo.page.drafts import connect_drafts
from dianjing.demo.page.edit_tab import TAB_ID as EDIT_TAB_ID
from dianjing.demo.page.edit_tab import EditTab, connect_send_to_edit, make_edit_tab, resume_edit_run
from dianjing.demo.page.examples import make_example_prompts
from dianjing.demo.page.image_tab import ImageTab, make_image_tab, resume_image_run, show_image_history
from dianjing.demo.page.prompt_box import show_examples
from dianjing.demo.page.region_panel import render_canvas, suggest_motions
from dianjing.demo.page.run_panel import get_resumed_job_id
from dianjing.demo.page.runs import Updates
from dianjing.demo.page.sessions import MAX_SESSIONS, SessionStore
from dianjing.demo.page.theme import translations
from dianjing.demo.page.video_panel import show_video_history
from dianjing.demo.page.video_tab import VideoTab, make_video_tab, resume_video_run
from dianjing.demo.queue import JobQueue
from dianjing.demo.upload_store import UploadStore

GRADIO_CACHE_S = 24 * 3600  # Gradio's copies of files are deleted after this time
RESUME_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "image": resume_image_run,
    "edit": resume_edit_run,
    "animate": resume_animate_run,
    "video": resume_video_run,
    "chat": resume_chat_run,
}


@dataclass(frozen=True, kw_only=True)
class PageTabs:
    """The tabs; None for what the model cannot do."""

    image: ImageTab
    edit: EditTab
    animate: AnimateTab | None
    video: VideoTab | None
    chat: ChatTab | None

    @property
    def by_name(self) -> dict[str, Any]:
        return {name: tab for name, tab in vars(self).items() if tab is not None}


def make_page(queue: JobQueue, engine: Any, uploads: UploadStore) -> CheckedBlocks:
    """Build the page and its endpoints over one queue; files of visitors come from `uploads` alone."""
    with CheckedBlocks(
        title="点睛 Dianjing", analytics_enabled=False, delete_cache=(GRADIO_CACHE_S // 24, GRADIO_CACHE_S)
    ) as page:
        page.uploads, page.published_files = uploads, PublishedFiles()
        page.state_session_capacity = MAX_SESSIONS
        token = gr.BrowserState(None, storage_key="dianjing-visitor")
        context = PageContext(queue=queue, uploads=uploads, engine=engine, session_store=SessionStore(), token=token)
        connect_api_endpoints(context)  # first: a private event of the same name would take their names
        _make_head(context)
        with gr.Tabs(elem_id="tabs") as tab_bar:
            tabs = _make_tabs(context)
        for source in (tabs.image, tabs.edit):
            connect_send_to_edit(source.to_edit, source.history, tabs.edit, context, tabs=tab_bar)
        if tabs.animate is not None:
            for tab in (tabs.image, tabs.edit, tabs.chat):
                if tab is None:
                    continue
                connect_send_to_animate(tab.to_animate, tab.history, tabs.animate, context, tabs=tab_bar)
        _connect_on_load(page, context, tabs)
        drafts = {f"{name}_{key}": each for name, tab in tabs.by_name.items() for key, each in tab.drafts.items()}
        connect_drafts(page, drafts, model=context.capabilities.model)
    return page


def _make_head(context: PageContext) -> None:
    """Make the head of the page: its name, and the model with its licence."""
    licence = context.capabilities.licence
    with gr.Row(elem_classes="dj-head"):
        gr.HTML(translations("head_title"), elem_classes="dj-title")
        gr.HTML(translations("head_subtitle"), elem_classes="dj-subtitle")
        gr.HTML(html.escape(context.capabilities.model), elem_classes="dj-model", elem_id="model-name")
        licence_text = translations("licence_unknown") if licence is None else html.escape(licence)
        gr.HTML(licence_text, elem_classes="dj-licence", elem_id="model-licence")


def _make_tabs(context: PageContext) -> PageTabs:
    capabilities = context.capabilities
    animate = video = chat = None
    with gr.Tab(translations("tab_image"), id="image"):
        image = make_image_tab(context)
    with gr.Tab(translations("tab_edit"), id=EDIT_TAB_ID):
        edit = make_edit_tab(context)
    if capabilities.has_task("image-to-video"):
        with gr.Tab(translations("tab_animate"), id=ANIMATE_TAB_ID):
            animate = make_animate_tab(context)
    if capabilities.has_task("text-to-video"):
        with gr.Tab(translations("tab_video"), id="video"):
            video = make_video_tab(context)
    if capabilities.can_chat:
        with gr.Tab(translations("tab_chat"), id="chat"):
            chat = make_chat_tab(context)
    return PageTabs(image=image, edit=edit, animate=animate, video=video, chat=chat)


def _connect_on_load(page: gr.Blocks, context: PageContext, tabs: PageTabs) -> None:
    """Show a visitor's history again when the page is loaded, and follow the runs that go on."""

    def on_load(request: gr.Request, stored_token: str | None) -> Updates:
        token, session = context.session_store.get_session(stored_token, request.session_hash)
        language = get_request_language(request)
        examples = make_example_prompts(context.engine, language)
        updates = {
            context.token: token,
            **show_image_history(tabs.image, session, language),
            **show_image_history(tabs.edit, session, language),
            tabs.image.examples: show_examples(examples.images),
        }
        if tabs.chat is not None:
            updates |= show_conversation(tabs.chat, context, session, language)
            updates[tabs.chat.examples] = show_examples(examples.messages)
        if tabs.animate is not None:
            updates |= show_video_history(tabs.animate.video_panel, session, language)
            updates |= suggest_motions(tabs.animate.regions, context, language)
            updates |= render_canvas(tabs.animate.regions, session.canvas)
        if tabs.video is not None:
            updates |= show_video_history(tabs.video.video_panel, session, language)
            updates[tabs.video.examples] = show_examples(examples.videos)
        resumed = {
            tab.run_panel.resumed_job_id: job_id
            for tab in tabs.by_name.values()
            if (job_id := get_resumed_job_id(tab.run_panel, session)) is not None
        }
        return updates | resumed

    outputs = [context.token, *tabs.image.history_outputs, *tabs.edit.history_outputs, tabs.image.examples]
    if tabs.chat is not None:
        outputs += [*tabs.chat.chat_outputs, tabs.chat.examples]
    if tabs.animate is not None:
        outputs += [*tabs.animate.video_panel.history_outputs, *tabs.animate.regions.motions]
        outputs += tabs.animate.regions.canvas_outputs
    if tabs.video is not None:
        outputs += [*tabs.video.video_panel.history_outputs, tabs.video.examples]
    for name, tab in tabs.by_name.items():
        outputs.append(tab.run_panel.resumed_job_id)
        follow = _make_resume_event(partial(RESUME_FUNCTIONS[name], tab, context))
        # no queued event without need: Gradio loses messages of one that starts while the last other one ends
        tab.run_panel.resumed_job_id.change(follow, context.token, tab.run_outputs, **job_event())
    # queued: only then does Gradio tell the page which states have changed
    page.load(on_load, context.token, outputs, **instant(queue=True, concurrency_limit=None))


def _make_resume_event(resume: Callable[..., Any]) -> Callable[..., Any]:
    def follow(request: gr.Request, token: str) -> Any:
        yield from resume(request, token)

    return follow
