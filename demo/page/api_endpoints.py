"""Endpoints for programs, by `gradio_client` or MCP: the work of each tab with plain arguments.

Images go in as base64 and come out as files; points are in pixels of the image.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import gradio as gr
import numpy as np
from PIL import Image

from dianjing.demo.jobs import JobResult
from dianjing.demo.page.chat_sessions import load_conversation
from dianjing.demo.page.context import MAX_CONCURRENT_JOB_EVENTS, PageContext
from dianjing.demo.page.edit_endpoints import make_edit_endpoint, make_variations_endpoint
from dianjing.demo.page.endpoint_arguments import RegionArguments, document_arguments, parse_points, parse_region
from dianjing.demo.page.endpoint_runs import (
    GradioFiles,
    cache_files,
    call_with_gradio_errors,
    generate_files,
    run_request,
)
from dianjing.demo.requests import (
    AnyRequest,
    ConversationRequest,
    ImageToVideoRequest,
    TextToImageRequest,
    TextToVideoRequest,
)
from dianjing.demo.uploads import decode_base64_image, decode_base64_image_with_alpha
from dianjing.pipelines.conversation.parsing.base import detect_language
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.validation import Refine


def connect_api_endpoints(context: PageContext) -> None:
    """Define the endpoints inside the page's `gr.Blocks`; a parameter that is left out is left to the model."""
    cache = gr.File(visible=False)  # Gradio serves the files that a component has cached, and expires them
    capabilities = context.capabilities
    endpoints: dict[str, Callable[..., Any]] = {
        "image": _make_image_endpoint(context, cache),
        "edit": make_edit_endpoint(context, cache),
        "variations": make_variations_endpoint(context, cache),
    }
    if capabilities.has_task("image-to-video"):
        endpoints["animate"] = _make_animate_endpoint(context, cache)
    if capabilities.has_task("text-to-video"):
        endpoints["video"] = _make_video_endpoint(context, cache)
    if capabilities.can_chat:
        endpoints["chat"] = _make_chat_endpoint(context, cache)
    for name, endpoint in endpoints.items():
        gr.api(
            document_arguments(endpoint),
            api_name=name,
            concurrency_id="jobs",
            concurrency_limit=MAX_CONCURRENT_JOB_EVENTS,
        )
    if "animate" in endpoints:
        mask_endpoint = document_arguments(_make_mask_endpoint(context, cache))
        gr.api(mask_endpoint, api_name="mask", concurrency_id="masks", concurrency_limit=1)


def _make_image_endpoint(context: PageContext, cache: gr.File) -> Callable[..., Any]:
    def image(
        request: gr.Request,
        prompt: str,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_mode: str | None = None,
        scheduler: str | None = None,
        seed: int | None = None,
        num_images: int = 1,
        slow: bool | None = None,
    ) -> Iterator[GradioFiles]:
        """Generate images; the PNG files hold their settings."""
        make_request = partial(
            TextToImageRequest,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_mode=guidance_mode,
            scheduler=scheduler,
            seed=seed,
            num_images=num_images,
            slow=slow,
        )
        yield from generate_files(context, cache, request, make_request)

    return image


def _make_video_endpoint(context: PageContext, cache: gr.File) -> Callable[..., Any]:
    def video(
        request: gr.Request,
        prompt: str,
        seconds: float | None = None,
        num_frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_mode: str | None = None,
        scheduler: str | None = None,
        seed: int | None = None,
        video_model: str | None = None,
    ) -> Iterator[GradioFiles]:
        """Generate a video from a prompt; the files are MP4, WebP and GIF."""
        make_request = partial(
            TextToVideoRequest,
            prompt=prompt,
            negative_prompt=negative_prompt,
            duration_s=seconds,
            num_frames=num_frames,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_mode=guidance_mode,
            scheduler=scheduler,
            seed=seed,
            video_model=video_model or None,
        )
        yield from generate_files(context, cache, request, make_request)

    return video


def _make_animate_endpoint(context: PageContext, cache: gr.File) -> Callable[..., Any]:
    def animate(
        request: gr.Request,
        image: str,
        regions: list[RegionArguments],
        prompt: str = "",
        num_frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_mode: str | None = None,
        scheduler: str | None = None,
        seed: int | None = None,
        refine: str = "auto",
        video_model: str | None = None,
        strict_background: bool = True,
    ) -> Iterator[GradioFiles]:
        """Animate regions of an image; the files are MP4, WebP and GIF, of a transparent image also APNG.

        A region is {"points": [[30, 40]], "labels": [1], "motion": "jump", "strength": 0.5}: points x, y in pixels,
        label 1 for what should move and 0 for what should not. In place of a motion, or besides it: "path", points of
        a smooth curve that it follows, with "times" from 0 to 1 for each of them; "turn" in degrees, "scale" at the
        end, "anchor" [x, y] where it joins the rest. Without points, "target": "image" moves all of it, like a camera.
        """

        def make_request() -> AnyRequest:
            parsed = [parse_region(number, region) for number, region in enumerate(regions, start=1)]
            return ImageToVideoRequest(
                image=decode_base64_image_with_alpha(image, context.limits),
                regions=parsed,
                prompt=prompt,
                num_frames=num_frames,
                width=width,
                height=height,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                guidance_mode=guidance_mode,
                scheduler=scheduler,
                seed=seed,
                refine=cast(Refine, refine),
                video_model=video_model or None,
                strict_background=strict_background,
            )

        yield from generate_files(context, cache, request, make_request)

    return animate


def _make_mask_endpoint(context: PageContext, cache: gr.File) -> Callable[..., Any]:
    def mask(request: gr.Request, image: str, points: list[list[float]], labels: list[int]) -> dict[str, Any]:
        """Show what clicks select in an image: white is selected."""

        def predict_mask() -> np.ndarray:
            parsed = parse_points(points, labels)
            picture = decode_base64_image(image, context.limits)
            coordinates, is_positive = [(point.x, point.y) for point in parsed], [point.positive for point in parsed]
            return context.engine.predict_mask(picture, coordinates, is_positive)

        selected = call_with_gradio_errors(request, predict_mask)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "mask.png"
            Image.fromarray(selected.astype(np.uint8) * 255).save(path)
            return cache_files(cache, [path])[0]

    return mask


def _make_chat_endpoint(context: PageContext, cache: gr.File) -> Callable[..., Any]:
    def chat(
        request: gr.Request, text: str, conversation: str = "", seed: int = 0, slow: bool | None = None
    ) -> Iterator[dict[str, Any]]:
        """Send a message to a conversation that generates and edits an image."""
        loaded = call_with_gradio_errors(request, lambda: _parse_conversation(conversation, seed, slow, context))
        make_request = partial(ConversationRequest, conversation=loaded, text=text)
        for result in run_request(context, request, make_request, error_language=detect_language(text)):
            if result is None:
                yield {}
            else:
                yield _make_chat_response(loaded, result, cache_files(cache, result.files)[0])

    return chat


def _make_chat_response(conversation: Conversation, result: JobResult, image: dict[str, Any]) -> dict[str, Any]:
    turn = result.turn
    assert turn is not None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "conversation.json"
        conversation.save(path)
        text = path.read_text(encoding="utf-8")
    return {
        "image": image,
        "prompt": turn.prompt,
        "changes": list(turn.changes),
        "hints": list(turn.hints),
        "conversation": text,
    }


def _parse_conversation(conversation: object, seed: int, slow: bool | None, context: PageContext) -> Conversation:
    """Load the conversation of a previous response, or create one. Raises: DianjingError."""
    if not conversation:
        return context.engine.create_conversation(seed=seed, slow=slow)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "conversation.json"
        path.write_text(str(conversation), encoding="utf-8", errors="replace")
        loaded = load_conversation(path, context)
    if slow is not None:
        loaded.slow = slow
    return loaded
