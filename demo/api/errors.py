"""Error responses in OpenAI's shape and the caller's language, without details of the server."""

import json
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from dianjing.demo.api.schemas import ImageGenerationSchema, VideoSchema
from dianjing.demo.errors import ApiError, NotFoundError, get_status, to_user_error
from dianjing.demo.i18n.translation import parse_accept_language, render_for_http
from dianjing.errors import DianjingError, Message

ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
FIELD_NAMES = {*ImageGenerationSchema.model_fields, *VideoSchema.model_fields}
SIZE_PARAMETERS = {"width", "height"}  # parts of the field size
MAX_VALUE_CHARS = 60
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What was given, what is allowed, what to do."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
EXPECTED_TYPES = {  # the first part of the name of pydantic's error -> what to give
    "int": Message("expected_integer"),
    "float": Message("expected_number"),
    "finite": Message("expected_number"),
    "string": Message("expected_string"),
    "bool": Message("expected_boolean"),
    "list": Message("value_list"),
    "model": Message("value_object"),
    "dict": Message("value_object"),
}


def error_response(
    request: HTTPConnection, error: DianjingError, *, status: int | None = None, param: str | None = None
) -> JSONResponse:
    """Make the response for an error; its own status and parameter are used unless others are given."""
    if status is None:
        status = get_status(error)
    language = parse_accept_language(request.headers.get("accept-language", ""))
    content = {
        "message": render_for_http(error, language),
        "type": ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": param or _find_param(error),
        "code": HTTPStatus(status).phrase.lower().replace(" ", "_"),
    }
    headers: dict[str, str] = {"Content-Language": language}
    if status == 429:
        headers["Retry-After"] = "10"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": content}, status_code=status, headers=headers)


def get_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error responses in the OpenAPI schema."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": ERROR_SCHEMA}}}
        for status in statuses
    }


def add_exception_handlers(app: FastAPI) -> None:
    """Turn every exception of the app into an error response."""

    @app.exception_handler(DianjingError)
    async def handle_refused(request: Request, error: DianjingError) -> JSONResponse:
        return error_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def handle_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error_response(request, error.errors()[0])

    @app.exception_handler(HTTPException)
    async def handle_http(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(request, _convert_http_exception(error), status=error.status_code)

    @app.exception_handler(Exception)
    async def handle_internal(request: Request, error: Exception) -> JSONResponse:
        return error_response(request, to_user_error(error, context=f"{request.method} {request.url.path}"))


def validation_error_response(request: Request, error: Any) -> JSONResponse:
    """Make the response for one of pydantic's errors."""
    field = ".".join(str(part) for part in error["loc"] if part != "body")
    param = field.split(".")[0][:MAX_VALUE_CHARS] or None
    return error_response(request, _convert_validation_error(error, field), param=param)


def _convert_validation_error(error: Any, field: str) -> DianjingError:
    kind, value = error["type"], _format_value(error.get("input"))
    name = field or Message("request_body")
    if kind == "json_invalid":
        return DianjingError("body_not_json")
    if kind == "extra_forbidden":
        return DianjingError("unknown_field", field=ascii(field)[1 : MAX_VALUE_CHARS + 1].rstrip("'"))
    if kind == "missing":
        return DianjingError("field_missing", name=name)
    if kind == "literal_error":
        return DianjingError(
            "field_not_allowed", name=name, value=value, allowed=re.findall(r"'([^']*)'", error["ctx"]["expected"])
        )
    if kind == "string_unicode":
        return DianjingError("field_not_unicode", name=name)
    expected = EXPECTED_TYPES.get(kind.split("_")[0], Message("expected_documented"))
    return DianjingError("field_wrong_type", name=name, value=value, expected=expected)


def _convert_http_exception(error: HTTPException) -> DianjingError:
    if error.status_code == 404:
        return NotFoundError("route_not_found")
    if error.status_code == 405:
        return ApiError("method_not_allowed")
    return ApiError("body_unreadable")  # the other exceptions of FastAPI


def _format_value(value: object) -> str | Message:
    """Format a value short and printable; objects and lists are only named."""
    if isinstance(value, dict):
        return Message("value_object")
    if isinstance(value, list):
        return Message("value_list")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = ascii(value) if isinstance(value, str) else repr(value) if not isinstance(value, bytes) else "bytes"
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 3]}..."


def _find_param(error: DianjingError) -> str | None:
    """The field of the body that a message starts with, if any."""
    first_word = render_for_http(error, "en").split(" ", 1)[0]
    if first_word in SIZE_PARAMETERS:
        return "size"
    return first_word if first_word in FIELD_NAMES else None
