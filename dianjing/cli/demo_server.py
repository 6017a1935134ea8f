"""Work of `dianjing demo`: options are checked and the address is bound before weights load; then it serves."""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from dianjing.cli.loading import check_device, check_model_path, resolve_device, resolve_dtype
from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.login import PUBLIC_PATHS, RESULTS_PREFIX
from dianjing.demo.app import bind_socket, make_app, run_server
from dianjing.demo.limits import ServerLimits
from dianjing.demo.log import configure_logging
from dianjing.demo.queue import JobQueue
from dianjing.demo.results import Labelling, ResultStore
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.image_conditions import parse_controlnets, parse_preprocessors
from dianjing.pipelines.media.aigc_label import PRODUCER
from dianjing.pipelines.named_adapters import NamedAdapter, parse_adapters
from dianjing.pipelines.video.published_models import find_pipeline_class
from dianjing.weights.ip_adapter_files import check_ip_adapter_path, find_image_encoder
from dianjing.weights.manifest import read_components
from dianjing.weights.resolve import resolve_local_model

MIN_KEY_LENGTH = 8
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
ORIGIN_PATTERN = re.compile(r"https?://[\w.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True)
class DemoServer:
    """Settings of one server, with its socket bound."""

    model: str
    device: str
    dtype: str
    segmenter: str | None
    access: AccessControl
    limits: ServerLimits
    labelling: Labelling
    mcp: bool
    aliases: tuple[str, ...]
    adapters: tuple[NamedAdapter, ...]
    controlnets: dict[str, str]
    preprocessors: dict[str, str]
    ip_adapter: str | None
    ip_adapter_encoder: str | None
    chat_model: str | None
    video_models: tuple[str, ...]
    listening_socket: socket.socket

    @property
    def address(self) -> str:
        host, port = self.listening_socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def validate_demo_server(
    *,
    model: str,
    host: str,
    port: int,
    auth: str | None,
    api_keys: list[str],
    allowed_origins: list[str],
    aliases: list[str],
    max_queue: int | None,
    max_run_s: float | None,
    loras: list[str],
    controlnets: list[str],
    preprocessors: list[str],
    ip_adapter: str | None,
    ip_adapter_encoder: str | None,
    chat_model: str | None,
    video_models: list[str],
    mcp: bool,
    segmenter: str | None,
    device: str,
    dtype: str,
    producer: str | None,
    visible_label: bool,
    certificate_path: Path | None,
    private_key_path: Path | None,
) -> DemoServer:
    """Check all options and bind the listening socket, before weights load. Raises: DianjingError."""
    check_device(device)
    folder = resolve_local_model(model)
    if folder is not None:
        read_components(folder)
    user = None if auth is None else _parse_auth(auth)
    access = AccessControl(keys=_check_api_keys(api_keys), auth=user, origins=_check_origins(allowed_origins))
    alias_names = _parse_aliases(aliases, model=model)
    if mcp and find_spec("mcp") is None:
        raise DianjingError("mcp_not_installed")
    limits = ServerLimits(max_run_s=max_run_s)
    if max_queue is not None:
        limits = replace(limits, max_queue_length=max_queue, max_queue_length_per_owner=min(max_queue, 8))
    adapters, controlnet_paths = tuple(parse_adapters(loras)), parse_controlnets(controlnets)
    preprocessor_folders = parse_preprocessors(preprocessors)
    _check_ip_adapter(ip_adapter, ip_adapter_encoder)
    if chat_model is not None:
        check_model_path(chat_model, "--chat-model")
    for name in video_models:
        if find_pipeline_class(name) is None and resolve_local_model(name) is not None:
            raise DianjingError("not_a_published_video_model", model=name)
    sign = None
    if certificate_path is not None or private_key_path is not None:
        from dianjing.demo.signing import make_signer

        if certificate_path is None or private_key_path is None:
            raise DianjingError("certificate_without_key")
        sign = make_signer(certificate_path, private_key_path)
    labelling = Labelling(producer=producer or PRODUCER, has_visible_label=visible_label, signer=sign)
    listening_socket = bind_socket(host, port)
    access = replace(access, hosts=_get_allowed_hosts(listening_socket, access.origins))
    return DemoServer(
        model=model,
        device=device,
        dtype=dtype,
        segmenter=segmenter,
        access=access,
        limits=limits,
        labelling=labelling,
        mcp=mcp,
        aliases=alias_names,
        adapters=adapters,
        controlnets=controlnet_paths,
        preprocessors=preprocessor_folders,
        ip_adapter=ip_adapter,
        ip_adapter_encoder=ip_adapter_encoder,
        chat_model=chat_model,
        video_models=tuple(video_models),
        listening_socket=listening_socket,
    )


def _check_ip_adapter(ip_adapter: str | None, ip_adapter_encoder: str | None) -> None:
    if ip_adapter is not None:
        check_ip_adapter_path(ip_adapter)
    if ip_adapter_encoder is not None:
        find_image_encoder(ip_adapter_encoder, weights=None)


def _check_api_keys(api_keys: list[str]) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in api_keys if key.strip())
    for key in keys:
        if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
            raise DianjingError("api_key_malformed", count=len(key), min_count=MIN_KEY_LENGTH)
    return keys


def _check_origins(origins: list[str]) -> tuple[str, ...]:
    normalized = tuple(origin.rstrip("/").lower() for origin in origins)
    for origin in normalized:
        if not ORIGIN_PATTERN.fullmatch(origin):
            raise DianjingError("origin_malformed", value=repr(origin))
    return normalized


def _parse_aliases(aliases: list[str], *, model: str) -> tuple[str, ...]:
    """The names of aliases such as "gpt-image-1" and "gpt-image-1=sticker"."""
    names = []
    for alias in aliases:
        name, equals, target = alias.partition("=")
        is_served = target in (model, Path(model).name) if equals else True
        if not is_served or not re.fullmatch(r"[^\s=]{1,200}", name):
            raise DianjingError("alias_malformed", value=repr(alias), model=model)
        names.append(name)
    return tuple(names)


def _get_allowed_hosts(listening_socket: socket.socket, origins: Sequence[str]) -> frozenset[str] | None:
    """Return the host names of a server on the loopback interface, or None (any name) for one that others can reach."""
    address = listening_socket.getsockname()[0]
    if not ip_address(address).is_loopback:
        return None
    return frozenset({*LOOPBACK_HOSTS, address, *(urlsplit(origin).hostname or "" for origin in origins)})


def _parse_auth(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise DianjingError("auth_malformed")
    return user, password


def describe_access(server: DemoServer) -> Message | None:
    """Say who can use a server that others can reach or that needs a key; None for a private one without."""
    if server.access.requires_key:
        return Message("demo_closed_by_key", paths=[*sorted(PUBLIC_PATHS), f"{RESULTS_PREFIX}/..."])
    return None if server.access.hosts is not None else Message("demo_open_to_network", address=server.address)


def run_demo_server(server: DemoServer, *, on_ready: Callable[[str], object]) -> None:
    """Load the weights, report the address by `on_ready`, and serve until SIGTERM or Ctrl-C."""
    import torch

    from dianjing.demo.engine import InferenceEngine

    configure_logging()
    device = resolve_device(torch, server.device)
    names = ("adapters", "controlnets", "preprocessors", "ip_adapter", "ip_adapter_encoder")
    options: dict[str, Any] = {name: getattr(server, name) for name in names}
    if server.chat_model is not None:
        from dianjing.pipelines.conversation.parsing.chat_model import load_chat_model

        options["complete_chat"] = load_chat_model(server.chat_model, device=device)
    if server.segmenter is not None:
        from dianjing.pipelines.segmentation.sam import SamSegmenter

        sam = SamSegmenter.from_pretrained(server.segmenter, device=device)
        options["segmenter_factory"] = partial(SamSegmenter, sam.model)  # share the model
    dtype = resolve_dtype(torch, server.dtype, device)
    if server.video_models:
        from dianjing.demo.video_models import VideoModels

        options["video_models"] = VideoModels(server.video_models, device=device, dtype=dtype)
    engine = InferenceEngine.from_pretrained(server.model, device=device, dtype=dtype, **options)
    with TemporaryDirectory(prefix="dianjing-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder  # for all files of this process: results, uploads, and bodies while they arrive
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "gradio")
        queue = JobQueue(engine, server.limits, results=ResultStore(server.labelling))
        try:
            mcp_url = server.address if server.mcp else None
            app = make_app(queue, engine, access=server.access, mcp_url=mcp_url, aliases=server.aliases)
            on_ready(server.address)
            remove_files = partial(shutil.rmtree, folder, ignore_errors=True)
            run_server(app, queue, server.listening_socket, remove_files=remove_files)
        finally:
            queue.close()
