"""The command `dianjing chat`. Nothing heavy is imported before it is needed."""

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import dianjing
from dianjing.options import (
    AsJson,
    Debug,
    Device,
    Dtype,
    DtypeOption,
    Guidance,
    Label,
    Model,
    Producer,
    Seed,
    Steps,
    print_json,
)


def chat(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder, or a .png name; pictures are numbered.")
    ] = None,
    seed: Seed = None,
    load: Annotated[Path | None, typer.Option(help="Go on with this conversation (.json).")] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the conversation in this file (.json).")] = None,
    chat_model: Annotated[
        str | None, typer.Option(help="A chat model that reads what is said: a folder or a Hub id; rules without.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    model: Model = "sticker",
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: Label = True,
    producer: Producer = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw in a conversation: one line in, one picture out. Lines come from the terminal or a pipe."""
    from dianjing import chatting

    job = chatting.plan(
        model=model,
        chat_model=chat_model,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        out=out,
        load_path=load,
        save_path=save,
        device=device,
        dtype=dtype.value,
        num_inference_steps=steps,
        guidance_scale=guidance,
        producer=(producer or chatting.PRODUCER) if label else None,
    )
    answers = []
    for answer in chatting.chat(job, _lines()):
        answers.append(answer)
        _tell(answer, as_json=as_json)
    if as_json:
        print_json({"version": dianjing.__version__, "seed": job.conversation.seed, "turns": answers})
    if not sys.stdin.isatty() and any("error" in answer for answer in answers):
        raise typer.Exit(2)


def _lines() -> Iterator[str]:
    """What is typed or piped; bytes that are no UTF-8 become what `say` refuses by name."""
    if sys.stdin.isatty():
        print('Say what to draw, then what to change; "undo" takes back, Ctrl-D ends.', file=sys.stderr)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _tell(answer: dict[str, Any], *, as_json: bool) -> None:
    if "error" in answer:
        print(f"error: {answer['error']}", file=sys.stderr)
        return
    print(f"{'; '.join(answer['changes'])}: {answer['prompt']}", file=sys.stderr)
    for hint in answer["hints"]:
        print(f"hint: {hint}", file=sys.stderr)
    if not as_json:
        print(answer["path"], flush=True)
