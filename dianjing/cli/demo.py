"""The command `dianjing demo`. Nothing heavy is imported before it is needed."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dianjing.cli.options import DebugOption, DeviceOption, Dtype, DtypeOption, ModelOption, ProducerOption

API_KEYS_VARIABLE = "DIANJING_API_KEYS"


def demo(
    model: ModelOption = "sticker",
    host: Annotated[str, typer.Option(help="Who may reach it: 127.0.0.1 this machine, 0.0.0.0 every machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Where it listens.", min=0, max=65535)] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASSWORD", help="Who may open the page.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A bearer key for the HTTP API, or several; {API_KEYS_VARIABLE}, with commas, stands for it."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="SCHEME://HOST[:PORT]", help="A web site whose pages may use it too, or several."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline/--online", help="Whether weights may be fetched.")] = True,
    mcp: Annotated[bool, typer.Option("--mcp", help="Also serve the page's tools to agents (MCP).")] = False,
    visible_label: Annotated[
        bool, typer.Option("--visible-label", help="Write AI生成 into the corner of every picture and film.")
    ] = False,
    c2pa_cert: Annotated[Path | None, typer.Option(help="A certificate chain (PEM): files are signed (C2PA).")] = None,
    c2pa_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    queue: Annotated[int | None, typer.Option(help="Requests that may wait.", min=1)] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="A folder or Hub id of SAM 2 or SAM, to find what was clicked; GrabCut without.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    producer: ProducerOption = None,
    debug: DebugOption = False,
) -> None:
    """Draw, click, film and talk in the browser; the same over HTTP for programs."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # both are read when the libraries are imported
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from dianjing.cli import demo_server

    plan = demo_server.validate_demo_server(
        model=model,
        host=host,
        port=port,
        auth=auth,
        max_queue=queue,
        mcp=mcp,
        segmenter=segmenter,
        api_keys=api_key or os.environ.get(API_KEYS_VARIABLE, "").split(","),
        allowed_origins=allow_origin or [],
        device=device,
        dtype=dtype.value,
        producer=producer,
        visible_label=visible_label,
        certificate_path=c2pa_cert,
        private_key_path=c2pa_key,
    )
    demo_server.run_demo_server(
        plan, on_ready=lambda address: print(f"Dianjing 点睛: {address}", file=sys.stderr, flush=True)
    )
