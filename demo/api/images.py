"""`POST /v1/images/generations`, and the addresses of images for clients that ask for them in place of base64."""

import base64
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import get_error_responses
from dianjing.demo.api.image_stream import ImageStreamResponse, describe_image_request
from dianjing.demo.api.job_results import describe_unread_words, get_result, render_warnings, wait_for_job
from dianjing.demo.api.login import RESULTS_PREFIX
from dianjing.demo.api.models import ServedModels
from dianjing.demo.api.schemas import ImageGenerationSchema
from dianjing.demo.errors import JobNotFoundError
from dianjing.demo.jobs import JobResult
from dianjing.demo.queue import JobQueue
from dianjing.pipelines.media.image_file import FORMAT_BY_EXTENSION, IMAGE_OUTPUT_FORMATS

BINARY_CONTENT: dict[str, Any] = {
    f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in IMAGE_OUTPUT_FORMATS
}
STREAM_CONTENT = {"text/event-stream": {"schema": {"type": "string", "description": "With stream: true."}}}


def make_image_routes(queue: JobQueue, models: ServedModels, access: AccessControl) -> APIRouter:
    router = APIRouter(tags=["images"])

    @router.post(
        "/v1/images/generations",
        response_model=None,
        responses=get_error_responses(400, 401, 403, 404, 413, 429, 500, 503) | {200: {"content": STREAM_CONTENT}},
    )
    async def generate(body: ImageGenerationSchema, request: Request) -> dict[str, Any] | Response:
        """Generate images; the files hold their settings and the label of AI-generated images."""
        owner = access.get_owner(request)
        models.check(body.model)
        job = await run_in_threadpool(lambda: queue.submit(body.to_request(queue.limits), owner))
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
