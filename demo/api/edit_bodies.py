"""Bodies of `POST /v1/images/edits` and `/v1/images/variations`: forms with files, as OpenAI's clients send them."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from dianjing.demo.api.schemas import ImageGenerationSchema, make_bounds
from dianjing.demo.api.video_schemas import PointSchema
from dianjing.demo.edit_request import EditRequest, read_variation_prompt
from dianjing.demo.errors import UnsupportedMediaTypeError
from dianjing.demo.limits import ServerLimits
from dianjing.demo.uploads import decode_upload, decode_upload_as
from dianjing.errors import DianjingError
from dianjing.pipelines.editing.edit import DEFAULT_VARIATION_STRENGTH, ImageEdit
from dianjing.pipelines.editing.extension import parse_extension
from dianjing.pipelines.media.mask import select_opaque
from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.validation import MAX_SIDE_PX, check_prompt

FORM_TYPE = "multipart/form-data"
IMAGE_FIELDS, MASK_FIELD = ("image", "image[]"), "mask"
TEXT_FIELDS = {  # the values of the other fields are JSON
    "model",
    "prompt",
    "negative_prompt",
    "size",
    "user",
    "safety_identifier",
    "response_format",
    "output_format",
    "background",
    "quality",
    "style",
    "moderation",
    "input_fidelity",
    "what",
    "extend",
}


class ImageVariationSchema(ImageGenerationSchema):
    """A request for variations of an image."""

    can_be_transparent: ClassVar[bool] = False

    prompt: str | None = Field(  # type: ignore[assignment]
        None,
        description="What the variations show; that of an image generated here if left out, else the image decides.",
    )
    strength: float | None = Field(
        None,
        description="How far to go from the image: 0 returns it as the VAE reconstructs it, 1 starts from noise.",
        json_schema_extra=make_bounds(0, 1),
    )

    def make_request(self, edit: ImageEdit, limits: ServerLimits) -> EditRequest:
        """Make the request for an edit. Raises: DianjingError."""
        self.check_output()
        return EditRequest(
            prompt=self.prompt or "",
            edit=edit,
            num_images=1 if self.n is None else self.n,
            output_format=self.output_format or "png",
            output_compression=self.output_compression,
            slow=self.slow,
            **self.get_conditions(limits),
            **self.get_common_params(),
        )


class ImageEditSchema(ImageVariationSchema):
    """A request for an edited image: what is transparent in the mask, or else in the image, may change."""

    prompt: str = Field(description="What the edited image shows, in Chinese or English.", examples=["a red balloon"])
    what: str | None = Field(None, description="What may change, in words, in place of a mask.", examples=["the cat"])
    points: list[PointSchema] | None = Field(None, description="Clicks on what may change, in place of a mask.")
    extend: str | None = Field(
        None, description="Continue the image beyond its border, in place of a mask.", examples=["left=64"]
    )
    padding_mask_crop: int | None = Field(
        None,
        description="Work on the part around the mask alone, with so many pixels around it.",
        json_schema_extra=make_bounds(0, MAX_SIDE_PX),
    )
    input_fidelity: str | None = Field(None, description="Accepted, and not used: strength sets it.")


SchemaT = TypeVar("SchemaT", bound=ImageVariationSchema)


@dataclass(frozen=True, kw_only=True)
class EditFiles:
    """The files of a form, not decoded."""

    image: bytes
    mask: bytes | None = None


async def read_edit_form(request: Request, schema: type[SchemaT], limits: ServerLimits) -> tuple[SchemaT, EditFiles]:
    """Read the fields and files of a form. Raises: DianjingError, RequestValidationError.

    A field may be as long as a body: control images and pictures are in base64.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise UnsupportedMediaTypeError("edit_is_no_form", content_type=ascii(kind)[:60])
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    fields_limit = len(schema.model_fields) + 4
    async with request.form(max_files=4, max_fields=fields_limit, max_part_size=limits.max_body_bytes) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                field = "image" if name in IMAGE_FIELDS else name
                if field not in ("image", MASK_FIELD):
                    raise DianjingError("unknown_edit_file", field=ascii(name)[:60])
                if field in files:
                    raise DianjingError("several_edit_files", field=field)
                files[field] = await value.read()
            else:
                fields[name] = value if name in TEXT_FIELDS else _parse_json(value)
    try:
        body = schema.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    if "image" not in files:
        raise DianjingError("field_missing", name="image")
    return body, EditFiles(image=files["image"], mask=files.get(MASK_FIELD))


def _parse_json(text: str) -> Any:
    """A number, a list or a truth value from a form; any other text is returned as it is, and refused later."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def make_edit_request(body: ImageEditSchema, files: EditFiles, limits: ServerLimits) -> EditRequest:
    """Decode the files of an edit and make its request. Raises: DianjingError."""
    check_prompt(body.prompt)
    points = [Point(x=point.x, y=point.y, positive=point.positive) for point in body.points or ()]
    is_selected = bool(points) or body.what is not None or body.extend is not None
    edit = ImageEdit(
        image=decode_upload(files.image, limits),
        mask=_select_transparent(files, limits, is_selected=is_selected),
        points=points,
        words=body.what,
        extension=None if body.extend is None else parse_extension([body.extend]),
        strength=body.strength,
        padding_mask_crop=body.padding_mask_crop,
    )
    return body.make_request(edit, limits)


def make_variation_request(body: ImageVariationSchema, files: EditFiles, limits: ServerLimits) -> EditRequest:
    """Decode the image of a variation and make its request; an image generated here brings its prompt along.

    Raises: DianjingError.
    """
    strength = DEFAULT_VARIATION_STRENGTH if body.strength is None else body.strength
    edit = ImageEdit(image=decode_upload(files.image, limits), strength=strength)
    if body.prompt is None:
        body = body.model_copy(update={"prompt": read_variation_prompt(files.image)})
    return body.make_request(edit, limits)


def _select_transparent(files: EditFiles, limits: ServerLimits, *, is_selected: bool) -> np.ndarray | None:
    """Select what is transparent in the mask, or else in the image, unless something else says what may change."""
    if files.mask is not None:
        opaque = decode_upload_as(files.mask, limits, select_opaque)
        if opaque.all():
            raise DianjingError("edit_mask_opaque")
        return ~opaque
    if is_selected:
        return None
    opaque = decode_upload_as(files.image, limits, select_opaque)
    return None if opaque.all() else ~opaque


def get_edit_content(schema: type[ImageVariationSchema]) -> dict[str, Any]:
    """The OpenAPI schema of a form with files, which FastAPI does not see."""
    described = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    described.pop("$defs", None)
    binary = {"type": "string", "format": "binary"}
    files = {"image": {**binary, "description": "The image, a PNG, JPEG or WebP."}}
    if schema is ImageEditSchema:
        files["mask"] = {**binary, "description": "A PNG of the image's size; what is transparent may change."}
    described["properties"] = {**files, **described["properties"]}
    described["required"] = ["image", *described.get("required", [])]
    return {"requestBody": {"required": True, "content": {FORM_TYPE: {"schema": described}}}}
