"""Requests to the demo, checked when they are made; `with_defaults` fills in what a request leaves to the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image
from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.request_base import (
    ImageRequestBase,
    VideoRequestBase,
    check_adapters,
    count_passes,
    resolve_adapters,
)
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.image_conditions import ControlInput
from dianjing.pipelines.media.crop import choose_size, list_default_sizes
from dianjing.pipelines.media.image import check_image
from dianjing.pipelines.media.image_file import IMAGE_OUTPUT_FORMATS, ImageFormat
from dianjing.pipelines.segmentation.base import Region, check_region
from dianjing.pipelines.validation import (
    ImageRequest,
    check_guidance_scale,
    check_int,
    check_num_inference_steps,
    check_prompt,
    coalesce,
    format_value,
)
from dianjing.pipelines.video.subjects import parse_moving_subjects
from dianjing.pipelines.video.windows import (
    LONG_VIDEO_MODES,
    LongVideo,
    SamplingRun,
    get_max_window_size,
    plan_image_to_video_runs,
    plan_text_to_video_runs,
    resolve_long_video,
)

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.session import Conversation

# sampling runs of one turn of a conversation: two for each of three backgrounds, four objects on white and on black
MAX_SAMPLING_RUNS_PER_TURN = 14


@dataclass(frozen=True, kw_only=True)
class TextToImageRequest(ImageRequestBase):
    """A request for images of a prompt; image i uses the seed `seed + i`.

    `output_format` is the format of the files, `output_compression` the quality of JPEG and WebP, from 0 to 100.
    """

    kind: ClassVar[str] = "image"
    has_optional_prompt: ClassVar[bool] = False

    prompt: str
    output_format: ImageFormat = "png"
    output_compression: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt or not self.has_optional_prompt:
            check_prompt(self.prompt)
        self._validate_fields(output_compression=partial(check_int, name="output_compression", low=0, high=100))
        assert self.output_format in IMAGE_OUTPUT_FORMATS
        if self.seed is not None:  # the seeds of all images must exist
            ImageRequest(prompt=self.prompt or "image", seed=self.seed, num_images_per_prompt=self.num_images)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        request = super().with_defaults(capabilities)
        if self.pictures and not capabilities.takes_pictures:
            raise DianjingError("no_ip_adapter_served")
        return replace(request, controls=[_resolve_control(control, capabilities) for control in self.controls])


def _resolve_control(control: ControlInput, capabilities: ModelCapabilities) -> ControlInput:
    """Name the only ControlNet of a server where a control names none. Raises: DianjingError for unknown names."""
    names = capabilities.controlnets
    if not names:
        raise DianjingError("no_controlnet_served")
    if control.controlnet not in (names if len(names) > 1 else (None, *names)):
        raise DianjingError("controlnet_not_served", name=format_value(control.controlnet), names=list(names))
    allowed = capabilities.preprocessors
    if control.preprocessor not in (None, *allowed):
        raise DianjingError("preprocessor_not_served", name=format_value(control.preprocessor), names=list(allowed))
    return replace(control, controlnet=control.controlnet or names[0])


@dataclass(frozen=True, kw_only=True)
class TextToVideoRequest(VideoRequestBase):
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

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        runs = plan_text_to_video_runs(
            num_frames=self.num_frames,
            window_size=capabilities.num_frames,
            num_steps=self.num_inference_steps,
            continuation_steps=coalesce(self.continuation_steps, self.num_inference_steps),
            long_video=self.long_video,
            takes_first_frame=capabilities.can_animate,
            has_flow_field=capabilities.has_flow_field,
        )
        scales = [self.guidance_scale, *[coalesce(self.continuation_guidance_scale, self.guidance_scale)] * len(runs)]
        return [_to_work(run, scale, capabilities) for run, scale in zip(runs, scales, strict=False)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToVideoRequest(VideoRequestBase):
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

    def _choose_size(self, capabilities: ModelCapabilities) -> dict[str, Any]:
        """Width and height in px; a side that is left out follows the aspect ratio of the image."""
        width, height = choose_size(
            self.image.size,
            base_px=capabilities.default_size_px,
            multiple_px=capabilities.size_multiple_px,
            width=self.width,
            height=self.height,
        )
        return {"width": width, "height": height}

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        """Warnings before the run; the sizes that follow the aspect ratio of an image need none."""
        sizes = list_default_sizes(base_px=capabilities.default_size_px, multiple_px=capabilities.size_multiple_px)
        return [] if self.get_size(capabilities) in sizes else super().list_warnings(capabilities)

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        return capabilities.continuation_params

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        runs = plan_image_to_video_runs(
            num_frames=self.num_frames,
            window_size=capabilities.num_frames,
            num_steps=self.num_inference_steps,
            has_flow_field=capabilities.has_flow_field,
        )
        return [_to_work(run, self.guidance_scale, capabilities) for run in runs]


def _to_work(run: SamplingRun, guidance_scale: float | None, capabilities: ModelCapabilities) -> SamplingWork:
    assert capabilities.num_frames is not None
    return SamplingWork(
        num_frames=run.num_frames,
        num_steps=run.num_steps,
        num_passes=count_passes(guidance_scale),
        window_size=min(run.num_frames, get_max_window_size(capabilities.num_frames)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConversationRequest:
    """A request for the next turn of a conversation of `InferenceEngine.create_conversation`."""

    kind: ClassVar[str] = "conversation"

    conversation: "Conversation"
    text: str
    visible_label: bool | None = None
    adapters: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_prompt(self.text, "text")
        if self.adapters is not None:
            object.__setattr__(self, "adapters", check_adapters(self.adapters))

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Fill in the adapters; the conversation holds the other parameters."""
        if not capabilities.can_chat:
            raise DianjingError("model_cannot_chat", model=capabilities.model)
        return replace(self, adapters=resolve_adapters(self.adapters, capabilities))

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        """The sampling runs of the longest possible turn."""
        steps = self.conversation.num_inference_steps or capabilities.num_inference_steps
        passes = count_passes(coalesce(self.conversation.guidance_scale, capabilities.guidance_scale))
        return [SamplingWork(num_frames=1, num_steps=steps, num_passes=passes)] * MAX_SAMPLING_RUNS_PER_TURN

    def get_size(self, capabilities: ModelCapabilities) -> tuple[int, int]:
        return capabilities.default_size_px, capabilities.default_size_px

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        return []


AnyRequest = TextToImageRequest | TextToVideoRequest | ImageToVideoRequest | ConversationRequest
