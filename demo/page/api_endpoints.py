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

from dianjing.demo.i18n.translation import translate
from dianjing.demo.jobs import Done, Failed, JobResult
from dianjing.demo.limits import ServerLimits
from dianjing.demo.page.context import MAX_CONCURRENT_JOB_EVENTS, PageContext, get_request_language
from dianjing.demo.page.mcp import document_arguments
from dianjing.demo.requests import (
    AnyRequest,
    ConversationRequest,
    ImageToVideoRequest,
    TextToImageRequest,
    TextToVideoRequest,
    decode_upload,
)
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.segmentation.base import Point, Region

GradioFiles = list[dict[str, Any]]


class RegionArguments(TypedDict, total=False):
    """A region as programs give it; `read_region` says what it has to hold."""

    points: list[list[float]]
    labels: list[int]
    motion: str
    strength: float


def connect_api_endpoints(context: PageContext) -> None:
    """Inside the page's `gr.Blocks`. Every setting that is left out is left to the model, and the seed to chance."""
    cache = gr.File(visible=False)  # Gradio serves what a component has cached, and clears it in time

    def generate_image(
        request: gr.Request,
        prompt: str,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        num_images: int = 1,
    ) -> Iterator[GradioFiles]:
        """Draw pictures; the PNG files hold their settings."""
        make = partial(
            TextToImageRequest,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            num_images=num_images,
        )
        for result in _run_request(context, request, make):
            yield _cache_files(cache, () if result is None else result.files)

    def generate_video(
        request: gr.Request,
        prompt: str,
        seconds: float | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> Iterator[GradioFiles]:
        """Make a film of words; the files are MP4, WebP and GIF."""
        make = partial(
            TextToVideoRequest,
            prompt=prompt,
            negative_prompt=negative_prompt,
            duration_s=seconds,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
        for result in _run_request(context, request, make):
            yield _cache_files(cache, () if result is None else result.files)

    def animate_image(
        request: gr.Request,
        image: str,
        regions: list[RegionArguments],
        prompt: str = "",
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> Iterator[GradioFiles]:
        """Move parts of a picture; the files are MP4, WebP and GIF.

        A region is {"points": [[30, 40]], "labels": [1], "motion": "jump", "strength": 0.5}: points x, y in pixels,
        label 1 for what should move and 0 for what should not.
        """

        def make() -> AnyRequest:
            parts = [parse_region(number, each) for number, each in enumerate(regions, start=1)]
            return ImageToVideoRequest(
                image=parse_image(image, context.limits),
                regions=parts,
                prompt=prompt,
                num_frames=num_frames,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                seed=seed,
            )

        for result in _run_request(context, request, make):
            yield _cache_files(cache, () if result is None else result.files)

    def predict_mask(request: gr.Request, image: str, points: list[list[float]], labels: list[int]) -> dict[str, Any]:
        """Show what clicks select in a picture: white is selected."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "mask.png"
            found = _call_with_gradio_errors(request, lambda: predict_mask_from_points(context, image, points, labels))
            Image.fromarray(found.astype(np.uint8) * 255).save(path)
            return _cache_files(cache, [path])[0]

    def send_message(request: gr.Request, text: str, conversation: str = "", seed: int = 0) -> Iterator[dict[str, Any]]:
        """Say one thing in a talk that draws."""
        going = _call_with_gradio_errors(request, lambda: parse_conversation(conversation, seed, context))
        for result in _run_request(context, request, partial(ConversationRequest, conversation=going, text=text)):
            yield {} if result is None else _make_chat_response(going, result, _cache_files(cache, result.files)[0])

    jobs = {"concurrency_id": "jobs", "concurrency_limit": MAX_CONCURRENT_JOB_EVENTS}
    endpoints: dict[str, Callable[..., Any]] = {
        "image": generate_image,
        "animate": animate_image,
        "video": generate_video,
        "chat": send_message,
    }
    for name, function in endpoints.items():
        gr.api(document_arguments(function), api_name=name, **jobs)
    gr.api(document_arguments(predict_mask), api_name="mask", concurrency_id="masks", concurrency_limit=1)


def _call_with_gradio_errors(request: gr.Request, function: Callable[[], Any]) -> Any:
    """What a call gives; an error of the caller's becomes a message in the caller's language."""
    try:
        return function()
    except (ValueError, TypeError) as error:
        raise gr.Error(translate(str(error), get_request_language(request)), print_exception=False) from None


def _run_request(
    context: PageContext, request: gr.Request, make_request: Callable[[], AnyRequest]
) -> Iterator[JobResult | None]:
    """The result, after as many None as it takes: a client that leaves is noticed there, and its job ends."""
    job = _call_with_gradio_errors(
        request, lambda: context.queue.submit(make_request(), f"program-{request.session_hash}")
    )
    for event in context.queue.stream_events(job):
        if isinstance(event, Failed):
            raise gr.Error(translate(event.error, get_request_language(request)), print_exception=False)
        yield event.result if isinstance(event, Done) else None


def _cache_files(cache: gr.File, files: Sequence[Path]) -> GradioFiles:
    """Files as Gradio's clients download them."""
    paths = [cache.move_resource_to_block_cache(file) for file in files]
    names = [file.name for file in files]
    return [
        {"path": path, "url": None, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        for path, name in zip(paths, names, strict=True)
    ]


def _make_chat_response(conversation: Conversation, result: JobResult, image: dict[str, Any]) -> dict[str, Any]:
    turn = result.turn
    assert turn is not None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "talk.json"
        conversation.save(path)
        text = path.read_text(encoding="utf-8")
    told = {"prompt": turn.prompt, "changes": list(turn.changes), "hints": list(turn.hints)}
    return {"image": image, **told, "conversation": text}


def parse_image(image: object, limits: ServerLimits) -> Image.Image:
    """A picture in base64, with or without the head of a data URL. Raises: ValueError."""
    text = str(image)
    head, comma, rest = text.partition(",")
    try:
        content = base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the picture is no base64; give a PNG, JPEG or WebP in base64") from None
    return decode_upload(content, limits)


def parse_points(points: object, labels: object) -> list[Point]:
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


def parse_region(number: int, region: object) -> Region:
    """A region as `animate` takes it; all points are meant where no labels are given. Raises: ValueError."""
    if not isinstance(region, dict) or not {"points", "motion"} <= set(region) <= {
        "points",
        "labels",
        "motion",
        "strength",
    }:
        raise ValueError(f"region {number} is no object with points, labels, motion and strength; give those")
    points = region["points"]
    labels = region.get("labels", [1] * len(points) if isinstance(points, list) else [])
    more = {"strength": region["strength"]} if "strength" in region else {}
    return Region(motion=region["motion"], points=parse_points(points, labels), **more)


def predict_mask_from_points(context: PageContext, image: object, points: object, labels: object) -> np.ndarray:
    """bool (H, W)"""
    found = parse_points(points, labels)
    picture = parse_image(image, context.limits)
    return context.engine.predict_mask(picture, [(p.x, p.y) for p in found], [p.positive for p in found])


def parse_conversation(conversation: object, seed: int, context: PageContext) -> Conversation:
    """Go on with a conversation as `talk` gave it, or begin one. Raises: ValueError."""
    if not conversation:
        return context.engine.create_conversation(seed=seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "conversation.json"
        path.write_text(str(conversation), encoding="utf-8", errors="replace")
        try:
            return Conversation.load(path, context.engine.conversation_pipeline)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), path.stem)) from None
