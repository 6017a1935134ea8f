"""The base of requests for videos: length, published models, transparency, and the work of sampling runs."""

import secrets
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities, format_size
from dianjing.demo.request_base import GenerationRequest, count_passes
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.validation import check_fps, check_num_frames
from dianjing.pipelines.video.published_models import VideoTask
from dianjing.pipelines.video.windows import SamplingRun, get_max_window_size
from dianjing.weights.registry import Size

# without a meaning for published video models
OWN_MODEL_OPTIONS = (
    *("guidance_mode", "scheduler", "adapters"),
    *("long_video", "continuation_steps", "continuation_guidance_scale"),
)
BYTES_PER_PIXEL = 16  # memory of one pixel of a frame: uint8, and copies of the float32 latents


@dataclass(frozen=True, kw_only=True)
class VideoRequestBase(GenerationRequest):
    """The fields that videos share; the length is given as num_frames or duration_s.

    `video_model` is the name of one of the server's published models; None: the model of the server. `is_transparent`:
    what moves is cut out of its background, and moved by the motion field of the model.
    """

    task: ClassVar[VideoTask]

    video_model: str | None = None
    num_frames: int | None = None
    duration_s: float | None = None
    fps: float | None = None
    is_transparent: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._validate_fields(fps=check_fps)
        self._resolve_num_frames(fps=self.fps or 8.0, pixels=(self.width or 1) * (self.height or 1))

    def _resolve_num_frames(self, *, fps: float, pixels: int) -> int | None:
        return check_num_frames(self.num_frames, self.duration_s, fps, bytes_per_frame=BYTES_PER_PIXEL * pixels)

    def with_published_defaults(self, capabilities: ModelCapabilities, image_size: Size | None = None) -> Self:
        """Fill in the parameters of a request that names a published model, whose own defaults are the pipeline's.

        Raises: DianjingError for what this model cannot generate.
        """
        assert self.video_model is not None
        model = capabilities.find_video_model(self.video_model, self.task)
        if self.is_transparent:
            raise DianjingError("transparent_video_unsupported", model=self.video_model)
        if self.negative_prompt and not model.pipeline.takes_negative_prompt:
            model.refuse_option("negative_prompt")
        for name in OWN_MODEL_OPTIONS:
            if getattr(self, name, None) not in (None, "", {}):
                model.refuse_option(name)
        size = model.resolve_size(self.width, self.height, image_size) or model.choose_default_size()
        return replace(
            self,
            width=size[0],
            height=size[1],
            num_frames=model.resolve_num_frames(self.num_frames, self.duration_s, self.fps),
            duration_s=None,
            fps=model.default_fps if self.fps is None else self.fps,
            num_inference_steps=self.num_inference_steps or model.pipeline.default_num_inference_steps,
            seed=secrets.randbelow(2**32) if self.seed is None else self.seed,
            adapters={},
        )

    def without_sampling_params(self) -> Self:
        """The same request with the model's own size, length and steps."""
        names = ("width", "height", "num_frames", "duration_s", "fps", "num_inference_steps", "guidance_scale")
        cleared: dict[str, Any] = dict.fromkeys(names)
        return replace(self, **cleared)

    def format_sizes(self, capabilities: ModelCapabilities) -> list[str | Message]:
        """The sizes of the model of a request, for a message."""
        if self.video_model is None:
            return capabilities.format_sizes()
        model = capabilities.find_video_model(self.video_model, self.task)
        return [format_size(*(model.default_size or model.choose_default_size()))]

    def get_published_params(self) -> dict[str, Any]:
        """The arguments of a published model's pipeline that are set."""
        params = GenerationRequest.get_pipeline_params(self) | {"num_frames": self.num_frames}
        return {name: value for name, value in params.items() if value not in (None, "")}

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        return [] if self.video_model is not None else super().list_warnings(capabilities)

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


def make_work(run: SamplingRun, guidance_scale: float | None, capabilities: ModelCapabilities) -> SamplingWork:
    assert capabilities.num_frames is not None
    return SamplingWork(
        num_frames=run.num_frames,
        num_steps=run.num_steps,
        num_passes=count_passes(guidance_scale),
        window_size=min(run.num_frames, get_max_window_size(capabilities.num_frames)),
    )
