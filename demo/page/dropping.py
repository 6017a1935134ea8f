"""A file that was made here is dropped, and its settings come back."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dianjing.demo.page.bench import Bench, Updates
from dianjing.demo.page.following import failed, line
from dianjing.demo.page.look import text
from dianjing.demo.page.shared import Shared, language_for, quiet
from dianjing.demo.page.uploads import read_record
from dianjing.demo.texts.messages import say
from dianjing.pipelines.media import Record


def make_drop(name: str, endings: Sequence[str]) -> gr.File:
    return gr.File(
        label=text("drop"), file_types=list(endings), elem_id=f"{name}-drop", elem_classes="dj-drop", height=120
    )


def connect_drop(
    drop: gr.File, bench: Bench, shared: Shared, *, restored: Callable[[Record], Updates], outputs: Sequence[Any]
) -> None:
    """`restored` says what a record changes among the outputs; a file that is none of ours changes nothing."""

    def take(path: str | None, request: gr.Request) -> Updates:
        language = language_for(request)
        try:
            record = read_record(path, shared.limits)
        except ValueError as error:
            return {bench.status: failed(error, language), drop: None}
        return {**restored(record), bench.status: line(say("settings_back", language)), drop: None}

    drop.upload(take, drop, [*outputs, bench.status, drop], **quiet())
