"""Parts of a body for images: control images for ControlNets, and pictures as prompts."""

from pydantic import Field

from dianjing.demo.api.schema_base import StrictSchema, make_bounds
from dianjing.demo.limits import ServerLimits
from dianjing.demo.uploads import decode_base64_image
from dianjing.pipelines.image_conditions import MAX_CONDITIONING_SCALE, MAX_PICTURE_SCALE, ControlInput, PictureInput
from dianjing.pipelines.validation import coalesce


class ControlSchema(StrictSchema):
    """A control image for one ControlNet."""

    image: str = Field(description="The image to follow: PNG, JPEG or WebP in base64, or a data: URL.")
    controlnet: str | None = Field(
        None, description="The ControlNet by its name, which /v1/models lists; the only one if left out."
    )
    preprocessor: str | None = Field(
        None,
        description="What makes the control image from a picture, such as canny; left out for an image that is one.",
    )
    conditioning_scale: float | None = Field(
        None,
        description="How closely to follow the image, 1 if left out.",
        json_schema_extra=make_bounds(0, MAX_CONDITIONING_SCALE),
    )
    guidance_start: float | None = Field(
        None, description="Fraction of the steps at which it starts to act.", json_schema_extra=make_bounds(0, 1)
    )
    guidance_end: float | None = Field(
        None, description="Fraction of the steps at which it ends.", json_schema_extra=make_bounds(0, 1)
    )

    def to_input(self, limits: ServerLimits) -> ControlInput:
        """Make the input of a request. Raises: DianjingError."""
        return ControlInput(
            image=decode_base64_image(self.image, limits),
            controlnet=self.controlnet,
            preprocessor=self.preprocessor,
            conditioning_scale=coalesce(self.conditioning_scale, 1.0),
            guidance_start=coalesce(self.guidance_start, 0.0),
            guidance_end=coalesce(self.guidance_end, 1.0),
        )


class PictureSchema(StrictSchema):
    """A picture as prompt."""

    image: str = Field(description="PNG, JPEG or WebP in base64, or a data: URL.")
    scale: float | None = Field(
        None, description="The strength, 1 if left out.", json_schema_extra=make_bounds(0, MAX_PICTURE_SCALE)
    )

    def to_input(self, limits: ServerLimits) -> PictureInput:
        """Make the input of a request. Raises: DianjingError."""
        return PictureInput(image=decode_base64_image(self.image, limits), scale=coalesce(self.scale, 1.0))
