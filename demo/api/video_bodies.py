"""Bodies of `POST /v1/videos`: JSON, or a form whose texts become the values of the JSON's fields."""

import json
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from dianjing.demo.api.video_schemas import VideoSchema
from dianjing.demo.errors import UnsupportedMediaTypeError
from dianjing.errors import DianjingError

FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
JSON_FIELDS = {  # every other field of a form is a text
    "regions",
    "adapters",
    "seed",
    "num_frames",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "strict_background",
    "continuation_steps",
    "continuation_guidance_scale",
}
IMAGE_FIELD = "input_reference"
NESTED_IMAGE_FIELDS = {f"{IMAGE_FIELD}[{name}]": name for name in ("image_url", "file_id")}  # as OpenAI's clients send
MULTIPART_SCHEMA = {
    "type": "object",
    "description": "The same fields, the image as a file, and `regions` as JSON.",
    "properties": {
        "prompt": {"type": "string"},
        "input_reference": {"type": "string", "format": "binary", "description": "The image to animate."},
        "regions": {"type": "string", "examples": ['[{"motion": "jump", "points": [{"x": 30, "y": 40}]}]']},
        "seconds": {"type": "string"},
        "size": {"type": "string"},
        "seed": {"type": "string"},
    },
}
REQUEST_CONTENT = {
    "application/json": {"schema": {"$ref": "#/components/schemas/VideoSchema"}},
    "multipart/form-data": {"schema": MULTIPART_SCHEMA},
}


def get_video_schemas() -> dict[str, Any]:
    """OpenAPI schemas of `VideoSchema`, which FastAPI does not see, as the body is JSON or a form."""
    schema = VideoSchema.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "VideoSchema": schema}


async def read_video_body(request: Request) -> tuple[VideoSchema, bytes | None]:
    """Read the body, and the image if it came as a file. Raises: DianjingError, RequestValidationError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return VideoSchema.model_validate_json(await request.body()), None
        if kind in FORM_TYPES:
            return await _read_form(request)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    raise UnsupportedMediaTypeError("content_type_not_supported", content_type=ascii(kind)[:60])


async def _read_form(request: Request) -> tuple[VideoSchema, bytes | None]:
    fields: dict[str, Any] = {}
    upload = None
    async with request.form(max_files=1, max_fields=len(VideoSchema.model_fields) + 1) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != IMAGE_FIELD:
                    raise DianjingError("unknown_file_field", field=ascii(name)[:60])
                upload = await value.read()
            elif name in NESTED_IMAGE_FIELDS:
                fields.setdefault(IMAGE_FIELD, {})[NESTED_IMAGE_FIELDS[name]] = value
            elif name.startswith("regions["):  # lists in brackets, whose grouping cannot be told
                raise DianjingError("regions_not_json")
            else:
                fields[name] = _parse_form_value(value) if name in JSON_FIELDS else value
    return VideoSchema.model_validate(fields), upload


def _parse_form_value(text: str) -> Any:
    """A number or a list of regions from a form; any other text is returned as it is, and refused later."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
