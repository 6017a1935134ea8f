"""Work of `dianjing chat`: each line is parsed before any weights load, then the image is generated and written."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dianjing.cli.image_job import PRODUCER, build_image_metadata
from dianjing.cli.loading import check_device, load_pipeline
from dianjing.pipelines.media.aigc_label import make_image_label
from dianjing.pipelines.media.atomic import check_output_path, check_writable_folder
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.validation import ImageRequest

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.session import Conversation
    from dianjing.pipelines.conversation.turn import Turn


@dataclass(frozen=True, kw_only=True)
class ChatJob:
    """One run of `dianjing chat`.

    out: a folder, or a .png name that is numbered; None for the working directory. producer: None writes no label.
    """

    conversation: "Conversation"
    model: str
    out: Path | None
    save_path: Path | None
    producer: str | None


def validate_chat_job(
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
) -> ChatJob:
    """Check all options before weights load. Raises: DianjingError."""
    from dianjing.pipelines.conversation.session import Conversation

    check_device(device)
    if out is None or out.is_dir():
        check_writable_folder(out or Path())
    else:
        check_output_path(out)
    if save_path is not None:
        check_output_path(save_path, extensions=(".json",))
    options: dict[str, Any] = {"load_pipeline": partial(_load_pipeline, device=device, dtype=dtype)}
    if load_path is not None:
        conversation = Conversation.load(load_path, model, **options)
    else:
        options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        conversation = Conversation(model, seed=seed, **options)
    if chat_model is not None:
        from dianjing.pipelines.conversation.parsing.chat_model import ChatModelParser
        from dianjing.pipelines.conversation.parsing.rule_parser import RuleParser

        conversation.parser = ChatModelParser.from_pretrained(
            chat_model, rule_parser=RuleParser(conversation.concept_vocabulary)
        )
    return ChatJob(conversation=conversation, model=model, out=out, save_path=save_path, producer=producer)


def _load_pipeline(model: str, *, device: str, dtype: str) -> Any:
    pipe = load_pipeline("TextToImagePipeline", model=model, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)  # several sampling runs a turn: their bars would hide the conversation
    return pipe


def run_chat_job(job: ChatJob, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield for each line the result of its turn, or its error; a line with an error changes nothing."""
    for line in lines:
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        try:
            turn = job.conversation.send(text)
        except ValueError as error:
            yield {"text": text, "error": str(error)}
            continue
        path = _get_next_path(job, turn)
        answer = _write_turn(job, turn, path)
        if job.save_path is not None:
            job.conversation.save(job.save_path)
        yield answer


def _write_turn(job: ChatJob, turn: "Turn", path: Path) -> dict[str, Any]:
    pipe = job.conversation.pipe
    metadata = build_image_metadata(
        pipe, turn.image, ImageRequest(prompt=turn.prompt, seed=turn.seed), seed=turn.seed, model=job.model
    )
    label = make_image_label(turn.image, metadata, producer=job.producer or PRODUCER)
    save_image(turn.image, path, metadata, label=label if job.producer else None)
    return {
        "id": label["ProduceID"],
        "path": str(path),
        "text": turn.text,
        "prompt": turn.prompt,
        "changes": list(turn.changes),
        "hints": list(turn.hints),
        "seed": turn.seed,
    }


def _get_next_path(job: ChatJob, turn: "Turn") -> Path:
    """Return the path with the lowest number that is not in use."""
    if job.out is None or job.out.is_dir():
        first = (job.out or Path()) / f"dianjing-{job.conversation.seed}.png"
    else:
        first = job.out
    number = 1
    while os.path.lexists(path := first.with_stem(f"{first.stem}-{number}")):
        number += 1
    return path
