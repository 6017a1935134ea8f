"""The body of a request for a video."""

import re
from typing import Literal

from pydantic import ConfigDict, Field

from dianjing.demo.api.schemas import GenerationSchema, StrictSchema, make_bounds
from dianjing.demo.limits import ServerLimits
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.demo.uploads import decode_base64_image_with_alpha, decode_upload_with_alpha
from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import MAX_POINTS, Point, Region, RegionTarget
from dianjing.pipelines.validation import MAX_FPS, MAX_GUIDANCE_SCALE, MAX_STEPS, MIN_FPS, Refine
from dianjing.pipelines.video.windows import LongVideo

EXAMPLE_IMAGE_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEX////cKCi5uRl6AAAAGklEQVR42mNgGNGA////DwwMTDDu"
    "8GDQEwAA4q0DLENdt6IAAAAASUVORK5CYII="
)  # a red square on white, 64 x 64 px


class PointSchema(StrictSchema):
    """A point in pixels of the image, from its top left; a negative one lies outside the object."""

    x: float
    y: float
    positive: bool = True


class RegionSchema(StrictSchema):
    """A part of the image and its motion."""

    motion: str = Field(
        "", description="A short phrase in Chinese or English; optional with a path.", examples=["jump", "左右摇摆"]
    )
    points: list[PointSchema] = Field(
        [], description="Points on it.", json_schema_extra={"minItems": 1, "maxItems": MAX_POINTS}
    )
    strength: float = Field(
        0.5,
        description="From 0, hardly any motion, to 1, the largest of the training data.",
        json_schema_extra=make_bounds(0, 1),
    )
    path: list[list[float]] | None = Field(
        None, description="Points [x, y] in pixels of a smooth curve that it follows.", examples=[[[30, 40], [60, 20]]]
    )
    turn: float = Field(0.0, description="Degrees that it turns in all, clockwise.")
    scale: float = Field(1.0, description="Its size at the end, relative to the first frame.")
    times: list[float] | None = Field(
        None, description="When it is at each point of the path: 0 is the first frame, 1 the last one."
    )
    anchor: PointSchema | None = Field(None, description="Where the part joins the rest, which stays.")
    target: RegionTarget = Field("object", description="image moves all of the image, like a camera; without points.")

    def to_region(self) -> Region:
        points = [Point(x=point.x, y=point.y, positive=point.positive) for point in self.points]
        anchor = None if self.anchor is None else Point(x=self.anchor.x, y=self.anchor.y)
        names = ("motion", "strength", "path", "turn", "scale", "times", "target")
        return Region(points=points, anchor=anchor, **{name: getattr(self, name) for name in names})


class InputReferenceSchema(StrictSchema):
    """The image to animate as OpenAI's clients send it in JSON."""

    image_url: str | None = Field(None, description="A data: URL, or base64 alone; never another URL.")
    file_id: str | None = Field(None, description="Refused: this server keeps no files of its clients.")


class VideoSchema(GenerationSchema):
    """A request for a video: from a prompt alone, or from an image in which something moves."""

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

    prompt: str = Field("", description="The scene and its motion; optional with regions.")
    seconds: float | str | None = Field(
        None, description="Duration, as a number or a string.", json_schema_extra={"exclusiveMinimum": 0}
    )
    num_frames: int | None = Field(None, description="Number of frames, in place of seconds.")
    fps: float | None = Field(None, description="Frames per second.", json_schema_extra=make_bounds(MIN_FPS, MAX_FPS))
    input_reference: InputReferenceSchema | str | None = Field(
        None, description="The image to animate, as in OpenAI's API; in a form, a file or input_reference[image_url]."
    )
    image: str | None = Field(
        None, description="The image to animate: PNG, JPEG or WebP in base64, or a data: URL; never another URL."
    )
    regions: list[RegionSchema] = Field(
        [],
        description="Parts of the image that move, each with its own motion. Without them the prompt says what moves"
        " and how, and the model finds it.",
    )
    refine: Refine = Field(
        "auto",
        description="With an image: on has the model generate the frames, off moves the image itself at its own size,"
        " auto decides by the image.",
    )
    background: Literal["auto", "opaque", "transparent"] | None = Field(
        None,
        description="transparent: what the prompt names or the regions select is cut out, and moved with its edges by"
        " the model's motion field; the video is downloaded as webp, gif or apng. auto and opaque: the whole image.",
    )
    strict_background: bool = Field(
        True,
        description="Whether a published video model keeps what no region moves over as it is in the image; false"
        " is for these models alone.",
    )
    long_video: LongVideo | None = Field(
        None, description="Windows of a long video: joint denoises all together, autoregressive one after the other."
    )
    continuation_steps: int | None = Field(
        None,
        description="Denoising steps of the frames after the first one; num_inference_steps if left out.",
        json_schema_extra=make_bounds(1, MAX_STEPS),
    )
    continuation_guidance_scale: float | None = Field(
        None,
        description="Guidance scale of the frames after the first one; guidance_scale if left out.",
        json_schema_extra=make_bounds(0, MAX_GUIDANCE_SCALE),
    )

    def to_request(
        self, limits: ServerLimits, *, upload: bytes | None = None, video_model: str | None = None
    ) -> TextToVideoRequest | ImageToVideoRequest:
        """Make the request; `upload` is an image that came as a file, video_model a published model's name.

        Raises: DianjingError.
        """
        common = {
            **self.get_common_params(),
            "prompt": self.prompt,
            "num_frames": self.num_frames,
            "duration_s": _parse_seconds(self.seconds),
            "fps": self.fps,
            "video_model": video_model,
            "is_transparent": self.background == "transparent",
        }
        encoded = self._get_base64_image(upload)
        if upload is None and encoded is None:
            if self.regions:
                raise DianjingError("regions_without_image")
            return TextToVideoRequest(
                long_video=self.long_video,
                continuation_steps=self.continuation_steps,
                continuation_guidance_scale=self.continuation_guidance_scale,
                **common,
            )
        if not self.regions and not self.prompt:
            raise DianjingError("image_without_regions")
        if upload is None:
            image = decode_base64_image_with_alpha(encoded, limits)
        else:
            image = decode_upload_with_alpha(upload, limits)
        return ImageToVideoRequest(
            image=image,
            regions=[region.to_region() for region in self.regions],
            refine=self.refine,
            strict_background=self.strict_background,
            **common,
        )

    def _get_base64_image(self, upload: bytes | None) -> str | None:
        """The image in base64, of the one field that may hold it. Raises: DianjingError."""
        reference = self.input_reference
        if isinstance(reference, InputReferenceSchema):
            if reference.file_id is not None:
                raise DianjingError("file_id_not_supported")
            if reference.image_url is None:
                raise DianjingError("field_missing", name="input_reference.image_url")
            reference = reference.image_url
        if [upload is None, reference is None, self.image is None].count(False) > 1:
            raise DianjingError("image_given_twice")
        return reference if self.image is None else self.image


def _parse_seconds(seconds: float | str | None) -> float | None:
    if isinstance(seconds, str):
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", seconds):
            raise DianjingError("seconds_not_a_number", value=ascii(seconds)[:40])
        return float(seconds)
    return seconds
