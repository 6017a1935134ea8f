"""Error responses in OpenAI's shape and the caller's language, without details of the server."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from dianjing.demo.api.schemas import ImageGenerationSchema, VideoSchema
from dianjing.demo.errors import INTERNAL_ERROR, ApiError
from dianjing.demo.i18n.translation import parse_accept_language, translate

logger = logging.getLogger(__name__)
ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
FIELD_NAMES = {*ImageGenerationSchema.model_fields, *VideoSchema.model_fields}
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
HTTP_MESSAGES = {404: "there is no such address here; /docs lists them", 405: "this address takes another method"}
EXPECTED_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "string": "a text",
    "bool": "true or false",
    "list": "a list",
    "model": "an object",
    "dict": "an object",
}


def error_response(request: HTTPConnection, message: str, *, status: int, param: str | None = None) -> JSONResponse:
    """Make a response for an English message, translated to the caller's language."""
    language = parse_accept_language(request.headers.get("accept-language", ""))
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    error = {"message": translate(message, language), "type": kind, "param": param, "code": code}
    headers = {"Content-Language": language}
    if status == 429:
        headers["Retry-After"] = "10"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def get_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error responses in the OpenAPI schema."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": ERROR_SCHEMA}}}
        for status in statuses
    }


def add_exception_handlers(app: FastAPI) -> None:
    """Turn every exception of the app into an error response."""

    @app.exception_handler(ValueError)
    async def handle_refused(request: Request, error: ValueError) -> JSONResponse:
        message = str(error)
        first = message.split(" ", 1)[0]
        status = error.status if isinstance(error, ApiError) else 400
        return error_response(request, message, status=status, param=first if first in FIELD_NAMES else None)

    @app.exception_handler(RequestValidationError)
    async def handle_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error_response(request, error.errors()[0])

    @app.exception_handler(HTTPException)
    async def handle_http(request: Request, error: HTTPException) -> JSONResponse:
        body_message = "the body cannot be read; send JSON or a form as /docs shows"  # the other errors of FastAPI
        message = HTTP_MESSAGES.get(error.status_code, body_message)
        return error_response(request, message, status=error.status_code)

    @app.exception_handler(Exception)
    async def handle_internal(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(request, INTERNAL_ERROR, status=500)


def validation_error_response(request: Request, error: Any) -> JSONResponse:
    """Make a response for one of pydantic's errors."""
    field = ".".join(str(part) for part in error["loc"] if part != "body")
    kind = error["type"]
    value = _format_value(error.get("input"))
    if kind == "json_invalid":
        return error_response(request, "the body is no JSON; send an object with a prompt", status=400)
    if kind == "extra_forbidden":
        message = f"there is no field {ascii(field)[1:61].rstrip(chr(39))}; /docs lists the fields"
    elif kind == "missing":
        message = f"{field or 'the body'} is missing; give it"
    elif kind == "literal_error":
        message = f"{field} is {value}; give {error['ctx']['expected']}"
    elif kind == "string_unicode":
        message = f"{field or 'the body'} is not valid Unicode; send it as UTF-8"
    else:
        expected = EXPECTED_TYPES.get(kind.split("_")[0], "what /docs says")
        message = f"{field or 'the body'} is {value}; give {expected}"
    return error_response(request, message, status=400, param=field.split(".")[0][:60] or None)


def _format_value(value: object) -> str:
    """Format a value short and printable; objects and lists are only named."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value) if isinstance(value, str) else repr(value) if not isinstance(value, bytes) else "no JSON"
    return text if len(text) <= 60 else f"{text[:57]}..."
