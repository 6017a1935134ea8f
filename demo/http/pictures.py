"""`POST /v1/images/generations`: the answer is the pictures."""

import base64
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from dianjing.demo.http.access import Access
from dianjing.demo.http.bodies import ImageBody
from dianjing.demo.http.faults import documented
from dianjing.demo.http.results import check_model, finish, result_of
from dianjing.demo.jobs import Job
from dianjing.demo.worker import Worker


def picture_routes(worker: Worker, access: Access) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["pictures"])

    @router.post("/images/generations", responses=documented(400, 401, 403, 404, 413, 429, 500, 503))
    async def generate(body: ImageBody, request: Request) -> dict[str, Any]:
        """Draw pictures; they come with their settings and the label for AI-made pictures inside."""
        owner = access.owner(request)
        check_model(body.model, served=worker.studio.abilities.model)
        job = await run_in_threadpool(lambda: worker.submit(body.to_request(), owner))
        try:
            await finish(job, request)
            return await run_in_threadpool(_answer, job)
        finally:
            worker.drop(job)  # handed over, or nobody is there

    return router


def _answer(job: Job) -> dict[str, Any]:
    result = result_of(job)
    data = [
        {"b64_json": base64.b64encode(path.read_bytes()).decode(), "seed": record.seed}
        for path, record in zip(result.files, result.records, strict=True)
    ]
    return {"created": int(job.created_at), "data": data, "unknown_words": list(result.unknown_words)}
