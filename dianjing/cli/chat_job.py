"""Work of `dianjing chat`: each line is parsed before any weights load, then the image is generated and written."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dianjing
from dianjing.cli.loading import check_device, check_few_steps, load_pipeline
from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.parsing.base import detect_language
from dianjing.pipelines.media.aigc_label import PRODUCER, make_image_label
from dianjing.pipelines.media.atomic import check_output_path, check_writable_folder
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.weights.resolve import resolve_local_model

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
    chat_model: str | None
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
    slow: bool | None = None,
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
    if slow is not None:
        conversation.slow = slow
    check_few_steps(conversation.slow, resolve_local_model(model))
    if chat_model is not None:
        from dianjing.pipelines.conversation.parsing.chat_model import ChatModelParser
        from dianjing.pipelines.conversation.parsing.rule_parser import RuleParser

        conversation.parser = ChatModelParser.from_pretrained(
            chat_model, rule_parser=RuleParser(conversation.concept_vocabulary)
        )
    return ChatJob(
        conversation=conversation, model=model, chat_model=chat_model, out=out, save_path=save_path, producer=producer
    )


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
        except DianjingError as error:
            yield {"text": text, "error": error.render(detect_language(text))}
            continue
        path = _get_next_path(job, turn)
        answer = _write_turn(job, turn, path)
        if job.save_path is not None:
            job.conversation.save(job.save_path)
        yield answer


def _write_turn(job: ChatJob, turn: "Turn", path: Path) -> dict[str, Any]:
    metadata = build_turn_metadata(job, turn)
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


def build_turn_metadata(job: ChatJob, turn: "Turn") -> GenerationMetadata:
    """Return the metadata from which the image of a turn can be generated again.

    settings["instructions"] are the texts that lead to it, in a conversation with this seed.
    """
    conversation = job.conversation
    settings: dict[str, object] = {"width": turn.image.width, "height": turn.image.height}
    settings["instructions"] = [each.text for each in conversation.turns]
    if conversation.pipe.sampling_params is None:  # a loaded conversation, and no image since
        settings |= {
            "num_inference_steps": conversation.num_inference_steps,
            "guidance_scale": conversation.guidance_scale,
        }
    else:
        settings |= get_sampling_metadata(conversation.pipe)
    if job.chat_model is not None:
        settings["chat_model"] = job.chat_model
    return GenerationMetadata(
        prompt=turn.prompt, seed=conversation.seed, settings=settings, model=job.model, version=dianjing.__version__
    )


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
