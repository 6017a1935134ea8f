"""Jobs as OpenAI's video objects, and pages of them."""

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from dianjing.demo.api.errors import get_caller_language
from dianjing.demo.api.job_results import OPENAI_STATUSES, describe_unread_words, get_result, render_warnings
from dianjing.demo.errors import JobNotFoundError, get_cause
from dianjing.demo.i18n.translation import render_for_http
from dianjing.demo.jobs import Cancelled, Done, Failed, Job, Progress
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.errors import DianjingError
from dianjing.pipelines.validation import check_int

MAX_PAGE_SIZE = 100


def make_video_object(job: Job, request: Request, *, model: str, result_ttl_s: float) -> dict[str, Any]:
    """OpenAI's video object of a job, with the parameters that it was generated from."""
    event, video = job.last_event, job.request
    assert isinstance(video, TextToVideoRequest | ImageToVideoRequest)
    assert video.num_frames is not None
    assert video.fps is not None
    progress = 100 if job.state == "done" else 0
    if isinstance(event, Progress):
        progress = min(99, 100 * event.step // event.total)
    completed_at = _get_completion_time(job)
    return {
        "id": job.id,
        "object": "video",
        "created_at": int(job.created_at),
        "completed_at": completed_at,
        "expires_at": None if completed_at is None else completed_at + int(result_ttl_s),
        "status": OPENAI_STATUSES[job.state],
        "model": getattr(job.request, "video_model", None) or model,
        "progress": progress,
        "position": getattr(event, "position", None),
        "prompt": video.prompt or None,
        "seconds": f"{video.num_frames / video.fps:g}",
        "num_frames": video.num_frames,
        "fps": video.fps,
        "size": f"{video.width}x{video.height}",
        "seed": video.seed,
        "predicted_seconds": round(job.predicted_s, 1),
        "warnings": render_warnings(job, request),
        **describe_unread_words(event.result if isinstance(event, Done) else None),
        "remixed_from_video_id": None,
        "error": _make_job_error(job, request),
    }


def select_page(jobs: Sequence[Job], *, after: str | None, limit: int) -> tuple[list[Job], bool]:
    """The jobs of one page, after the one with the id `after`, and whether there are more.

    Raises: JobNotFoundError if there is no job `after`; DianjingError for a limit out of range.
    """
    check_int(limit, "limit", low=1, high=MAX_PAGE_SIZE)
    ids = [job.id for job in jobs]
    if after is not None and after not in ids:
        raise JobNotFoundError("job_not_found")
    first = 0 if after is None else ids.index(after) + 1
    return list(jobs[first : first + limit]), len(jobs) > first + limit


def make_video_list(videos: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list object of one page of videos."""
    first_id, last_id = (videos[0]["id"], videos[-1]["id"]) if videos else (None, None)
    return {"object": "list", "data": videos, "first_id": first_id, "last_id": last_id, "has_more": has_more}


def _get_completion_time(job: Job) -> int | None:
    """When a job ended, in seconds since 1970, or None; ages are measured on the monotonic clock."""
    if job.finished_at_s is None:
        return None
    return int(time.time() - (time.monotonic() - job.finished_at_s))


def _make_job_error(job: Job, request: Request) -> dict[str, Any] | None:
    """OpenAI's error of a video that has failed or was cancelled."""
    event = job.last_event
    if isinstance(event, Failed):
        return {"code": get_cause(event.error), "message": render_for_http(event.error, get_caller_language(request))}
    if isinstance(event, Cancelled):
        try:
            get_result(job)
        except DianjingError as error:
            return {"code": "cancelled", "message": render_for_http(error, get_caller_language(request))}
    return None
