"""The whole page: a head, four tabs, and what programs may call."""

from typing import Any

import gradio as gr

from dianjing.demo.page.animate_tab import TAB_ID, AnimateTab, connect_send, make_animate_tab, suggest_motions
from dianjing.demo.page.bench import Updates
from dianjing.demo.page.draw_tab import DrawTab, make_draw_tab, restore_pictures
from dianjing.demo.page.film_show import restore_films
from dianjing.demo.page.film_tab import FilmTab, make_film_tab
from dianjing.demo.page.look import text
from dianjing.demo.page.programs import connect_programs
from dianjing.demo.page.shared import Shared, language_for, quiet
from dianjing.demo.page.shelf import Shelf
from dianjing.demo.page.talk_tab import TalkTab, make_talk_tab, show_talk
from dianjing.demo.worker import Worker

CACHE_S = 24 * 3600  # how long Gradio keeps copies of what it showed


def make_page(worker: Worker, studio: Any) -> gr.Blocks:
    """Four tabs and their endpoints over one worker."""
    with gr.Blocks(title="点睛 Dianjing", analytics_enabled=False, delete_cache=(CACHE_S // 24, CACHE_S)) as page:
        token = gr.BrowserState(None, storage_key="dianjing-visitor")
        shared = Shared(worker=worker, studio=studio, shelf=Shelf(), token=token)
        connect_programs(shared)  # first: a private event of the same name would take theirs
        with gr.Row(elem_classes="dj-head"):
            gr.HTML(text("head_title"), elem_classes="dj-title")
            gr.HTML(text("head_motto"), elem_classes="dj-motto")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(text("tab_draw"), id="draw"):
                draw = make_draw_tab(shared)
            with gr.Tab(text("tab_animate"), id=TAB_ID):
                animate = make_animate_tab(shared)
            with gr.Tab(text("tab_film"), id="film"):
                film = make_film_tab(shared)
            with gr.Tab(text("tab_talk"), id="talk"):
                talk = make_talk_tab(shared)
        if animate is not None:
            send = {"shared": shared, "tabs": tabs}
            connect_send(draw.to_animate, draw.chosen, animate, made=lambda visit: visit.pictures, **send)
            connect_send(talk.to_animate, talk.chosen, animate, made=lambda visit: visit.talked, **send)
        _connect_coming(page, shared, draw, animate, film, talk)
    return page


def _connect_coming(
    page: gr.Blocks, shared: Shared, draw: DrawTab, animate: AnimateTab | None, film: FilmTab | None, talk: TalkTab
) -> None:
    def come(request: gr.Request, known: str | None) -> Updates:
        """Give back what the visitor had made before the page was loaded again."""
        mine, visit = shared.shelf.visit(known, request.session_hash)
        language = language_for(request)
        updates = {shared.token: mine, **restore_pictures(draw, visit), **show_talk(talk, shared, visit, language)}
        if animate is not None:
            updates |= restore_films(animate.show, visit) | suggest_motions(animate, shared, language)
        return updates | (restore_films(film.show, visit) if film is not None else {})

    shown = [shared.token, *draw.restored, *talk.shown]
    if animate is not None:
        shown += [*animate.show.restored, *animate.motions]
    if film is not None:
        shown += film.show.restored
    page.load(come, shared.token, shown, **quiet())
