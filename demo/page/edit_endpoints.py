"""Endpoints for programs that edit an image, or make variations of it."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from dianjing.demo.edit_request import EditRequest, read_variation_prompt
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.endpoint_arguments import parse_points
from dianjing.demo.page.endpoint_runs import GradioFiles, generate_files
from dianjing.demo.uploads import decode_base64, decode_upload, decode_upload_as
from dianjing.pipelines.editing.edit import DEFAULT_VARIATION_STRENGTH, ImageEdit
from dianjing.pipelines.editing.extension import parse_extension
from dianjing.pipelines.media.mask import select_white


def make_edit_endpoint(context: PageContext, cache: gr.File) -> Callable[..., Any]:
    """Make the endpoint of edits."""

    def edit(
        request: gr.Request,
        image: str,
        prompt: str,
        mask: str | None = None,
        points: list[list[float]] | None = None,
        labels: list[int] | None = None,
        words: str | None = None,
        extend: str | None = None,
        strength: float | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_mode: str | None = None,
        scheduler: str | None = None,
        seed: int | None = None,
        num_images: int = 1,
        slow: bool | None = None,
    ) -> Iterator[GradioFiles]:
        """Edit an image: what a mask, points or words select, beyond its border, or all of it; the files are PNG."""

        def make_request() -> EditRequest:
            part = ImageEdit(
                image=decode_upload(decode_base64(image), context.limits),
                mask=None if mask is None else decode_upload_as(decode_base64(mask), context.limits, select_white),
                points=parse_points(points, [1] * len(points) if labels is None else labels) if points else (),
                words=words,
                extension=None if extend is None else parse_extension([extend]),
                strength=strength,
            )
            return EditRequest(
                prompt=prompt,
                edit=part,
                negative_prompt=negative_prompt,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                guidance_mode=guidance_mode,
                scheduler=scheduler,
                seed=seed,
                num_images=num_images,
                slow=slow,
            )

        yield from generate_files(context, cache, request, make_request)

    return edit


def make_variations_endpoint(context: PageContext, cache: gr.File) -> Callable[..., Any]:
    """Make the endpoint of variations."""

    def variations(
        request: gr.Request,
        image: str,
        prompt: str | None = None,
        strength: float = DEFAULT_VARIATION_STRENGTH,
        num_inference_steps: int | None = None,
        seed: int | None = None,
        num_images: int = 1,
        slow: bool | None = None,
    ) -> Iterator[GradioFiles]:
        """Generate variations of an image; one that was generated here brings its prompt along."""

        def make_request() -> EditRequest:
            content = decode_base64(image)
            part = ImageEdit(image=decode_upload(content, context.limits), strength=strength)
            return EditRequest(
                prompt=read_variation_prompt(content) if prompt is None else prompt,
                edit=part,
                num_inference_steps=num_inference_steps,
                seed=seed,
                num_images=num_images,
                slow=slow,
            )

        yield from generate_files(context, cache, request, make_request)

    return variations
