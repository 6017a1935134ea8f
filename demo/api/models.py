"""`/v1/models`: the served model, and the aliases under which clients may ask for it."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from dianjing.demo.api.auth import AccessControl
from dianjing.demo.api.errors import get_error_responses
from dianjing.demo.errors import NotFoundError
from dianjing.demo.limits import ModelCapabilities
from dianjing.weights.description import describe_model


class ServedModels:
    """The names of the one model that a server has: its own, and aliases such as "gpt-image-1"."""

    def __init__(self, capabilities: ModelCapabilities, aliases: Sequence[str] = ()):
        self.capabilities = capabilities
        self.name, self.names = capabilities.model, tuple(dict.fromkeys([capabilities.model, *aliases]))
        self.video_names = tuple(dict.fromkeys(model.name for model in capabilities.video_models))
        self.created = int(time.time())  # the start of the server: weights have no date of their own

    def check(self, name: str | None) -> None:
        """Raise NotFoundError for a model that this server does not have."""
        if name is not None and name not in self.names:
            raise NotFoundError("model_not_served", value=ascii(name)[:60], model=list(self.names))

    def find_video_model(self, name: str | None) -> str | None:
        """Return the name of a published model, or None for the server's own model under any of its names.

        Raises: NotFoundError for a model that this server does not have.
        """
        if name in self.video_names:
            return name
        if name is not None and name not in self.names:
            raise NotFoundError("model_not_served", value=ascii(name)[:60], model=[*self.names, *self.video_names])
        return None

    def describe(self, name: str) -> dict[str, Any]:
        """OpenAI's model object, with what requests to this model may name."""
        if name in self.video_names:
            return self._describe_video_model(name)
        capabilities = self.capabilities
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "dianjing",
            "license": capabilities.licence,
            "sizes": [f"{width}x{height}" for width, height in capabilities.sizes],
            "adapters": {adapter.name: adapter.scale for adapter in capabilities.adapters},
            "controlnets": list(capabilities.controlnets),
            "preprocessors": list(capabilities.preprocessors) if capabilities.controlnets else [],
            "ip_adapter": capabilities.takes_pictures,
        }

    def _describe_video_model(self, name: str) -> dict[str, Any]:
        models = [model for model in self.capabilities.video_models if model.name == name]
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "dianjing",
            "license": describe_model(name, models[0].folder).licence,
            "tasks": [model.pipeline.task for model in models],
        }


def make_model_routes(models: ServedModels, access: AccessControl) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("", responses=get_error_responses(401, 403))
    async def list_models(request: Request) -> dict[str, Any]:
        """The model that this server has, under each of its names."""
        access.get_owner(request)
        return {"object": "list", "data": [models.describe(name) for name in [*models.names, *models.video_names]]}

    @router.get("/{model:path}", responses=get_error_responses(401, 403, 404))
    async def retrieve(model: str, request: Request) -> dict[str, Any]:
        """One model by its name, which may hold slashes."""
        access.get_owner(request)
        models.find_video_model(model)
        return models.describe(model)

    return router
