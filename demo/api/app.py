"""The HTTP API: images, videos, and the state of the server."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from dianjing import __version__
from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.body_limit import BodyLimitMiddleware
from dianjing.demo.api.docs import render_docs_page
from dianjing.demo.api.errors import add_exception_handlers
from dianjing.demo.api.headers import HeadersMiddleware
from dianjing.demo.api.images import make_image_routes
from dianjing.demo.api.login import AccessMiddleware
from dianjing.demo.api.middleware import OriginMiddleware
from dianjing.demo.api.models import ServedModels, make_model_routes
from dianjing.demo.api.video_bodies import get_video_schemas
from dianjing.demo.api.videos import make_video_routes
from dianjing.demo.limits import ServerLimits
from dianjing.demo.queue import JobQueue


def make_api(queue: JobQueue, access: AccessControl, *, aliases: Sequence[str] = ()) -> FastAPI:
    """Make the FastAPI app; the page can be mounted on it, and `add_middleware` comes last.

    `aliases` are further names of the model.
    """
    app = FastAPI(
        title="Dianjing 点睛",
        version=__version__,
        description="Images and videos from prompts in Chinese or English, and videos from images with clicks.",
        docs_url=None,  # FastAPI's own pages load scripts from other servers
        redoc_url=None,
    )
    add_exception_handlers(app)
    models = ServedModels(queue.engine.capabilities, aliases)
    for router in (
        make_image_routes(queue, models, access),
        make_video_routes(queue, models, access),
        make_model_routes(models, access),
        _make_status_routes(queue),
    ):
        app.include_router(router)
    generate_schema = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate_schema()
        schema["components"]["schemas"].update(get_video_schemas())
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it
    return app


def add_middleware(app: FastAPI, limits: ServerLimits, access: AccessControl, *, head: str = "") -> None:
    """Add the checks that every request passes before any route sees it; the last one added runs first.

    head: HTML that the page inserts into its head.
    """
    app.add_middleware(BodyLimitMiddleware, limits=limits)
    if access.requires_key:
        app.add_middleware(AccessMiddleware, access=access)  # before the body is read
    if access.origins:
        app.add_middleware(CORSMiddleware, allow_origins=access.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(OriginMiddleware, access=access)
    app.add_middleware(HeadersMiddleware, head=head)


def _make_status_routes(queue: JobQueue) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.get("/healthz", responses={503: {"description": "The server is stopping."}})
    async def healthz() -> JSONResponse:
        """The state of the server, and the length of its queue."""
        state = {"status": "ok" if queue.is_alive else "stopping", "queue": queue.queue_length}
        return JSONResponse(state, status_code=200 if queue.is_alive else 503)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(queue.metrics.to_prometheus_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(render_docs_page(request.app.openapi()))

    return router
