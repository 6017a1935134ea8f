"""The command `dianjing demo`. Nothing heavy is imported before it runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dianjing.cli.options import (
    ChatModelOption,
    ControlNetsOption,
    DebugOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    IPAdapterEncoderOption,
    IPAdapterOption,
    LorasOption,
    ModelOption,
    PreprocessorsOption,
    ProducerOption,
    SegmenterOption,
    SourceOption,
)
from dianjing.errors import get_language

API_KEYS_VARIABLE = "DIANJING_API_KEYS"


def demo(
    model: ModelOption = "sticker",
    source: SourceOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for access from other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.", min=0, max=65535)] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASSWORD", help="The login of page, API and MCP.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A key of page, API and MCP, or several; default: {API_KEYS_VARIABLE}, separated by commas."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="SCHEME://HOST[:PORT]", help="A web site whose pages may call the API, or several."),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=MODEL]",
            help="Another name of the model for clients of the API, such as gpt-image-1, or several.",
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline/--online", help="Whether weights may be downloaded.")] = True,
    mcp: Annotated[bool, typer.Option("--mcp", help="Also serve the functions to agents (MCP).")] = False,
    visible_label: Annotated[
        bool, typer.Option("--visible-label", help="Write AI生成 into the corner of every image and video.")
    ] = False,
    c2pa_cert: Annotated[Path | None, typer.Option(help="A certificate chain (PEM), to sign files (C2PA).")] = None,
    c2pa_key: Annotated[Path | None, typer.Option(help="The private key of --c2pa-cert (PEM).")] = None,
    queue: Annotated[int | None, typer.Option(help="Maximum number of waiting requests.", min=1)] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Longest predicted duration of a request; default: 300, or more on a slow machine.", min=1),
    ] = None,
    lora: LorasOption = None,
    controlnet: ControlNetsOption = None,
    preprocessor: PreprocessorsOption = None,
    ip_adapter: IPAdapterOption = None,
    ip_adapter_encoder: IPAdapterEncoderOption = None,
    chat_model: ChatModelOption = None,
    video_model: Annotated[
        list[str] | None,
        typer.Option(
            help="A published video model to choose on the page and over HTTP: a name from `dianjing models`, a folder"
            " or a Hub id, or several."
        ),
    ] = None,
    segmenter: SegmenterOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    producer: ProducerOption = None,
    debug: DebugOption = False,
) -> None:
    """Open the web demo: images, videos, animation and conversations in the browser, and the same over HTTP."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # these are read when the libraries are imported
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from dianjing.cli import demo_server

    server = demo_server.validate_demo_server(
        model=model,
        host=host,
        port=port,
        auth=auth,
        max_queue=queue,
        max_run_s=max_seconds,
        loras=lora or [],
        controlnets=controlnet or [],
        preprocessors=preprocessor or [],
        ip_adapter=ip_adapter,
        ip_adapter_encoder=ip_adapter_encoder,
        chat_model=chat_model,
        video_models=video_model or [],
        mcp=mcp,
        segmenter=segmenter,
        api_keys=api_key or os.environ.get(API_KEYS_VARIABLE, "").split(","),
        allowed_origins=allow_origin or [],
        aliases=alias or [],
        device=device,
        dtype=dtype.value,
        producer=producer,
        visible_label=visible_label,
        certificate_path=c2pa_cert,
        private_key_path=c2pa_key,
    )
    if (access := demo_server.describe_access(server)) is not None:
        print(access.render(get_language()), file=sys.stderr, flush=True)
    demo_server.run_demo_server(
        server, on_ready=lambda address: print(f"Dianjing 点睛: {address}", file=sys.stderr, flush=True)
    )
