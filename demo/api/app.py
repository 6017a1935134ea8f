"""All addresses for programs."""

from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from dianjing import __version__
from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.docs import render_docs_page
from dianjing.demo.api.errors import add_exception_handlers
from dianjing.demo.api.images import make_image_routes
from dianjing.demo.api.middleware import BodyLimitMiddleware, OriginMiddleware
from dianjing.demo.api.videos import get_video_schemas, make_video_routes
from dianjing.demo.queue import JobQueue


def make_api(worker: JobQueue, access: AccessControl) -> FastAPI:
    """The app; the page can be mounted beside it."""
    app = FastAPI(
        title="Dianjing 点睛",
        version=__version__,
        description="Words in Chinese or English become pictures and films; a click lets a part of a picture move.",
        docs_url=None,  # FastAPI's own pages fetch their scripts from outside
        redoc_url=None,
    )
    add_exception_handlers(app)
    app.add_middleware(BodyLimitMiddleware, max_bytes=worker.limits.max_body_bytes)
    if access.origins:
        app.add_middleware(CORSMiddleware, allow_origins=access.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(OriginMiddleware, access=access)  # the last stands outside of all
    for routes in (make_image_routes(worker, access), make_video_routes(worker, access), _make_status_routes(worker)):
        app.include_router(routes)
    own = app.openapi

    def openapi() -> dict[str, Any]:
        schema = own()
        schema["components"]["schemas"].update(get_video_schemas())
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it
    return app


def _make_status_routes(worker: JobQueue) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that this server has."""
        model = {"id": worker.engine.capabilities.model, "object": "model", "owned_by": "dianjing"}
        return {"object": "list", "data": [model]}

    @router.get("/healthz", responses={503: {"description": "Nothing is drawn any more."}})
    async def healthz() -> JSONResponse:
        """Whether requests are drawn, and how many wait."""
        state = {"status": "ok" if worker.is_alive else "stopping", "queue": worker.queue_length}
        return JSONResponse(state, status_code=200 if worker.is_alive else 503)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(worker.metrics.to_prometheus_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(render_docs_page(request.app.openapi()))

    return router
