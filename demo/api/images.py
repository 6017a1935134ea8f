"""`/v1/images/generations`, `edits` and `variations`, and the addresses of images for clients that ask for them."""

import base64
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.edit_bodies import (
    ImageEditSchema,
    ImageVariationSchema,
    get_edit_content,
    make_edit_request,
    make_variation_request,
    read_edit_form,
)
from dianjing.demo.api.errors import get_error_responses
from dianjing.demo.api.image_stream import ImageStreamResponse, describe_image_request
from dianjing.demo.api.job_results import describe_unread_words, get_result, render_warnings, wait_for_job
from dianjing.demo.api.login import RESULTS_PREFIX
from dianjing.demo.api.models import ServedModels
from dianjing.demo.api.schemas import ImageGenerationSchema
from dianjing.demo.errors import JobNotFoundError
from dianjing.demo.jobs import JobResult
from dianjing.demo.queue import JobQueue
from dianjing.demo.requests import TextToImageRequest
from dianjing.pipelines.media.image_file import FORMAT_BY_EXTENSION, IMAGE_OUTPUT_FORMATS

BINARY_CONTENT: dict[str, Any] = {
    f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in IMAGE_OUTPUT_FORMATS
}
STREAM_CONTENT = {"text/event-stream": {"schema": {"type": "string", "description": "With stream: true."}}}
IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    **get_error_responses(400, 401, 403, 404, 413, 415, 429, 500, 503),
    200: {"content": STREAM_CONTENT},
}


def make_image_routes(queue: JobQueue, models: ServedModels, access: AccessControl) -> APIRouter:
    router = APIRouter(tags=["images"])

    respond = partial(_respond, queue=queue, models=models, access=access)

    @router.post("/v1/images/generations", response_model=None, responses=IMAGE_RESPONSES)
    async def generate(body: ImageGenerationSchema, request: Request) -> dict[str, Any] | Response:
        """Generate images; the files hold their settings and the label of AI-generated images."""
        return await respond(body, request, lambda: body.to_request(queue.limits))

    @router.post(
        "/v1/images/edits",
        response_model=None,
        responses=IMAGE_RESPONSES,
        openapi_extra=get_edit_content(ImageEditSchema),
    )
    async def edit(request: Request) -> dict[str, Any] | Response:
        """Edit an image: what is transparent in the mask, or else in the image, or all of it."""
        access.get_owner(request)
        body, files = await read_edit_form(request, ImageEditSchema, queue.limits)
        return await respond(body, request, lambda: make_edit_request(body, files, queue.limits))

    @router.post(
        "/v1/images/variations",
        response_model=None,
        responses=IMAGE_RESPONSES,
        openapi_extra=get_edit_content(ImageVariationSchema),
    )
    async def vary(request: Request) -> dict[str, Any] | Response:
        """Generate variations of an image."""
        access.get_owner(request)
        body, files = await read_edit_form(request, ImageVariationSchema, queue.limits)
        return await respond(body, request, lambda: make_variation_request(body, files, queue.limits))

    @router.get(
        f"{RESULTS_PREFIX}/{{job_id}}/{{name}}",
        response_class=Response,
        responses=get_error_responses(403, 404) | {200: {"content": BINARY_CONTENT}},
    )
    async def image(job_id: str, name: str) -> Response:
        """An image whose address the client was given; it needs no key, and expires with the result."""
        path = next((path for path in get_result(queue.get_public(job_id)).files if path.name == name), None)
        if path is None:
            raise JobNotFoundError("job_not_found")
        media_type = f"image/{FORMAT_BY_EXTENSION[path.suffix]}"
        return FileResponse(path, media_type=media_type, filename=path.name, content_disposition_type="inline")

    return router


def _encode_files(result: JobResult) -> list[str]:
    return [base64.b64encode(path.read_bytes()).decode() for path in result.files]


async def _respond(
    body: ImageGenerationSchema,
    request: Request,
    make_request: Callable[[], TextToImageRequest],
    *,
    queue: JobQueue,
    models: ServedModels,
    access: AccessControl,
) -> dict[str, Any] | Response:
    """Run the request that a body becomes, and respond with its images, or with the stream of their previews."""
    owner = access.get_owner(request)
    models.check(body.model)
    job = await run_in_threadpool(lambda: queue.submit(make_request(), owner))
    if body.stream:
        return ImageStreamResponse(job, body, request, queue)
    try:
        await wait_for_job(job, request)
        result = get_result(job)
        if body.response_format == "url":
            job.has_public_files = True
            contents = [str(request.url_for("image", job_id=job.id, name=path.name)) for path in result.files]
        else:
            contents = await run_in_threadpool(_encode_files, result)
    finally:
        if not job.has_public_files:
            queue.discard(job)  # the response holds the files, or the client has left
    data = [
        {body.response_format or "b64_json": content, "seed": metadata.seed}
        for content, metadata in zip(contents, result.metadata, strict=True)
    ]
    described = describe_image_request(job, body)
    hints = {**describe_unread_words(result), "warnings": render_warnings(job, request)}
    return {"created": int(job.created_at), "data": data, **described, **hints}
