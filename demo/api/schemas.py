"""Request bodies of the HTTP API: what images and videos share, and the body of a request for images.

Types are strict, null stands for a field that is left out, and an unknown field is an error. Ranges are documented here
and checked by the requests that the bodies become.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from dianjing.demo.api.condition_schemas import ControlSchema, PictureSchema
from dianjing.demo.api.schema_base import StrictSchema, make_bounds
from dianjing.demo.limits import ServerLimits
from dianjing.demo.requests import TextToImageRequest
from dianjing.errors import DianjingError
from dianjing.pipelines.media.image_file import ImageFormat
from dianjing.pipelines.validation import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_SEED, MAX_STEPS, check_int

MAX_PARTIAL_IMAGES = 3
ImageSize = Annotated[
    str, Field(description="WIDTHxHEIGHT in pixels, or auto: the size of the model.", examples=["128x128"])
]


class GenerationSchema(StrictSchema):
    """The fields that images and videos share."""

    model: str | None = Field(
        None, description="The served model or an alias of it; another is refused.", examples=["sticker"]
    )
    negative_prompt: str | None = Field(None, description="What to avoid.")
    size: ImageSize | None = None
    seed: int | None = Field(
        None,
        description="Seed of the noise; random if left out, and part of the response.",
        json_schema_extra=make_bounds(0, MAX_SEED),
    )
    num_inference_steps: int | None = Field(
        None,
        description="Denoising steps; the default of the model if left out.",
        json_schema_extra=make_bounds(1, MAX_STEPS),
    )
    guidance_scale: float | None = Field(
        None,
        description="How closely to follow the prompt; 1 switches guidance off.",
        json_schema_extra=make_bounds(0, MAX_GUIDANCE_SCALE),
    )
    guidance_mode: str | None = Field(
        None,
        description="How to guide, by name with options of diffusers' guider: cfg, interval, apg, cfg_zero_star,"
        " skip_layer, pag, auto or tangential.",
        examples=["apg:eta=0.5"],
    )
    scheduler: str | None = Field(
        None,
        description="A scheduler of diffusers by name with options; the model's own if left out.",
        examples=["EulerDiscreteScheduler:use_karras_sigmas"],
    )
    adapters: dict[str, float] | None = Field(
        None,
        description="Strengths of LoRA adapters by their names, which /v1/models lists; {} for none, and those that the"
        " server starts with if left out.",
        examples=[{}],
    )
    user: str | None = Field(None, description="Accepted as OpenAI's clients send it, and not used.")
    safety_identifier: str | None = Field(None, description="Accepted, and not used.")

    def get_common_params(self) -> dict[str, Any]:
        """The arguments that every request takes."""
        width, height = _parse_size(self.size)
        names = ["negative_prompt", "seed", "num_inference_steps", "guidance_scale", "adapters"]
        names += ["guidance_mode", "scheduler"]
        return {"width": width, "height": height, **{name: getattr(self, name) for name in names}}


class ImageGenerationSchema(GenerationSchema):
    """A request for images."""

    can_be_transparent: ClassVar[bool] = True

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "草地上的一只小猫", "n": 2, "size": "128x128", "seed": 7}]}
    )

    prompt: str = Field(
        description="What to generate, in Chinese or English.", examples=["a red balloon above the sea"]
    )
    n: int | None = Field(
        None,
        description="How many images, 1 if left out; image i uses the seed seed + i.",
        json_schema_extra=make_bounds(1, MAX_IMAGES),
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="b64_json (the default): the images are in the response; url: it has addresses of them, which need"
        " no key and expire with the results.",
    )
    output_format: ImageFormat | None = Field(None, description="The format of the files, png if left out.")
    output_compression: int | None = Field(
        None, description="The quality of JPEG and WebP; PNG is lossless.", json_schema_extra=make_bounds(0, 100)
    )
    stream: bool | None = Field(
        None, description="true: server-sent events, with previews if partial_images is above 0."
    )
    partial_images: int | None = Field(
        None,
        description="The number of previews in a stream; fewer if the image is finished sooner.",
        json_schema_extra=make_bounds(0, MAX_PARTIAL_IMAGES),
    )
    background: Literal["auto", "opaque", "transparent"] | None = Field(
        None,
        description="transparent: what the prompt names is cut out, as PNG or WebP; auto and opaque: the whole image.",
    )
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        None, description="Accepted, and not used: slow and num_inference_steps set the effort."
    )
    slow: bool | None = Field(
        None,
        description="true: the model draws alone, in its own many guided steps; false: its adapter for few steps draws,"
        " also beside adapters. If left out, that adapter draws, where the model has one, unless steps, guidance, a"
        " scheduler, a condition or adapters are given; edits and variations are made by the model alone.",
    )
    style: Literal["vivid", "natural"] | None = Field(None, description="Accepted, and not used: the prompt says it.")
    moderation: Literal["auto", "low"] | None = Field(None, description="Accepted, and not used.")

    controls: list[ControlSchema] | None = Field(
        None, description="Control images for ControlNets, which act together.", json_schema_extra={"maxItems": 4}
    )
    ip_adapter_images: list[PictureSchema] | None = Field(
        None, description="Pictures as prompts, for a server with an IP-Adapter.", json_schema_extra={"maxItems": 4}
    )

    def to_request(self, limits: ServerLimits) -> TextToImageRequest:
        """Make the request. Raises: DianjingError."""
        self.check_output()
        return self._make_request(limits)

    def check_output(self) -> None:
        """Raise DianjingError for fields of the output that cannot be."""
        if self.background == "transparent" and not self.can_be_transparent:
            raise DianjingError("background_transparent", allowed=["auto", "opaque"])
        if self.stream and self.response_format == "url":
            raise DianjingError("stream_with_url")
        if self.partial_images is not None:
            check_int(self.partial_images, "partial_images", low=0, high=MAX_PARTIAL_IMAGES)

    def _make_request(self, limits: ServerLimits) -> TextToImageRequest:
        return TextToImageRequest(
            prompt=self.prompt,
            num_images=1 if self.n is None else self.n,
            output_format=self.output_format or "png",
            output_compression=self.output_compression,
            is_transparent=self.background == "transparent",
            slow=self.slow,
            **self.get_conditions(limits),
            **self.get_common_params(),
        )

    def get_conditions(self, limits: ServerLimits) -> dict[str, Any]:
        """The control images and pictures as arguments of a request. Raises: DianjingError."""
        return {
            "controls": [control.to_input(limits) for control in self.controls or ()],
            "pictures": [picture.to_input(limits) for picture in self.ip_adapter_images or ()],
        }


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size in (None, "auto"):
        return None, None
    match = re.fullmatch(r"(-?[0-9]{1,12})[xX](-?[0-9]{1,12})", size or "")
    if match is None:
        raise DianjingError("size_not_valid", value=ascii(size)[:40])
    return int(match[1]), int(match[2])
