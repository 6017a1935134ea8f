"""`/v1/videos`: the response is a job, and the finished video is downloaded by its id."""

import json
from typing import Any

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import get_error_responses
from dianjing.demo.api.job_results import OPENAI_STATUSES, check_model, get_result
from dianjing.demo.api.schemas import VideoSchema
from dianjing.demo.errors import JobNotFoundError, UnsupportedMediaTypeError, get_cause
from dianjing.demo.i18n.translation import parse_accept_language, render_for_http
from dianjing.demo.jobs import Failed, Job, Progress
from dianjing.demo.queue import JobQueue
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.errors import DianjingError

VARIANTS = {"video": (".mp4", "video/mp4"), "webp": (".webp", "image/webp"), "gif": (".gif", "image/gif")}
TEXT_FIELDS = (
    "prompt",
    "negative_prompt",
    "model",
    "size",
    "user",
    "image",
    "long_video",
    "seconds",
)  # strings in a form, too
MULTIPART_SCHEMA = {
    "type": "object",
    "description": "The same fields, the image as a file, and `regions` as JSON.",
    "properties": {
        "prompt": {"type": "string"},
        "input_reference": {"type": "string", "format": "binary", "description": "The image to animate."},
        "regions": {"type": "string", "examples": ['[{"motion": "jump", "points": [{"x": 30, "y": 40}]}]']},
        "seconds": {"type": "string"},
        "size": {"type": "string"},
        "seed": {"type": "string"},
    },
}
REQUEST_CONTENT = {
    "application/json": {"schema": {"$ref": "#/components/schemas/VideoSchema"}},
    "multipart/form-data": {"schema": MULTIPART_SCHEMA},
}
RESPONSE_CONTENT = {media: {"schema": {"type": "string", "format": "binary"}} for _, media in VARIANTS.values()}


def make_video_routes(queue: JobQueue, access: AccessControl) -> APIRouter:
    router = APIRouter(prefix="/v1/videos", tags=["videos"])
    model = queue.engine.capabilities.model

    def find_job(request: Request, video_id: str) -> Job:
        return _check_is_video(queue.get(video_id, access.get_owner(request)))

    @router.post(
        "",
        responses=get_error_responses(400, 401, 403, 404, 413, 415, 429, 503),
        openapi_extra={"requestBody": {"required": True, "content": REQUEST_CONTENT}},
    )
    async def create(request: Request) -> dict[str, Any]:
        """Start a video, from a prompt or from an image whose regions move."""
        owner = access.get_owner(request)
        body, upload = await _read_body(request)
        check_model(body.model, served=model)
        job = await run_in_threadpool(lambda: queue.submit(body.to_request(queue.limits, upload=upload), owner))
        return _to_openai_video(job, request, model=model)

    @router.get("/{video_id}", responses=get_error_responses(401, 403, 404))
    async def retrieve(video_id: str, request: Request) -> dict[str, Any]:
        """The progress of a video."""
        return _to_openai_video(find_job(request, video_id), request, model=model)

    @router.get(
        "/{video_id}/content",
        response_class=Response,
        responses=get_error_responses(400, 401, 403, 404, 409, 500, 503) | {200: {"content": RESPONSE_CONTENT}},
    )
    async def download(video_id: str, request: Request, variant: str = "video") -> Response:
        """The finished video: `variant` video (MP4), webp or gif; the last two are stickers."""
        return _make_file_response(find_job(request, video_id), variant)

    @router.delete("/{video_id}", responses=get_error_responses(401, 403, 404))
    async def delete(video_id: str, request: Request) -> dict[str, Any]:
        """Cancel a video that is not finished, and delete it."""
        queue.discard(find_job(request, video_id))
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    return router


def _check_is_video(job: Job) -> Job:
    if job.request.kind not in (TextToVideoRequest.kind, ImageToVideoRequest.kind):
        raise JobNotFoundError("job_not_found")
    return job


def _make_file_response(job: Job, variant: str) -> Response:
    if variant not in VARIANTS:
        raise DianjingError("unknown_variant", value=ascii(variant)[:40], allowed=list(VARIANTS))
    suffix, media_type = VARIANTS[variant]
    path = next(path for path in get_result(job).files if path.suffix == suffix)
    return FileResponse(path, media_type=media_type, filename=path.name)


def get_video_schemas() -> dict[str, Any]:
    """OpenAPI schemas of `VideoSchema`, which FastAPI does not see, as the body is JSON or a form."""
    schema = VideoSchema.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "VideoSchema": schema}


async def _read_body(request: Request) -> tuple[VideoSchema, bytes | None]:
    """The body, and the image if it came as a file."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return VideoSchema.model_validate_json(await request.body()), None
        if kind == "multipart/form-data":
            return await _read_form(request)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    raise UnsupportedMediaTypeError("content_type_not_supported", content_type=ascii(kind)[:60])


async def _read_form(request: Request) -> tuple[VideoSchema, bytes | None]:
    fields: dict[str, Any] = {}
    upload = None
    async with request.form(max_files=1, max_fields=len(VideoSchema.model_fields)) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "input_reference":
                    raise DianjingError("unknown_file_field", field=ascii(name)[:60])
                upload = await value.read()
            else:
                fields[name] = value if name in TEXT_FIELDS else _parse_form_value(value)
    return VideoSchema.model_validate(fields), upload


def _parse_form_value(text: str) -> Any:
    """A number or a list of regions from a form; any other text is returned as it is, and refused later."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _to_openai_video(job: Job, request: Request, *, model: str) -> dict[str, Any]:
    """A job as OpenAI's video object."""
    event, video = job.last_event, job.request
    assert isinstance(video, TextToVideoRequest | ImageToVideoRequest)
    assert video.num_frames is not None
    assert video.fps is not None
    progress = 100 if job.state == "done" else 0
    if isinstance(event, Progress):
        progress = min(99, 100 * event.step // event.total)
    error = None
    if isinstance(event, Failed):
        language = parse_accept_language(request.headers.get("accept-language", ""))
        error = {"code": get_cause(event.error), "message": render_for_http(event.error, language)}
    return {
        "id": job.id,
        "object": "video",
        "created_at": int(job.created_at),
        "status": OPENAI_STATUSES[job.state],
        "model": model,
        "progress": progress,
        "position": getattr(event, "position", None),
        "seconds": f"{video.num_frames / video.fps:g}",
        "num_frames": video.num_frames,
        "fps": video.fps,
        "size": f"{video.width}x{video.height}",
        "seed": video.seed,
        "error": error,
    }
