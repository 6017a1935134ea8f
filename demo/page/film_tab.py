"""The tab Film: words become a film of up to 16 seconds, window by window."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing.demo.jobs import Job
from dianjing.demo.page.bench import Bench, Updates, connect_cancel, make_buttons, work
from dianjing.demo.page.common import make_examples, make_prompt
from dianjing.demo.page.dropping import connect_drop, make_drop
from dianjing.demo.page.film_show import FilmShow, connect_film_show, keep_film, make_film_show, show_stage
from dianjing.demo.page.look import text
from dianjing.demo.page.settings import Settings, make_settings, to_arguments
from dianjing.demo.page.shared import Shared, slow
from dianjing.demo.requests import FilmRequest
from dianjing.demo.texts.interface import FILM_EXAMPLES
from dianjing.pipelines.media import Record

MOST_SECONDS = 16


@dataclass(frozen=True, kw_only=True)
class FilmTab:
    """Components."""

    prompt: gr.Textbox
    seconds: gr.Slider
    fps: gr.Number
    settings: Settings
    drop: gr.File
    bench: Bench
    show: FilmShow


def make_film_tab(shared: Shared) -> FilmTab | None:
    """Inside a `gr.Tab`; None, and a note, for a model of still pictures."""
    abilities = shared.abilities
    if abilities.num_frames is None:
        gr.Markdown(text("no_motion"), elem_classes="dj-note", elem_id="film-note")
        return None
    with gr.Row(elem_classes="dj-board"):
        with gr.Column(elem_classes="dj-ask"):
            prompt = make_prompt("film", label="film_prompt")
            usual_s = round(abilities.num_frames / abilities.fps, 1)
            seconds = gr.Slider(0.5, MOST_SECONDS, usual_s, step=0.5, label=text("film_seconds"))
            button, cancel = make_buttons("film")
            make_examples(prompt, FILM_EXAMPLES)
        with gr.Column(elem_classes="dj-show"):
            show = make_film_show("film", made=lambda visit: visit.films)
        with gr.Column(elem_classes="dj-more"):
            fps = gr.Number(abilities.fps, label=text("film_fps"), minimum=1)
            settings = make_settings("film", shared)
            drop = make_drop("film", [".mp4", ".webp", ".gif"])
    bench = Bench(button=button, cancel=cancel, status=show.status, stage=show.stage, job=gr.State(None))
    tab = FilmTab(prompt=prompt, seconds=seconds, fps=fps, settings=settings, drop=drop, bench=bench, show=show)
    _connect(tab, shared)
    return tab


def _connect(tab: FilmTab, shared: Shared) -> None:
    def film(
        request: gr.Request, token: str, prompt: str, seconds: float, fps: float, *values: Any
    ) -> Iterator[Updates]:
        def submit(owner: str) -> Job:
            asked = FilmRequest(prompt=prompt, duration_s=seconds, fps=fps, **to_arguments(values))
            return shared.worker.submit(asked, owner)

        keep, begin = partial(keep_film, tab.show), show_stage(tab.show)
        yield from work(tab.bench, shared, request, token, submit=submit, keep=keep, begin=begin)

    inputs = [shared.token, tab.prompt, tab.seconds, tab.fps, *tab.settings.inputs]
    outputs = list(dict.fromkeys([*tab.bench.outputs, *tab.show.restored]))
    gr.on([tab.bench.button.click, tab.prompt.submit], film, inputs, outputs, **slow())
    connect_cancel(tab.bench, shared)
    connect_film_show(tab.show, shared)
    taken = [tab.prompt, tab.seconds, tab.fps, *tab.settings.inputs]
    connect_drop(tab.drop, tab.bench, shared, restored=partial(_restored, tab), outputs=taken)


def _restored(tab: FilmTab, record: Record) -> Updates:
    updates: Updates = {tab.prompt: record.prompt, **tab.settings.restored(record)}
    num_frames, fps = (record.settings.get(name) for name in ("num_frames", "fps"))
    if isinstance(num_frames, int) and isinstance(fps, int | float) and fps > 0:
        updates |= {tab.seconds: min(num_frames / fps, MOST_SECONDS), tab.fps: fps}
    return updates
