"""The command `dianjing chat`. Nothing heavy is imported before it runs."""

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import dianjing
from dianjing.cli.options import (
    ChatModelOption,
    DebugOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    GuidanceScaleOption,
    JsonOption,
    LabelOption,
    ModelOption,
    ProducerOption,
    SeedOption,
    SlowOption,
    SourceOption,
    StepsOption,
    format_error,
    print_json,
)
from dianjing.errors import Message, get_language


def chat(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder, or a .png name; images are numbered.")
    ] = None,
    seed: SeedOption = None,
    load: Annotated[Path | None, typer.Option(help="Continue this conversation (.json).")] = None,
    save: Annotated[Path | None, typer.Option(help="Save the conversation to this file (.json).")] = None,
    chat_model: ChatModelOption = None,
    steps: StepsOption = None,
    guidance_scale: GuidanceScaleOption = None,
    slow: SlowOption = None,
    model: ModelOption = "sticker",
    source: SourceOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: LabelOption = True,
    producer: ProducerOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Generate and edit an image in a conversation: each line, from the terminal or a pipe, gives one image."""
    from dianjing.cli import chat_job

    job = chat_job.validate_chat_job(
        model=model,
        chat_model=chat_model,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        out=out,
        load_path=load,
        save_path=save,
        device=device,
        dtype=dtype.value,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        slow=slow,
        producer=(producer or chat_job.PRODUCER) if label else None,
    )
    answers = []
    for answer in chat_job.run_chat_job(job, _read_lines()):
        answers.append(answer)
        _print_answer(answer, as_json=as_json)
    if as_json:
        print_json({"version": dianjing.__version__, "seed": job.conversation.seed, "turns": answers})
    if not sys.stdin.isatty() and any("error" in answer for answer in answers):
        raise typer.Exit(2)


def _read_lines() -> Iterator[str]:
    """Yield the lines of stdin; invalid UTF-8 becomes surrogates, which `Conversation.send` rejects with a message."""
    if sys.stdin.isatty():
        print(Message("chat_greeting").render(get_language()), file=sys.stderr)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _print_answer(answer: dict[str, Any], *, as_json: bool) -> None:
    if "error" in answer:
        print(format_error(answer["error"]), file=sys.stderr)
        return
    print(f"{'; '.join(answer['changes'])}: {answer['prompt']}", file=sys.stderr)
    for hint in answer["hints"]:
        print(Message("hint", text=hint).render(get_language()), file=sys.stderr)
    if not as_json:
        print(answer["path"], flush=True)
