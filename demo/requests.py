"""Requests to the demo, checked when they are made; `with_defaults` fills in what a request leaves to the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from PIL import Image
from typing_extensions import Self

from dianjing.demo.conversation_request import ConversationRequest
from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.request_base import ImageRequestBase, VideoRequestBase, count_passes
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.image_conditions import ControlInput
from dianjing.pipelines.media.crop import choose_size, list_default_sizes
from dianjing.pipelines.media.image import check_image_with_alpha
from dianjing.pipelines.media.image_file import IMAGE_OUTPUT_FORMATS, ImageFormat
from dianjing.pipelines.segmentation.base import MAX_WARPED_REGIONS, Region, check_region
from dianjing.pipelines.validation import (
    ImageRequest,
    Refine,
    check_guidance_scale,
    check_int,
    check_num_inference_steps,
    check_prompt,
    check_refine,
    coalesce,
    format_value,
)
from dianjing.pipelines.video.published_models import VideoTask
from dianjing.pipelines.video.subjects import parse_moving_subjects
from dianjing.pipelines.video.warped_image import choose_warped_size
from dianjing.pipelines.video.windows import (
    LONG_VIDEO_MODES,
    LongVideo,
    SamplingRun,
    get_max_window_size,
    plan_image_to_video_runs,
    plan_text_to_video_runs,
    resolve_long_video,
)


@dataclass(frozen=True, kw_only=True)
class TextToImageRequest(ImageRequestBase):
    """A request for images of a prompt; image i uses the seed `seed + i`.

    `output_format` is the format of the files, `output_compression` the quality of JPEG and WebP, from 0 to 100.
    `is_transparent`: what the prompt names is cut out of its background.
    """

    kind: ClassVar[str] = "image"
    has_optional_prompt: ClassVar[bool] = False

    prompt: str
    output_format: ImageFormat = "png"
    output_compression: int | None = None
    is_transparent: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_transparent and self.output_format == "jpeg":
            raise DianjingError("transparent_format_opaque", format="jpeg", allowed=["png", "webp"])
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
    task: ClassVar[VideoTask] = "text-to-video"

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
        if self.video_model is not None:
            return self.with_published_defaults(capabilities)
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
        if self.video_model is not None:  # its duration is predicted by `VideoModels`
            return []
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
    """A request to animate a PIL image, which is kept as RGB, or RGBA if it has transparent parts.

    What moves are its regions, whose points are in pixels of the image; without regions it is found from the prompt.
    `refine` is that of `ImageToVideoPipeline`; with defaults filled in it is "on" or "off". `strict_background` is that
    of `MotionGuide`, for published models; other models know no free background.
    """

    kind: ClassVar[str] = "animation"
    task: ClassVar[VideoTask] = "image-to-video"

    image: Image.Image
    regions: Sequence[Region] = ()
    prompt: str = ""
    refine: Refine = "auto"
    strict_background: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt:
            check_prompt(self.prompt)
        object.__setattr__(self, "image", check_image_with_alpha(self.image))
        object.__setattr__(self, "regions", tuple(self.regions))
        if not self.regions and not self.prompt:
            raise DianjingError("regions_missing")
        for region in self.regions:
            check_region(region, size=self.image.size)
        check_refine(self.refine)
        if self.refine == "on" and any(region.needs_warp for region in self.regions):
            raise DianjingError("refine_with_paths")
        if not self.strict_background and self.video_model is None:
            raise DianjingError("free_background_unsupported")

    @property
    def is_refined(self) -> bool:
        """True if the model generates the frames; else its motion field moves the image at its own size."""
        return self.refine != "off"

    @property
    def _moves_by_paths_alone(self) -> bool:
        return bool(self.regions) and not any(region.motion for region in self.regions)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        if self.video_model is not None:
            if self.refine != "auto":
                capabilities.find_video_model(self.video_model, self.task).refuse_option("refine")
            request = self.with_published_defaults(capabilities, self.image.size)
            if self.regions:
                request._check_motion(MAX_WARPED_REGIONS)
            return request
        if self.refine == "auto":
            return self._resolve_refine(capabilities).with_defaults(capabilities)
        request = super().with_defaults(capabilities)
        if not capabilities.can_animate:
            raise DianjingError("model_cannot_animate", model=capabilities.model)
        if not (self.is_refined or capabilities.has_flow_field) and not self._moves_by_paths_alone:
            raise DianjingError("model_without_flow_field")
        if not self.regions:
            parse_moving_subjects(capabilities.motion_parser, self.prompt)
        request._check_motion(capabilities.max_regions if self.is_refined else MAX_WARPED_REGIONS)
        return request

    def _check_motion(self, max_regions: int) -> None:
        """Raise DianjingError for too many regions, and for a video of one frame."""
        if len(self.regions) > max_regions:
            raise DianjingError("region_count_out_of_range", count=len(self.regions), maximum=max_regions)
        assert self.num_frames is not None
        if self.num_frames < 2:
            raise DianjingError("motion_needs_frames", num_frames=self.num_frames)

    def _resolve_refine(self, capabilities: ModelCapabilities) -> Self:
        """Decide now what "auto" is, by the pipeline's own rule: the sides that are filled in would change it."""
        if capabilities.should_refine is None:
            is_refined = not any(region.needs_warp for region in self.regions)
        else:
            is_refined = capabilities.should_refine(self.image, self.regions, height=self.height, width=self.width)
        return replace(self, refine="on" if is_refined else "off")

    def _choose_size(self, capabilities: ModelCapabilities) -> dict[str, Any]:
        """Width and height in px; a side that is left out follows the aspect ratio of the image."""
        if self.is_refined:
            width, height = choose_size(
                self.image.size,
                base_px=capabilities.default_size_px,
                multiple_px=capabilities.size_multiple_px,
                width=self.width,
                height=self.height,
            )
        else:
            width, height = choose_warped_size(self.image.size, width=self.width, height=self.height)
        return {"width": width, "height": height}

    def _get_size_multiple_px(self, capabilities: ModelCapabilities) -> int:
        return super()._get_size_multiple_px(capabilities) if self.is_refined else 1

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        """Warnings before the run; the sizes that follow the aspect ratio of an image need none."""
        if self.video_model is not None or not self.is_refined:
            return []
        sizes = list_default_sizes(base_px=capabilities.default_size_px, multiple_px=capabilities.size_multiple_px)
        return [] if self.get_size(capabilities) in sizes else super().list_warnings(capabilities)

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        return capabilities.continuation_params

    def get_pipeline_params(self) -> dict[str, Any]:
        return super().get_pipeline_params() | {"refine": self.refine}

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        """The sampling runs; none if the image itself is moved, or by a published model."""
        if self.video_model is not None or not self.is_refined:
            return []
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


AnyRequest = TextToImageRequest | TextToVideoRequest | ImageToVideoRequest | ConversationRequest
