"""Images as OpenAI's stream of server-sent events: previews while they are generated, and then the finished images."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from dianjing.demo.api.errors import make_error_content
from dianjing.demo.api.job_results import describe_unread_words, get_result, iterate_events
from dianjing.demo.api.schemas import ImageGenerationSchema
from dianjing.demo.edit_request import EditRequest
from dianjing.demo.errors import to_user_error
from dianjing.demo.jobs import Job, Progress
from dianjing.demo.queue import JobQueue
from dianjing.demo.requests import TextToImageRequest

KEEPALIVE_S = 15.0  # a comment this often keeps proxies from cutting a quiet stream
QUALITY_LEVELS = ("low", "medium", "high", "xhigh", "max")
NO_USAGE = {  # nothing is metered in tokens here; clients expect the field
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}


def describe_image_request(job: Job, body: ImageGenerationSchema) -> dict[str, Any]:
    """The fields of a response that repeat how the images were made."""
    request = job.request
    assert isinstance(request, TextToImageRequest)
    described = {
        "size": f"{request.width}x{request.height}",
        "background": "transparent" if request.is_transparent else "opaque",
        "output_format": request.output_format,
    }
    return described | ({"quality": body.quality} if body.quality in QUALITY_LEVELS else {})


class ImageStreamResponse(StreamingResponse):
    """The events of a job; the job ends when they have been sent or the client has left."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, body: ImageGenerationSchema, request: Request, queue: JobQueue):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold events back
        super().__init__(_iterate_sse(job, body, request, queue), headers=headers)


async def _iterate_sse(
    job: Job, body: ImageGenerationSchema, request: Request, queue: JobQueue
) -> AsyncIterator[bytes]:
    """Yield the events as bytes; an error after the start is an event as well."""
    common = {"quality": "auto", **describe_image_request(job, body)}
    name = "image_edit" if isinstance(job.request, EditRequest) else "image_generation"
    try:
        sent_at_s = time.monotonic()
        async for partial in _iterate_previews(job, request, count=body.partial_images or 0):
            if partial is not None:
                index, preview = partial
                content = await run_in_threadpool(_encode_preview, preview, job, queue)
                event = {"b64_json": content, "partial_image_index": index, **common}
                yield _format_event(f"{name}.partial_image", event)
            elif time.monotonic() < sent_at_s + KEEPALIVE_S:
                continue
            else:
                yield b": waiting\n\n"
            sent_at_s = time.monotonic()
        for path, metadata in zip(get_result(job).files, get_result(job).metadata, strict=True):
            content = base64.b64encode(await run_in_threadpool(path.read_bytes)).decode()
            unread = describe_unread_words(get_result(job))
            event = {"b64_json": content, "seed": metadata.seed, "usage": NO_USAGE, **common, **unread}
            yield _format_event(f"{name}.completed", event)
    except Exception as error:
        refused = to_user_error(error, context=job.id)
        yield _format_event("error", {"error": make_error_content(request, refused)})
    finally:
        queue.discard(job)


async def _iterate_previews(job: Job, request: Request, *, count: int) -> AsyncIterator[tuple[int, Image.Image] | None]:
    """Yield `count` previews with their index, spread evenly over the steps, and None while there is nothing new."""
    index, newest = 0, None
    async for event in iterate_events(job, request):
        if (
            isinstance(event, Progress)
            and event.preview is not None
            and event.preview is not newest
            and index < count
            and event.step * (count + 1) >= event.total * (index + 1)
        ):
            newest = event.preview
            yield index, newest
            index += 1
        else:
            yield None


def _encode_preview(preview: Image.Image, job: Job, queue: JobQueue) -> str:
    """Encode a preview in the format of the result, and in its size unless it shows several images."""
    request = job.request
    assert isinstance(request, TextToImageRequest)
    assert request.width is not None
    assert request.height is not None
    if request.num_images == 1:
        preview = preview.resize((request.width, request.height), Image.Resampling.LANCZOS)
    content = queue.results.encode_preview(
        preview,
        visible_label=request.visible_label,
        image_format=request.output_format,
        quality=request.output_compression,
    )
    return base64.b64encode(content).decode()


def _format_event(kind: str, data: dict[str, Any]) -> bytes:
    payload = {"type": kind, **data, "created_at": int(time.time())} if kind != "error" else data
    return f"event: {kind}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()
