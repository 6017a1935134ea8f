"""`dianjing chat`: a line in, a picture out; each line is checked before any weights load."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dianjing.drawing import PRODUCER, check_device, load, record_of
from dianjing.pipelines.media import check_folder_is_writable, check_output, label_of, save_picture
from dianjing.pipelines.request import ImageRequest

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.talk import Conversation, Turn


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of `dianjing chat`. out: a folder or a .png name that is numbered, None for this folder."""

    conversation: "Conversation"
    model: str
    out: Path | None
    save: Path | None
    producer: str | None


def plan(
    *,
    model: str,
    chat_model: str | None,
    seed: int,
    out: Path | None,
    load_path: Path | None,
    save_path: Path | None,
    device: str,
    dtype: str,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    producer: str | None,
) -> Job:
    """Check everything that can be checked before weights load.

    Raises: ValueError that says what was given, what is allowed and what to do.
    """
    from dianjing.pipelines.conversation.talk import Conversation

    check_device(device)
    if out is None or out.is_dir():
        check_folder_is_writable(out or Path())
    else:
        check_output(out)
    if save_path is not None:
        check_output(save_path, endings=(".json",))
    options: dict[str, Any] = {"load_pipe": partial(_load, device=device, dtype=dtype)}
    if load_path is not None:
        conversation = Conversation.load(load_path, model, **options)
    else:
        options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        conversation = Conversation(model, seed=seed, **options)
    if chat_model is not None:
        from dianjing.pipelines.conversation.chat_model import ChatModel
        from dianjing.pipelines.conversation.rules import Rules

        conversation.rewriter = ChatModel.from_pretrained(chat_model, rules=Rules(conversation.names))
    return Job(conversation=conversation, model=model, out=out, save=save_path, producer=producer)


def _load(model: str, *, device: str, dtype: str) -> Any:
    pipe = load("TextToImagePipeline", model=model, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)  # several runs a turn: their bars would bury the talk
    return pipe


def chat(job: Job, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Answer line by line: what a turn drew and where it is, or the error; a refused line changes nothing."""
    for line in lines:
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        try:
            turn = job.conversation.say(text)
        except ValueError as error:
            yield {"text": text, "error": str(error)}
            continue
        path = _next_path(job, turn)
        answer = _write(job, turn, path)
        if job.save is not None:
            job.conversation.save(job.save)
        yield answer


def _write(job: Job, turn: "Turn", path: Path) -> dict[str, Any]:
    pipe = job.conversation.pipe
    record = record_of(
        pipe, turn.image, ImageRequest(prompt=turn.prompt, seed=turn.seed), seed=turn.seed, model=job.model
    )
    label = label_of(turn.image, record, producer=job.producer or PRODUCER)
    save_picture(turn.image, path, record, label=label if job.producer else None)
    return {
        "id": label["ProduceID"],
        "path": str(path),
        "text": turn.text,
        "prompt": turn.prompt,
        "changes": list(turn.changes),
        "hints": list(turn.hints),
        "seed": turn.seed,
    }


def _next_path(job: Job, turn: "Turn") -> Path:
    """The next number that no file has."""
    if job.out is None or job.out.is_dir():
        first = (job.out or Path()) / f"dianjing-{job.conversation.seed}.png"
    else:
        first = job.out
    number = 1
    while os.path.lexists(path := first.with_stem(f"{first.stem}-{number}")):
        number += 1
    return path
