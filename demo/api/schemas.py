"""Request bodies of the HTTP API; types are strict, and an unknown field is an error.

Ranges are documented here and checked by the requests that the bodies become.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dianjing.demo.limits import ServerLimits
from dianjing.demo.requests import ImageToVideoRequest, TextToImageRequest, TextToVideoRequest
from dianjing.demo.uploads import decode_base64_image, decode_upload
from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import MAX_POINTS, Point, Region
from dianjing.pipelines.validation import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_SEED, MAX_STEPS
from dianjing.pipelines.video.windows import LongVideo

EXAMPLE_IMAGE_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEX////cKCi5uRl6AAAAGklEQVR42mNgGNGA////DwwMTDDu"
    "8GDQEwAA4q0DLENdt6IAAAAASUVORK5CYII="
)  # a red square on white, 64 x 64 px
ImageSize = Annotated[
    str, Field(description="WIDTHxHEIGHT in pixels, or auto: the size of the model.", examples=["64x64"])
]


def _make_bounds(low: float, high: float) -> dict[str, Any]:
    return {"minimum": low, "maximum": high}


class StrictSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GenerationSchema(StrictSchema):
    """The fields that images and videos share."""

    model: str | None = Field(None, description="The served model; another is refused.", examples=["sticker"])
    negative_prompt: str | None = Field(None, description="What to avoid.")
    size: ImageSize | None = None
    seed: int | None = Field(
        None,
        description="Seed of the noise; random if left out, and part of the response.",
        json_schema_extra=_make_bounds(0, MAX_SEED),
    )
    num_inference_steps: int | None = Field(
        None,
        description="Denoising steps; the default of the model if left out.",
        json_schema_extra=_make_bounds(1, MAX_STEPS),
    )
    guidance_scale: float | None = Field(
        None,
        description="How closely to follow the prompt; 1 switches guidance off.",
        json_schema_extra=_make_bounds(0, MAX_GUIDANCE_SCALE),
    )
    user: str | None = Field(None, description="Accepted as OpenAI's clients send it, and not used.")

    def get_common_params(self) -> dict[str, Any]:
        """The arguments that every request takes."""
        width, height = _parse_size(self.size)
        names = ("negative_prompt", "seed", "num_inference_steps", "guidance_scale")
        return {"width": width, "height": height, **{name: getattr(self, name) for name in names}}


class ImageGenerationSchema(GenerationSchema):
    """A request for images."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "草地上的一只小猫", "n": 2, "size": "64x64", "seed": 7}]}
    )

    prompt: str = Field(
        description="What to generate, in Chinese or English.", examples=["a red balloon above the sea"]
    )
    n: int = Field(
        1, description="How many images; image i uses the seed seed + i.", json_schema_extra=_make_bounds(1, MAX_IMAGES)
    )
    response_format: Literal["b64_json"] = Field("b64_json", description="Images are PNG in base64.")
    output_format: Literal["png"] = "png"

    def to_request(self) -> TextToImageRequest:
        return TextToImageRequest(prompt=self.prompt, num_images=self.n, **self.get_common_params())


class PointSchema(StrictSchema):
    """A point in pixels of the image, from its top left; a negative one lies outside the object."""

    x: float
    y: float
    positive: bool = True


class RegionSchema(StrictSchema):
    """A part of the image and its motion."""

    motion: str = Field(description="A short phrase in Chinese or English.", examples=["jump", "左右摇摆"])
    points: list[PointSchema] = Field(
        description="Points on it.", json_schema_extra={"minItems": 1, "maxItems": MAX_POINTS}
    )
    strength: float = Field(
        0.5,
        description="From 0, hardly any motion, to 1, the largest of the training data.",
        json_schema_extra=_make_bounds(0, 1),
    )

    def to_region(self) -> Region:
        points = [Point(x=point.x, y=point.y, positive=point.positive) for point in self.points]
        return Region(motion=self.motion, points=points, strength=self.strength)


class VideoSchema(GenerationSchema):
    """A request for a video: from a prompt alone, or from an image whose regions move."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "a dog jumping", "seconds": 2},
                {
                    "image": EXAMPLE_IMAGE_BASE64,
                    "regions": [{"motion": "jump", "strength": 0.7, "points": [{"x": 30, "y": 40}]}],
                    "seed": 7,
                },
            ]
        }
    )

    prompt: str = Field("", description="The scene and its motion; optional with an image.")
    seconds: float | str | None = Field(
        None, description="Duration, as a number or a string.", json_schema_extra={"exclusiveMinimum": 0}
    )
    num_frames: int | None = Field(None, description="Number of frames, in place of seconds.")
    fps: float | None = Field(None, description="Frames per second.", json_schema_extra=_make_bounds(1, 120))
    image: str | None = Field(
        None, description="The image to animate: PNG, JPEG or WebP in base64, or a data: URL; never another URL."
    )
    regions: list[RegionSchema] = Field([], description="Parts of the image that move, each with its own motion.")
    long_video: LongVideo | None = Field(
        None, description="Windows of a long video: joint denoises all together, autoregressive one after the other."
    )
    continuation_steps: int | None = Field(
        None,
        description="Denoising steps of the frames after the first one; num_inference_steps if left out.",
        json_schema_extra=_make_bounds(1, MAX_STEPS),
    )
    continuation_guidance_scale: float | None = Field(
        None,
        description="Guidance scale of the frames after the first one; guidance_scale if left out.",
        json_schema_extra=_make_bounds(0, MAX_GUIDANCE_SCALE),
    )

    def to_request(
        self, limits: ServerLimits, *, upload: bytes | None = None
    ) -> TextToVideoRequest | ImageToVideoRequest:
        """Make the request; `upload` is an image that came as a file. Raises: DianjingError."""
        common = {
            **self.get_common_params(),
            "prompt": self.prompt,
            "num_frames": self.num_frames,
            "duration_s": _parse_seconds(self.seconds),
            "fps": self.fps,
        }
        if upload is not None and self.image is not None:
            raise DianjingError("image_given_twice")
        if upload is None and self.image is None:
            if self.regions:
                raise DianjingError("regions_without_image")
            return TextToVideoRequest(
                long_video=self.long_video,
                continuation_steps=self.continuation_steps,
                continuation_guidance_scale=self.continuation_guidance_scale,
                **common,
            )
        if not self.regions:
            raise DianjingError("image_without_regions")
        image = decode_base64_image(self.image, limits) if upload is None else decode_upload(upload, limits)
        return ImageToVideoRequest(image=image, regions=[region.to_region() for region in self.regions], **common)


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size in (None, "auto"):
        return None, None
    match = re.fullmatch(r"(-?[0-9]{1,12})[xX](-?[0-9]{1,12})", size or "")
    if match is None:
        raise DianjingError("size_not_valid", value=ascii(size)[:40])
    return int(match[1]), int(match[2])


def _parse_seconds(seconds: float | str | None) -> float | None:
    if isinstance(seconds, str):
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", seconds):
            raise DianjingError("seconds_not_a_number", value=ascii(seconds)[:40])
        return float(seconds)
    return seconds
