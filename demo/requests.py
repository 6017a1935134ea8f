"""Requests to the demo, checked when they are made; `with_defaults` fills in what a request leaves to the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image
from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.request_base import GenerationRequest
from dianjing.errors import DianjingError
from dianjing.pipelines.media.image import check_image
from dianjing.pipelines.media.image_file import IMAGE_OUTPUT_FORMATS, ImageFormat
from dianjing.pipelines.segmentation.base import Region, check_region
from dianjing.pipelines.validation import (
    MAX_IMAGES,
    ImageRequest,
    check_fps,
    check_guidance_scale,
    check_int,
    check_num_frames,
    check_num_inference_steps,
    check_prompt,
    coalesce,
)
from dianjing.pipelines.video.subjects import parse_moving_subjects
from dianjing.pipelines.video.windows import (
    LONG_VIDEO_MODES,
    LongVideo,
    SamplingRun,
    plan_image_to_video_runs,
    plan_text_to_video_runs,
    resolve_long_video,
)

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.session import Conversation

IMAGE_BATCH_SIZE = 8  # images of one sampling run; a seed gives the same image in any batch
BYTES_PER_PIXEL = 16  # memory of one pixel of a frame: uint8, and copies of the float32 latents
# sampling runs of one turn of a conversation: two for each of three backgrounds, four objects on white and on black
MAX_SAMPLING_RUNS_PER_TURN = 14


@dataclass(frozen=True, kw_only=True)
class TextToImageRequest(GenerationRequest):
    """A request for images of a prompt; image i uses the seed `seed + i`.

    `output_format` is the format of the files, `output_compression` the quality of JPEG and WebP, from 0 to 100.
    """

    kind: ClassVar[str] = "image"

    prompt: str
    num_images: int = 1
    output_format: ImageFormat = "png"
    output_compression: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        self._validate_fields(
            num_images=partial(check_int, name="num_images", low=1, high=MAX_IMAGES),
            output_compression=partial(check_int, name="output_compression", low=0, high=100),
        )
        assert self.output_format in IMAGE_OUTPUT_FORMATS
        if self.seed is not None:  # the seeds of all images must exist
            ImageRequest(prompt=self.prompt, seed=self.seed, num_images_per_prompt=self.num_images)

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[SamplingRun]:
        assert self.num_inference_steps is not None
        batches = [min(IMAGE_BATCH_SIZE, self.num_images - i) for i in range(0, self.num_images, IMAGE_BATCH_SIZE)]
        return [SamplingRun(num_frames=size, num_steps=self.num_inference_steps) for size in batches]


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


@dataclass(frozen=True, kw_only=True)
class TextToVideoRequest(_VideoRequestBase):
    """A request for a video of a prompt; the fields are those of `TextToVideoPipeline`.

    `continuation_steps` and `continuation_guidance_scale` apply to the frames after the first one.
    """

    kind: ClassVar[str] = "video"

    prompt: str
    long_video: LongVideo | None = None
    continuation_steps: int | None = None
    continuation_guidance_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        if self.long_video not in (None, *LONG_VIDEO_MODES):
            raise DianjingError("long_video_unknown", value=self.long_video, allowed=LONG_VIDEO_MODES)
        self._validate_fields(
            continuation_steps=partial(check_num_inference_steps, name="continuation_steps"),
            continuation_guidance_scale=partial(check_guidance_scale, name="continuation_guidance_scale"),
        )

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Fill in every parameter; frames after the first one take the parameters that are given for that."""
        request = super().with_defaults(capabilities)
        long_video = resolve_long_video(self.long_video, takes_first_frame=capabilities.can_animate)
        if long_video == "autoregressive" and not capabilities.can_animate:
            raise DianjingError("autoregressive_without_first_frame")
        if long_video == "joint" and not capabilities.has_flow_field:
            if self.continuation_steps is not None or self.continuation_guidance_scale is not None:
                raise DianjingError("continuation_without_first_frame")
            return replace(request, long_video=long_video)
        default_steps, default_guidance_scale = capabilities.continuation_params
        return replace(
            request,
            long_video=long_video,
            continuation_steps=coalesce(self.continuation_steps, self.num_inference_steps, default_steps),
            continuation_guidance_scale=coalesce(
                self.continuation_guidance_scale, self.guidance_scale, default_guidance_scale
            ),
        )

    def get_pipeline_params(self) -> dict[str, Any]:
        names = ("long_video", "continuation_steps", "continuation_guidance_scale")
        return super().get_pipeline_params() | {name: getattr(self, name) for name in names}

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[SamplingRun]:
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        return plan_text_to_video_runs(
            num_frames=self.num_frames,
            window_size=capabilities.num_frames,
            num_steps=self.num_inference_steps,
            continuation_steps=coalesce(self.continuation_steps, self.num_inference_steps),
            long_video=self.long_video,
            takes_first_frame=capabilities.can_animate,
            has_flow_field=capabilities.has_flow_field,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToVideoRequest(_VideoRequestBase):
    """A request to animate a PIL image, which is kept as RGB.

    What moves are its regions, whose points are in pixels of the image; without regions it is found from the prompt.
    """

    kind: ClassVar[str] = "animation"

    image: Image.Image
    regions: Sequence[Region] = ()
    prompt: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt:
            check_prompt(self.prompt)
        object.__setattr__(self, "image", check_image(self.image))
        object.__setattr__(self, "regions", tuple(self.regions))
        if not self.regions and not self.prompt:
            raise DianjingError("regions_missing")
        for region in self.regions:
            check_region(region, size=self.image.size)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        request = super().with_defaults(capabilities)
        if not capabilities.can_animate:
            raise DianjingError("model_cannot_animate", model=capabilities.model)
        if len(self.regions) > capabilities.max_regions:
            raise DianjingError("region_count_out_of_range", count=len(self.regions), maximum=capabilities.max_regions)
        if not self.regions:
            parse_moving_subjects(capabilities.motion_parser, self.prompt)
        assert request.num_frames is not None
        if request.num_frames < 2:
            raise DianjingError("motion_needs_frames", num_frames=request.num_frames)
        return request

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        return capabilities.continuation_params

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[SamplingRun]:
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        return plan_image_to_video_runs(
            num_frames=self.num_frames,
            window_size=capabilities.num_frames,
            num_steps=self.num_inference_steps,
            has_flow_field=capabilities.has_flow_field,
        )


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
