"""Error responses in OpenAI's shape and the caller's language, without details of the server."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from dianjing.demo.api.edit_bodies import ImageEditSchema
from dianjing.demo.api.schemas import ImageGenerationSchema
from dianjing.demo.api.video_schemas import InputReferenceSchema, PointSchema, RegionSchema, VideoSchema
from dianjing.demo.errors import ApiError, MethodNotAllowedError, NotFoundError, get_status, to_user_error
from dianjing.demo.i18n.translation import HTTP_FIELDS, parse_accept_language, render_message
from dianjing.errors import DianjingError, Language, Message

FieldNames = Mapping[str, str | Message]
ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
FIELD_NAMES = {
    name
    for schema in (ImageGenerationSchema, ImageEditSchema, VideoSchema, InputReferenceSchema, RegionSchema, PointSchema)
    for name in schema.model_fields
} | {"image", "mask"}
OPENAI_FIELDS: FieldNames = {**HTTP_FIELDS, "width": Message("size_width"), "height": Message("size_height")}
PARAMETER_PLACES = (("body",), ("query",), ("path",))  # the first part of a location in pydantic's errors
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
    request: HTTPConnection, error: DianjingError, *, param: str | None = None, field_names: FieldNames | None = None
) -> JSONResponse:
    """Make the response for an error.

    param: the field that is wrong; by default the one at the start of the message. field_names: parameter -> field, by
    default what `set_field_names` says.
    """
    status = get_status(error)
    headers: dict[str, str] = {"Content-Language": get_caller_language(request)}
    if status == 429:
        headers["Retry-After"] = "10"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = make_error_content(request, error, param=param, field_names=field_names)
    return JSONResponse({"error": content}, status_code=status, headers=headers)


def make_error_content(
    request: HTTPConnection, error: DianjingError, *, param: str | None = None, field_names: FieldNames | None = None
) -> dict[str, Any]:
    """OpenAI's error object, in the caller's language and with the names of its own fields."""
    status = get_status(error)
    if field_names is None:
        field_names = getattr(request.state, "field_names", OPENAI_FIELDS)
    return {
        "message": render_message(error, get_caller_language(request), names=field_names),
        "type": ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": param or _find_param(render_message(error, "en", names=field_names)),
        "code": HTTPStatus(status).phrase.lower().replace(" ", "_"),
    }


def get_caller_language(request: HTTPConnection) -> Language:
    """The language of a caller, from its Accept-Language."""
    return parse_accept_language(request.headers.get("accept-language", ""))


def set_field_names(request: HTTPConnection, field_names: FieldNames) -> None:
    """Name parameters in the errors of one request by other fields than `OPENAI_FIELDS` does."""
    request.state.field_names = {**OPENAI_FIELDS, **field_names}


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
        response = error_response(request, _convert_http_exception(error))
        response.headers.update(error.headers or {})  # Allow, of 405
        return response

    @app.exception_handler(Exception)
    async def handle_internal(request: Request, error: Exception) -> JSONResponse:
        return error_response(request, to_user_error(error, context=f"{request.method} {request.url.path}"))


def validation_error_response(request: Request, error: Any) -> JSONResponse:
    """Make the response for one of pydantic's errors."""
    field = ".".join(_get_field_path(error))
    param = field.split(".")[0][:MAX_VALUE_CHARS] or None
    return error_response(request, _convert_validation_error(error, field), param=param, field_names={})


def _get_field_path(error: Any) -> list[str]:
    """The field that one of pydantic's errors is about, without the names that pydantic gives parts of a union."""
    place, *parts = error["loc"] if error["loc"][:1] in PARAMETER_PLACES else ("body", *error["loc"])
    last = parts[-1:] if error["type"] == "extra_forbidden" else []
    known = parts[: len(parts) - len(last)]
    if place == "body":
        known = [part for part in known if isinstance(part, int) or part in FIELD_NAMES]
    return [str(part) for part in (*known, *last)]


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
        return MethodNotAllowedError("method_not_allowed")
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


def _find_param(message: str) -> str | None:
    """The field that an English message starts with, if any."""
    first_word = message.split(" ", 1)[0]
    return first_word if first_word in FIELD_NAMES else None
