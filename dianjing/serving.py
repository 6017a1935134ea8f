"""`dianjing demo`: everything is checked, and the address taken, before weights load; then it is served."""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from dianjing.demo.app import listen, make_app
from dianjing.demo.app import serve as serve_app
from dianjing.demo.files import Files, Marks
from dianjing.demo.http.access import Access
from dianjing.demo.limits import Limits
from dianjing.demo.worker import Worker
from dianjing.drawing import check_device, pick_device, pick_dtype
from dianjing.pipelines.media import PRODUCER
from dianjing.weights.fetching import local_folder
from dianjing.weights.folder import read_components

LEAST_KEY_CHARS = 8
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
ORIGIN = re.compile(r"https?://[\w.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One server, its address already taken."""

    model: str
    device: str
    dtype: str
    segmenter: str | None
    access: Access
    limits: Limits
    marks: Marks
    mcp: bool
    taken: socket.socket

    @property
    def address(self) -> str:
        host, port = self.taken.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def plan(
    *,
    model: str,
    host: str,
    port: int,
    auth: str | None,
    keys: list[str],
    origins: list[str],
    queue: int | None,
    mcp: bool,
    segmenter: str | None,
    device: str,
    dtype: str,
    producer: str | None,
    visible_label: bool,
    certificate: Path | None,
    key: Path | None,
) -> Plan:
    """Check everything that can be checked before weights load.

    Raises: ValueError that says what was given, what is allowed and what to do.
    """
    check_device(device)
    folder = local_folder(model)
    if folder is not None:
        read_components(folder)
    user = None if auth is None else _read_auth(auth)
    access = Access(keys=_check_keys(keys), auth=user, origins=_check_origins(origins))
    if mcp:
        _check_agents(auth)
    limits = Limits() if queue is None else Limits(max_queue=queue, max_queue_per_owner=min(queue, 8))
    sign = None
    if certificate is not None or key is not None:
        from dianjing.demo.signing import make_signer

        if certificate is None or key is None:
            raise ValueError("--c2pa-cert and --c2pa-key belong together; give both")
        sign = make_signer(certificate, key)
    marks = Marks(producer=producer or PRODUCER, visible=visible_label, sign=sign)
    taken = listen(host, port)
    access = replace(access, hosts=_names_of(taken, access.origins))
    return Plan(
        model=model, device=device, dtype=dtype, segmenter=segmenter, access=access, limits=limits, marks=marks,
        mcp=mcp, taken=taken,
    )  # fmt: skip


def _check_agents(auth: str | None) -> None:
    if auth is not None:
        raise ValueError("--mcp and --auth are both given, and agents cannot log in; give one of them")
    if find_spec("mcp") is None:
        raise ValueError('--mcp needs the package mcp; install it with pip install "dianjing[mcp]"')


def _check_keys(keys: list[str]) -> tuple[str, ...]:
    given = tuple(key.strip() for key in keys if key.strip())
    for key in given:
        if len(key) < LEAST_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"an --api-key has {len(key)} characters; give at least {LEAST_KEY_CHARS}, ASCII, no blanks"
            )
    return given


def _check_origins(origins: list[str]) -> tuple[str, ...]:
    given = tuple(origin.rstrip("/").lower() for origin in origins)
    for origin in given:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"--allow-origin is {origin!r}; give SCHEME://HOST[:PORT] such as https://draw.example.com"
            )
    return given


def _names_of(taken: socket.socket, origins: Sequence[str]) -> frozenset[str] | None:
    """What a server is known by that only this machine reaches; None for one that others reach by any name."""
    address = taken.getsockname()[0]
    if not ip_address(address).is_loopback:
        return None
    return frozenset({*LOCAL_NAMES, address, *(urlsplit(origin).hostname or "" for origin in origins)})


def _read_auth(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ValueError("--auth takes USER:PASSWORD; give both, with a colon between")
    return user, password


def serve(plan: Plan, *, ready: Callable[[str], object]) -> None:
    """Load the weights, tell the address, and answer until SIGTERM or Ctrl-C."""
    import torch

    from dianjing.demo.studio import Studio

    device = pick_device(torch, plan.device)
    options = {}
    if plan.segmenter is not None:
        from dianjing.pipelines.sam import Sam

        sam = Sam.from_pretrained(plan.segmenter, device=device)
        options["make_segmenter"] = partial(Sam, sam.model)  # one model, its own view of each picture
    studio = Studio.open(plan.model, device=device, dtype=pick_dtype(torch, plan.dtype, device), **options)
    worker = Worker(studio, plan.limits, files=Files(plan.marks))
    try:
        app = make_app(worker, studio, access=plan.access, mcp=plan.address if plan.mcp else None)
        ready(plan.address)
        serve_app(app, worker, plan.taken)
    finally:
        worker.close()
