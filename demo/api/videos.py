"""`/v1/videos`: the response is a job, and the finished video is downloaded by its id."""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import get_error_responses, set_field_names
from dianjing.demo.api.job_results import get_result
from dianjing.demo.api.models import ServedModels
from dianjing.demo.api.video_bodies import REQUEST_CONTENT, read_video_body
from dianjing.demo.api.video_objects import MAX_PAGE_SIZE, make_video_list, make_video_object, select_page
from dianjing.demo.errors import JobNotFoundError
from dianjing.demo.jobs import Job
from dianjing.demo.queue import JobQueue
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.demo.results import TRANSPARENT_VIDEO_SUFFIX
from dianjing.demo.video_request_base import VideoRequestBase
from dianjing.errors import DianjingError
from dianjing.pipelines.media.video import ALPHA_EXTENSIONS

VIDEO_KINDS = (TextToVideoRequest.kind, ImageToVideoRequest.kind)
VARIANTS = {
    "video": (".mp4", "video/mp4"),
    "webp": (".webp", "image/webp"),
    "gif": (".gif", "image/gif"),
    "apng": (TRANSPARENT_VIDEO_SUFFIX, "image/apng"),  # of videos with transparent parts alone
}
RESPONSE_CONTENT = {media: {"schema": {"type": "string", "format": "binary"}} for _, media in VARIANTS.values()}
DEFAULT_PAGE_SIZE = 20


def make_video_routes(queue: JobQueue, models: ServedModels, access: AccessControl) -> APIRouter:
    router = APIRouter(prefix="/v1/videos", tags=["videos"])

    def find_job(request: Request, video_id: str) -> Job:
        job = queue.get(video_id, access.get_owner(request))
        if job.request.kind not in VIDEO_KINDS:
            raise JobNotFoundError("job_not_found")
        return job

    def describe(job: Job, request: Request) -> dict[str, Any]:
        return make_video_object(job, request, model=models.name, result_ttl_s=queue.limits.result_ttl_s)

    @router.post(
        "",
        responses=get_error_responses(400, 401, 403, 404, 413, 415, 429, 503),
        openapi_extra={"requestBody": {"required": True, "content": REQUEST_CONTENT}},
    )
    async def create(request: Request) -> dict[str, Any]:
        """Start a video, from a prompt or from an image in which something moves."""
        owner = access.get_owner(request)
        body, upload = await read_video_body(request)
        video_model = models.find_video_model(body.model)
        if body.seconds is not None and body.num_frames is None:
            set_field_names(request, {"num_frames": "seconds × fps"})
        make = partial(body.to_request, queue.limits, upload=upload, video_model=video_model)
        job = await run_in_threadpool(lambda: queue.submit(make(), owner))
        return describe(job, request)

    @router.get("", responses=get_error_responses(400, 401, 403, 404))
    async def list_videos(
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(json_schema_extra={"minimum": 1, "maximum": MAX_PAGE_SIZE})] = DEFAULT_PAGE_SIZE,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """Your videos that have not expired, the newest first unless `order` is asc; `after` is an id."""
        jobs = queue.list_jobs(access.get_owner(request), kinds=VIDEO_KINDS)
        page, has_more = select_page(jobs if order == "asc" else jobs[::-1], after=after, limit=limit)
        return make_video_list([describe(job, request) for job in page], has_more=has_more)

    @router.get("/{video_id}", responses=get_error_responses(401, 403, 404))
    async def retrieve(video_id: str, request: Request) -> dict[str, Any]:
        """The progress of a video."""
        return describe(find_job(request, video_id), request)

    @router.get(
        "/{video_id}/content",
        response_class=Response,
        responses=get_error_responses(400, 401, 403, 404, 409, 500, 503) | {200: {"content": RESPONSE_CONTENT}},
    )
    async def download(video_id: str, request: Request, variant: str = "video") -> Response:
        """The finished video: `variant` video (MP4), webp or gif; apng too if it has transparent parts."""
        return _make_file_response(find_job(request, video_id), variant)

    @router.delete("/{video_id}", responses=get_error_responses(401, 403, 404))
    async def delete(video_id: str, request: Request) -> dict[str, Any]:
        """Cancel a video that is not finished, and delete it."""
        queue.discard(find_job(request, video_id))
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    return router


def _make_file_response(job: Job, variant: str) -> Response:
    files = {path.suffix: path for path in get_result(job).files}
    available = {name: kind for name, kind in VARIANTS.items() if kind[0] in files}
    assert isinstance(job.request, VideoRequestBase)
    if job.request.is_transparent:
        allowed = [name for name, (suffix, _) in available.items() if suffix in ALPHA_EXTENSIONS]
        if variant in available and variant not in allowed:
            raise DianjingError("transparent_video_format", format=variant, allowed=allowed)
    if variant not in available:
        raise DianjingError("unknown_variant", value=ascii(variant)[:40], allowed=list(available))
    suffix, media_type = available[variant]
    return FileResponse(files[suffix], media_type=media_type, filename=files[suffix].name)
