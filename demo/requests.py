"""Requests to the demo, checked when they are made; `with_defaults` fills in what a request leaves to the model.

The cost of a request is pixels x frames x steps, summed over all of its sampling runs.
"""

import base64
import binascii
import io
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image
from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities, ServerLimits
from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import check_image_size, to_rgb
from dianjing.pipelines.segmentation.base import Region, check_region
from dianjing.pipelines.validation import (
    MAX_IMAGES,
    ImageRequest,
    check_fps,
    check_guidance_scale,
    check_int,
    check_negative_prompt,
    check_num_frames,
    check_num_inference_steps,
    check_prompt,
    check_seed,
    check_side_px,
)

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.session import Conversation

IMAGE_BATCH_SIZE = 8  # images of one sampling run; a seed gives the same image in any batch
BYTES_PER_PIXEL = 16  # memory of one pixel of a frame: uint8, and copies of the float32 latents
# sampling runs of one turn of a conversation: two for each of three backgrounds, four objects on white and on black
MAX_SAMPLING_RUNS_PER_TURN = 14
UPLOAD_FORMATS = ("PNG", "JPEG", "WEBP")
DATA_URL_PATTERN = re.compile(r"data:image/[a-z0-9.+-]{1,20};base64,")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """The fields that images and videos share; None leaves a parameter to the model, and the seed to chance.

    `visible_label`: whether the files carry a visible AI label in a corner; None leaves it to the server.
    """

    kind: ClassVar[str]

    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    visible_label: bool | None = None

    def __post_init__(self) -> None:
        check_negative_prompt(self.negative_prompt)
        check_side = partial(check_side_px, multiple_px=1)
        self._validate_fields(
            width=lambda value: check_side(value, "width"),
            height=lambda value: check_side(value, "height"),
            num_inference_steps=check_num_inference_steps,
            guidance_scale=check_guidance_scale,
            seed=check_seed,
        )

    def _validate_fields(self, **checks) -> None:
        """Replace each field that is set by what its check returns: NumPy's numbers become plain ones."""
        for name, check in checks.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(value))

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Fill in every parameter that is left to the model.

        Raises: DianjingError for what this model cannot generate.
        """
        sides: dict[str, Any] = {}
        for name in ("width", "height"):
            side_px = getattr(self, name)
            sides[name] = capabilities.default_size_px if side_px is None else side_px
            check_side_px(sides[name], name, multiple_px=capabilities.size_multiple_px)
        default_steps, default_guidance_scale = self._get_default_params(capabilities)
        return replace(
            self,
            **sides,
            num_inference_steps=default_steps if self.num_inference_steps is None else self.num_inference_steps,
            guidance_scale=default_guidance_scale if self.guidance_scale is None else self.guidance_scale,
            seed=secrets.randbelow(2**32) if self.seed is None else self.seed,
        )

    def get_pipeline_params(self) -> dict[str, Any]:
        """The keyword arguments that every pipeline takes."""
        names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
        return {name: getattr(self, name) for name in names}

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        """The model's default steps and guidance scale for this kind of request."""
        return capabilities.num_inference_steps, capabilities.guidance_scale

    def get_cost(self, capabilities: ModelCapabilities) -> int:
        """The cost of a request with defaults filled in."""
        assert self.width is not None
        assert self.height is not None
        return self.width * self.height * sum(count * steps for count, steps in self.get_sampling_runs(capabilities))

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        """The sampling runs of a request with defaults filled in: images or frames, and steps, of each."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TextToImageRequest(GenerationRequest):
    """A request for images of a prompt; image i uses the seed `seed + i`."""

    kind: ClassVar[str] = "image"

    prompt: str
    num_images: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        self._validate_fields(num_images=partial(check_int, name="num_images", low=1, high=MAX_IMAGES))
        if self.seed is not None:  # the seeds of all images must exist
            ImageRequest(prompt=self.prompt, seed=self.seed, num_images_per_prompt=self.num_images)

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        assert self.num_inference_steps is not None
        firsts = range(0, self.num_images, IMAGE_BATCH_SIZE)
        return [(min(IMAGE_BATCH_SIZE, self.num_images - first), self.num_inference_steps) for first in firsts]


@dataclass(frozen=True, kw_only=True)
class _VideoRequestBase(GenerationRequest):
    num_frames: int | None = None
    duration_s: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._validate_fields(fps=check_fps)
        self._resolve_num_frames(fps=self.fps or 8.0, pixels=(self.width or 1) * (self.height or 1))

    def _resolve_num_frames(self, *, fps: float, pixels: int) -> int | None:
        return check_num_frames(self.num_frames, self.duration_s, fps, bytes_per_frame=BYTES_PER_PIXEL * pixels)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Fill in every parameter that is left to the model; a duration becomes a number of frames."""
        if capabilities.num_frames is None:
            raise DianjingError("model_generates_images_only", model=capabilities.model)
        request = super().with_defaults(capabilities)
        fps = capabilities.fps if self.fps is None else self.fps
        assert request.width is not None
        assert request.height is not None
        num_frames = self._resolve_num_frames(fps=fps, pixels=request.width * request.height)
        if num_frames is None:
            num_frames = capabilities.num_frames
        return replace(request, num_frames=num_frames, duration_s=None, fps=fps)

    def _get_window_lengths(self, capabilities: ModelCapabilities) -> list[int]:
        """The number of frames of each window; a window starts with the last frame of the one before."""
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        window = capabilities.num_frames
        return [min(window, self.num_frames - first) for first in range(0, self.num_frames - 1, window - 1)]


@dataclass(frozen=True, kw_only=True)
class TextToVideoRequest(_VideoRequestBase):
    """A request for a video of a prompt; `long_video` is that of `TextToVideoPipeline`."""

    kind: ClassVar[str] = "video"

    prompt: str
    long_video: Literal["joint", "autoregressive"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        if self.long_video not in (None, "joint", "autoregressive"):
            raise ValueError(f"long_video is {self.long_video!r}; give 'joint' or 'autoregressive'")

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        request = super().with_defaults(capabilities)
        if self.long_video is None:
            return replace(request, long_video="autoregressive" if capabilities.can_animate else "joint")
        if self.long_video == "autoregressive" and not capabilities.can_animate:
            raise DianjingError("model_takes_no_first_frame", model=capabilities.model)
        return request

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        """The first frame and the windows that continue it; one run without them for a model that needs none."""
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        is_joint = self.long_video == "joint"
        if is_joint and not capabilities.has_flow_field:
            return [(self.num_frames, self.num_inference_steps)]
        windows = [self.num_frames] if is_joint and self.num_frames > 1 else self._get_window_lengths(capabilities)
        uses_default = self.num_inference_steps == capabilities.num_inference_steps
        steps = capabilities.continuation_params[0] if uses_default else self.num_inference_steps
        return [(1, self.num_inference_steps), *((num_frames, steps) for num_frames in windows)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToVideoRequest(_VideoRequestBase):
    """A request to animate regions of a PIL image, which is kept as RGB; points are in its pixels."""

    kind: ClassVar[str] = "animation"

    image: Image.Image
    regions: Sequence[Region]
    prompt: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt:
            check_prompt(self.prompt)
        if not isinstance(self.image, Image.Image):
            raise DianjingError("image_not_pil", kind=type(self.image).__name__)
        check_image_size(*self.image.size)
        object.__setattr__(self, "image", to_rgb(self.image))
        object.__setattr__(self, "regions", tuple(self.regions))
        if not self.regions:
            raise DianjingError("no_region_given")
        for region in self.regions:
            check_region(region, size=self.image.size)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        request = super().with_defaults(capabilities)
        if not capabilities.can_animate:
            raise DianjingError("model_cannot_animate", model=capabilities.model)
        if len(self.regions) > capabilities.max_regions:
            raise ValueError(
                f"{len(self.regions)} regions are given; "
                f"this model was trained for 1 to {capabilities.max_regions} at once"
            )
        assert request.num_frames is not None
        if request.num_frames < 2:
            raise DianjingError("animation_needs_two_frames", num_frames=request.num_frames)
        return request

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        return capabilities.continuation_params

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        windows = self._get_window_lengths(capabilities) if capabilities.has_flow_field else [self.num_frames]
        return [(num_frames, self.num_inference_steps) for num_frames in windows]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConversationRequest:
    """A request for the next turn of a conversation of `InferenceEngine.create_conversation`."""

    kind: ClassVar[str] = "conversation"

    conversation: "Conversation"
    text: str
    visible_label: bool | None = None

    def __post_init__(self) -> None:
        check_prompt(self.text, "text")

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Return the request itself: its conversation holds the parameters."""
        return self

    def get_cost(self, capabilities: ModelCapabilities) -> int:
        """The highest cost that one turn can have."""
        steps = self.conversation.num_inference_steps or capabilities.num_inference_steps
        return MAX_SAMPLING_RUNS_PER_TURN * steps * capabilities.default_size_px**2


AnyRequest = TextToImageRequest | TextToVideoRequest | ImageToVideoRequest | ConversationRequest


def check_cost(request: AnyRequest, capabilities: ModelCapabilities, *, max_cost: int) -> None:
    """Raise DianjingError for a request whose cost is above `max_cost`."""
    cost = request.get_cost(capabilities)
    if cost > max_cost:
        raise DianjingError("cost_too_high", cost=cost, max_cost=max_cost)


def decode_upload(content: bytes, limits: ServerLimits) -> Image.Image:
    """Decode the first frame of an uploaded PNG, JPEG or WebP to upright RGB.

    Raises: DianjingError for another format, or a file that is damaged or too large.
    """
    if len(content) > limits.max_upload_bytes:
        raise DianjingError("upload_too_large", size=len(content), max_size=limits.max_upload_bytes)
    try:
        with Image.open(io.BytesIO(content), formats=UPLOAD_FORMATS) as image:
            if image.width * image.height > limits.max_upload_pixels:
                raise Image.DecompressionBombError
            check_image_size(*image.size)
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError:
        raise DianjingError("upload_too_many_pixels", max_pixels=limits.max_upload_pixels) from None
    except (OSError, SyntaxError, EOFError):
        raise DianjingError("upload_unreadable", formats=UPLOAD_FORMATS) from None


def decode_base64_image(text: object, limits: ServerLimits) -> Image.Image:
    """Decode an upload in base64, with or without the head of a data: URL. Raises: DianjingError as `decode_upload`."""
    encoded = str(text)
    head = DATA_URL_PATTERN.match(encoded)
    try:
        content = base64.b64decode(encoded[head.end() if head else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise DianjingError("image_not_base64") from None
    return decode_upload(content, limits)
