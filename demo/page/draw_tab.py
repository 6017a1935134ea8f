"""The tab Draw: words become pictures, with a preview while they do."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dianjing import __version__
from dianjing.demo.jobs import Job
from dianjing.demo.page.bench import Bench, Updates, connect_cancel, make_buttons, make_status, work
from dianjing.demo.page.common import make_examples, make_gallery, make_prompt
from dianjing.demo.page.dropping import connect_drop, make_drop
from dianjing.demo.page.following import Shown
from dianjing.demo.page.look import text
from dianjing.demo.page.settings import Settings, make_settings, to_arguments, whole
from dianjing.demo.page.shared import Shared, quiet, slow
from dianjing.demo.page.shelf import Made, Visit, find
from dianjing.demo.requests import PictureRequest
from dianjing.demo.texts.interface import DRAW_EXAMPLES
from dianjing.pipelines.media import Record

MOST_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class DrawTab:
    """Components. chosen: the file of the picture that is looked at."""

    prompt: gr.Textbox
    bench: Bench
    count: gr.Slider
    settings: Settings
    drop: gr.File
    to_animate: gr.Button
    to_settings: gr.Button
    download: gr.DownloadButton
    gallery: gr.Gallery
    clear: gr.Button
    chosen: gr.State

    @property
    def looked_at(self) -> list[Any]:
        """What `look_at` updates."""
        return [self.bench.stage, self.chosen, self.to_animate, self.to_settings, self.download]

    @property
    def restored(self) -> list[Any]:
        """What `restore_pictures` updates."""
        return [self.gallery, self.clear, *self.looked_at]


def make_draw_tab(shared: Shared) -> DrawTab:
    """Inside a `gr.Tab`."""
    with gr.Row(elem_classes="dj-board"):
        with gr.Column(elem_classes="dj-ask"):
            prompt = make_prompt("draw", label="prompt")
            button, cancel = make_buttons("draw")
            make_examples(prompt, DRAW_EXAMPLES)
        with gr.Column(elem_classes="dj-show"):
            shown = _make_show(sends=shared.abilities.takes_clicks)
        with gr.Column(elem_classes="dj-more"):
            count = gr.Slider(1, MOST_AT_ONCE, 1, step=1, label=text("draw_count"))
            settings = make_settings("draw", shared)
            drop = make_drop("draw", [".png"])
    bench = Bench(
        button=button, cancel=cancel, status=shown.pop("status"), stage=shown.pop("stage"), job=gr.State(None)
    )
    tab = DrawTab(prompt=prompt, bench=bench, count=count, settings=settings, drop=drop, **shown)
    _connect(tab, shared)
    return tab


def _make_show(*, sends: bool) -> dict[str, Any]:
    stage = gr.Image(
        interactive=False, buttons=["fullscreen"], elem_classes="dj-stage", elem_id="draw-stage", show_label=False
    )
    line = make_status("draw")
    with gr.Row(elem_classes="dj-actions"):
        off = {"interactive": False, "min_width": 90}
        to_animate = gr.Button(text("draw_to_animate"), elem_id="draw-to-animate", visible=sends, **off)
        to_settings = gr.Button(text("draw_to_settings"), elem_id="draw-to-settings", **off)
        download = gr.DownloadButton(text("download"), elem_id="draw-download", **off)
    gallery, clear = make_gallery("draw")
    return {
        "stage": stage, "status": line, "to_animate": to_animate, "to_settings": to_settings, "download": download,
        "gallery": gallery, "clear": clear, "chosen": gr.State(None),
    }  # fmt: skip


def _connect(tab: DrawTab, shared: Shared) -> None:
    def draw(request: gr.Request, token: str, prompt: str, count: Any, *values: Any) -> Iterator[Updates]:
        def submit(owner: str) -> Job:
            arguments = to_arguments(values)
            return shared.worker.submit(PictureRequest(prompt=prompt, num_images=whole(count), **arguments), owner)

        yield from work(tab.bench, shared, request, token, submit=submit, keep=partial(_keep, tab, shared))

    def look(request: gr.Request, token: str, event: gr.SelectData) -> Updates:
        pictures = shared.visit(token, request).pictures
        return look_at(tab, pictures[event.index] if event.index < len(pictures) else None)

    def take_settings(request: gr.Request, token: str, chosen: str | None) -> Updates:
        made = find(shared.visit(token, request).pictures, chosen)
        return {tab.prompt: gr.skip()} if made is None else _restored(tab, made.record)

    def clear(request: gr.Request, token: str) -> Updates:
        visit = shared.visit(token, request)
        visit.clear(visit.pictures)
        return restore_pictures(tab, visit)

    inputs = [shared.token, tab.prompt, tab.count, *tab.settings.inputs]
    drawn = [*tab.bench.outputs, tab.settings.seed, *tab.restored]
    gr.on([tab.bench.button.click, tab.prompt.submit], draw, inputs, list(dict.fromkeys(drawn)), **slow())
    connect_cancel(tab.bench, shared)
    tab.gallery.select(look, shared.token, tab.looked_at, **quiet())
    taken = [tab.prompt, *tab.settings.inputs]
    tab.to_settings.click(take_settings, [shared.token, tab.chosen], taken, **quiet())
    connect_drop(tab.drop, tab.bench, shared, restored=partial(_restored, tab), outputs=taken)
    tab.clear.click(clear, shared.token, tab.restored, **quiet())


def _keep(tab: DrawTab, shared: Shared, visit: Visit, job: Job, last: Shown) -> Updates:
    """The pictures, or of what was stopped its last preview, that no file is of yet."""
    assert isinstance(job.request, PictureRequest)
    if last.result is not None:
        for file, record in reversed(list(zip(last.result.files, last.result.records, strict=True))):
            visit.keep(visit.pictures, [file], record)
    elif last.is_cancelled and last.preview is not None:
        record = _record_of(job.request, model=shared.abilities.model)
        shared.keep_picture(visit, visit.pictures, last.preview, record, visible_label=job.request.visible_label)
    else:
        return {}
    return {tab.settings.seed: str(job.request.seed), **restore_pictures(tab, visit)}


def _record_of(request: Any, *, model: str) -> Record:
    """What was asked for; enough to draw it to its end."""
    names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
    settings = {name: getattr(request, name) for name in names} | {"unfinished": True}
    return Record(prompt=request.prompt, seed=request.seed, settings=settings, model=model, version=__version__)


def restore_pictures(tab: DrawTab, visit: Visit) -> Updates:
    """The gallery as it should be, and the newest picture looked at."""
    has_some = bool(visit.pictures)
    gallery = gr.Gallery(value=[str(made.files[0]) for made in visit.pictures], visible=has_some)
    newest = visit.pictures[0] if has_some else None
    return {tab.gallery: gallery, tab.clear: gr.Button(visible=has_some), **look_at(tab, newest)}


def look_at(tab: DrawTab, made: Made | None) -> Updates:
    """One picture large, and what can be done with it."""
    file = None if made is None else str(made.files[0])
    can = {"interactive": made is not None}
    return {
        tab.bench.stage: file,
        tab.chosen: file,
        tab.to_animate: gr.Button(**can),
        tab.to_settings: gr.Button(**can),
        tab.download: gr.DownloadButton(value=file, **can),
    }


def _restored(tab: DrawTab, record: Record) -> Updates:
    return {tab.prompt: record.prompt, **tab.settings.restored(record)}
