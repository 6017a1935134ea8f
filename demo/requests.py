"""Requests to the demo, checked when they are made; `with_defaults` fills in what a request leaves to the model."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from typing_extensions import Self

from dianjing.demo.album_request import StickerAlbumRequest
from dianjing.demo.animation_request import ImageToVideoRequest
from dianjing.demo.conversation_request import ConversationRequest
from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.request_base import ImageRequestBase
from dianjing.demo.video_request_base import VideoRequestBase, make_work
from dianjing.errors import DianjingError
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.image_conditions import ControlInput
from dianjing.pipelines.media.image_file import IMAGE_OUTPUT_FORMATS, ImageFormat
from dianjing.pipelines.validation import (
    ImageRequest,
    check_guidance_scale,
    check_int,
    check_num_inference_steps,
    check_prompt,
    coalesce,
    format_value,
)
from dianjing.pipelines.video.published_models import VideoTask
from dianjing.pipelines.video.windows import (
    LONG_VIDEO_MODES,
    LongVideo,
    SamplingRun,
    plan_text_to_video_runs,
    resolve_long_video,
)

CONTINUATION_OPTIONS = ("long_video", "continuation_steps", "continuation_guidance_scale")


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
        if self.is_transparent:
            return self._with_transparent_defaults(capabilities)
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

    def _with_transparent_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Fill in the parameters of a video whose first frame alone is sampled."""
        if useless := [name for name in CONTINUATION_OPTIONS if getattr(self, name) is not None]:
            raise DianjingError("transparent_without_continuation", options=useless)
        if not capabilities.has_flow_field:
            raise DianjingError("transparent_video_unsupported", model=capabilities.model)
        return super().with_defaults(capabilities)

    def get_pipeline_params(self) -> dict[str, Any]:
        params = super().get_pipeline_params()
        return params if self.is_transparent else params | {name: getattr(self, name) for name in CONTINUATION_OPTIONS}

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        if self.video_model is not None:  # its duration is predicted by `VideoModels`
            return []
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        if self.is_transparent:
            run = SamplingRun(num_frames=1, num_steps=self.num_inference_steps)
            return [make_work(run, self.guidance_scale, capabilities)]
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
        return [make_work(run, scale, capabilities) for run, scale in zip(runs, scales, strict=False)]


AnyRequest = TextToImageRequest | TextToVideoRequest | ImageToVideoRequest | ConversationRequest | StickerAlbumRequest
