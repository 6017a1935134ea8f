"""`POST /v1/images/generations`: the response holds the images."""

import base64
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import get_error_responses
from dianjing.demo.api.job_results import check_model, get_result, wait_for_job
from dianjing.demo.api.schemas import ImageGenerationSchema
from dianjing.demo.jobs import Job
from dianjing.demo.queue import JobQueue


def make_image_routes(queue: JobQueue, access: AccessControl) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["images"])

    @router.post("/images/generations", responses=get_error_responses(400, 401, 403, 404, 413, 429, 500, 503))
    async def generate(body: ImageGenerationSchema, request: Request) -> dict[str, Any]:
        """Generate images; the PNG files hold their settings and the label of AI-generated images."""
        owner = access.get_owner(request)
        check_model(body.model, served=queue.engine.capabilities.model)
        job = await run_in_threadpool(lambda: queue.submit(body.to_request(), owner))
        try:
            await wait_for_job(job, request)
            return await run_in_threadpool(_make_response, job)
        finally:
            queue.discard(job)  # the response holds the files, or the client has left

    return router


def _make_response(job: Job) -> dict[str, Any]:
    result = get_result(job)
    data = [
        {"b64_json": base64.b64encode(path.read_bytes()).decode(), "seed": metadata.seed}
        for path, metadata in zip(result.files, result.metadata, strict=True)
    ]
    return {"created": int(job.created_at), "data": data, "unknown_words": list(result.unknown_words)}
