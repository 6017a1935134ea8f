"""What programs and agents may call by `gradio_client` or MCP: each tab's work, with plain arguments.

Pictures go in as base64 and come out as files; points are numbers, in pixels of the picture.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from typing_extensions import TypedDict

from dianjing.demo.errors import translate
from dianjing.demo.files import open_upload
from dianjing.demo.jobs import Done, Failed, Result
from dianjing.demo.limits import Limits
from dianjing.demo.page.agents import explain
from dianjing.demo.page.shared import FOLLOWED_AT_ONCE, Shared, language_for
from dianjing.demo.requests import AnimateRequest, AnyRequest, FilmRequest, PictureRequest, TalkRequest
from dianjing.pipelines.conversation.talk import Conversation
from dianjing.pipelines.regions import Region
from dianjing.pipelines.segmenting import Point

Files = list[dict[str, Any]]


class MovingPart(TypedDict, total=False):
    """A region as programs give it; `read_region` says what it has to hold."""

    points: list[list[float]]
    labels: list[int]
    motion: str
    strength: float


def connect_programs(shared: Shared) -> None:
    """Inside the page's `gr.Blocks`. Every setting that is left out is left to the model, and the seed to chance."""
    cache = gr.File(visible=False)  # Gradio serves what a component has cached, and clears it in time

    def draw(
        request: gr.Request, prompt: str, negative_prompt: str | None = None, width: int | None = None,
        height: int | None = None, num_inference_steps: int | None = None, guidance_scale: float | None = None,
        seed: int | None = None, num_images: int = 1,
    ) -> Iterator[Files]:  # fmt: skip
        """Draw pictures; the PNG files hold their settings."""
        make = partial(
            PictureRequest, prompt=prompt, negative_prompt=negative_prompt, width=width, height=height,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, seed=seed, num_images=num_images,
        )  # fmt: skip
        for result in _run(shared, request, make):
            yield _cached(cache, () if result is None else result.files)

    def film(
        request: gr.Request, prompt: str, seconds: float | None = None, negative_prompt: str | None = None,
        num_inference_steps: int | None = None, guidance_scale: float | None = None, seed: int | None = None,
    ) -> Iterator[Files]:  # fmt: skip
        """Make a film of words; the files are MP4, WebP and GIF."""
        make = partial(
            FilmRequest, prompt=prompt, negative_prompt=negative_prompt, duration_s=seconds,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, seed=seed,
        )  # fmt: skip
        for result in _run(shared, request, make):
            yield _cached(cache, () if result is None else result.files)

    def animate(
        request: gr.Request, image: str, regions: list[MovingPart], prompt: str = "",
        num_frames: int | None = None, num_inference_steps: int | None = None, guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> Iterator[Files]:  # fmt: skip
        """Move parts of a picture; the files are MP4, WebP and GIF.

        A region is {"points": [[30, 40]], "labels": [1], "motion": "jump", "strength": 0.5}: points x, y in pixels,
        label 1 for what should move and 0 for what should not.
        """

        def make() -> AnyRequest:
            parts = [read_region(number, each) for number, each in enumerate(regions, start=1)]
            return AnimateRequest(
                image=read_picture(image, shared.limits), regions=parts, prompt=prompt, num_frames=num_frames,
                num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, seed=seed,
            )  # fmt: skip

        for result in _run(shared, request, make):
            yield _cached(cache, () if result is None else result.files)

    def mask(request: gr.Request, image: str, points: list[list[float]], labels: list[int]) -> dict[str, Any]:
        """Show what clicks select in a picture: white is selected."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "mask.png"
            found = _plain(request, lambda: find_mask(shared, image, points, labels))
            Image.fromarray(found.astype(np.uint8) * 255).save(path)
            return _cached(cache, [path])[0]

    def talk(request: gr.Request, text: str, conversation: str = "", seed: int = 0) -> Iterator[dict[str, Any]]:
        """Say one thing in a talk that draws."""
        going = _plain(request, lambda: read_talk(conversation, seed, shared))
        for result in _run(shared, request, partial(TalkRequest, conversation=going, text=text)):
            yield {} if result is None else _told(going, result, _cached(cache, result.files)[0])

    jobs = {"concurrency_id": "jobs", "concurrency_limit": FOLLOWED_AT_ONCE}
    for each in (draw, animate, film, talk):
        gr.api(explain(each), api_name=each.__name__, **jobs)
    gr.api(explain(mask), api_name="mask", concurrency_id="masks", concurrency_limit=1)


def _plain(request: gr.Request, act: Callable[[], Any]) -> Any:
    """What a call gives; an error of the caller's becomes a message in the caller's language."""
    try:
        return act()
    except (ValueError, TypeError) as error:
        raise gr.Error(translate(str(error), language_for(request)), print_exception=False) from None


def _run(shared: Shared, request: gr.Request, make: Callable[[], AnyRequest]) -> Iterator[Result | None]:
    """The result, after as many None as it takes: a client that leaves is noticed there, and its job ends."""
    job = _plain(request, lambda: shared.worker.submit(make(), f"program-{request.session_hash}"))
    for event in shared.worker.follow(job):
        if isinstance(event, Failed):
            raise gr.Error(translate(event.error, language_for(request)), print_exception=False)
        yield event.result if isinstance(event, Done) else None


def _cached(cache: gr.File, files: Sequence[Path]) -> Files:
    """Files as Gradio's clients download them."""
    paths = [cache.move_resource_to_block_cache(file) for file in files]
    names = [file.name for file in files]
    return [
        {"path": path, "url": None, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        for path, name in zip(paths, names, strict=True)
    ]


def _told(talk: Conversation, result: Result, image: dict[str, Any]) -> dict[str, Any]:
    turn = result.turn
    assert turn is not None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "talk.json"
        talk.save(path)
        text = path.read_text(encoding="utf-8")
    told = {"prompt": turn.prompt, "changes": list(turn.changes), "hints": list(turn.hints)}
    return {"image": image, **told, "conversation": text}


def read_picture(image: object, limits: Limits) -> Image.Image:
    """A picture in base64, with or without the head of a data URL. Raises: ValueError."""
    text = str(image)
    head, comma, rest = text.partition(",")
    try:
        content = base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the picture is no base64; give a PNG, JPEG or WebP in base64") from None
    return open_upload(content, limits)


def read_points(points: object, labels: object) -> list[Point]:
    """Points [x, y] with a label for each. Raises: ValueError."""
    each = points if isinstance(points, list) else []
    signs = labels if isinstance(labels, list) else []
    if len(each) != len(signs):
        raise ValueError(f"{len(signs)} labels for {len(each)} points; give one for each")
    for point in each:
        is_pair = isinstance(point, list) and len(point) == 2
        if not is_pair or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in point):
            raise ValueError(f"a point is {str(point)[:60]}; give two numbers, x and y")
    return [Point(x=x, y=y, positive=bool(sign)) for (x, y), sign in zip(each, signs, strict=True)]


def read_region(number: int, region: object) -> Region:
    """A region as `animate` takes it; all points are meant where no labels are given. Raises: ValueError."""
    if not isinstance(region, dict) or not {"points", "motion"} <= set(region) <= {
        "points", "labels", "motion", "strength",
    }:  # fmt: skip
        raise ValueError(f"region {number} is no object with points, labels, motion and strength; give those")
    points = region["points"]
    labels = region.get("labels", [1] * len(points) if isinstance(points, list) else [])
    more = {"strength": region["strength"]} if "strength" in region else {}
    return Region(motion=region["motion"], points=read_points(points, labels), **more)


def find_mask(shared: Shared, image: object, points: object, labels: object) -> np.ndarray:
    """bool (H, W)"""
    found = read_points(points, labels)
    picture = read_picture(image, shared.limits)
    return shared.studio.mask(picture, [(p.x, p.y) for p in found], [p.positive for p in found])


def read_talk(conversation: object, seed: int, shared: Shared) -> Conversation:
    """Go on with a conversation as `talk` gave it, or begin one. Raises: ValueError."""
    if not conversation:
        return shared.studio.conversation(seed=seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "conversation.json"
        path.write_text(str(conversation), encoding="utf-8", errors="replace")
        try:
            return Conversation.load(path, shared.studio.talks)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), path.stem)) from None
