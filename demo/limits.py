"""The limits of a server, and the capabilities of the model that it serves."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.pipelines.schedulers import get_fitting_schedulers
from dianjing.pipelines.video.published_models import PublishedModel, VideoTask
from dianjing.weights.adapter_sampling import AdapterSampling
from dianjing.weights.manifest import summarize_names
from dianjing.weights.registry import Size

DEFAULT_MAX_RUN_S = 300.0


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """How much one server accepts.

    `max_run_s` is the longest predicted duration of one request; None: five minutes, and more for a model whose own
    default images take long, see `JobQueue.get_max_run_s`. `max_body_items` bounds the values of a JSON body, of which
    each takes far more memory than it has characters.
    """

    max_queue_length: int = 32
    max_queue_length_per_owner: int = 8
    max_run_s: float | None = None
    max_upload_bytes: int = 16 * 2**20
    max_upload_pixels: int = 16_000_000
    max_upload_bytes_per_visitor: int = 200 * 2**20
    max_upload_bytes_in_all: int = 4 * 2**30
    max_body_bytes: int = 32 * 2**20  # an upload in base64 and the other fields
    max_body_items: int = 400_000
    body_timeout_s: float = 30.0  # between two parts of a body
    max_finished_jobs_per_owner: int = 50
    max_finished_jobs: int = 2000
    result_ttl_s: float = 3600.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and (isinstance(value, bool) or not value > 0):
                raise DianjingError("limit_not_positive", name=each.name, value=repr(value))


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """A LoRA adapter of a server: its name, its default strength, and the noise process that it was trained for.

    sampling: its own steps and guidance scale, of an adapter for few steps. has_own_scheduler: its scheduler takes the
    place of the model's, and the model's default adapter cannot act beside it.
    """

    name: str
    scale: float
    process: str = ""
    sampling: AdapterSampling | None = None
    has_own_scheduler: bool = False


@dataclass(frozen=True, kw_only=True)
class VideoDefaults:
    """The settings of videos that a model has by default; `video_model` is "" for the server's own model."""

    video_model: str
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True, kw_only=True)
class ModelCapabilities:
    """The kinds of requests that a model serves, and its defaults for the parameters that a request leaves unset.

    `num_frames` is None for a model without videos; `max_regions` is 0 for one without motion control.
    `should_refine` is that of `ImageToVideoPipeline`; None: whatever moves by phrases alone is refined.
    `continuation_steps` and `continuation_guidance_scale` apply to frames that continue an image; None: those of an
    image. `has_flow_field`: every window continues the first frame, however long the video is.
    `motion_parser` finds the motions in a prompt; the default knows none: only regions say what moves in an image.
    `trained_sizes`: (width, height) in px. `adapters`, `controlnets`, `preprocessors` and `video_models` are those that
    a request may name; the last are published models, each for one task. `takes_pictures`: an IP-Adapter takes pictures
    as prompts. `scheduler` is the model's own, and `num_layers` the depth of its transformer. `default_sampling`: steps
    and guidance scale of the model's default adapter, which draws the images of requests that give neither.
    """

    model: str
    default_size_px: int
    size_multiple_px: int
    num_inference_steps: int
    guidance_scale: float
    default_sampling: AdapterSampling | None = None
    num_frames: int | None = None
    fps: float = 8.0
    max_regions: int = 0
    should_refine: Callable[..., bool] | None = None
    continuation_steps: int | None = None
    continuation_guidance_scale: float | None = None
    has_flow_field: bool = False
    motion_parser: MotionPromptParser = field(default_factory=lambda: MotionPromptParser(MotionVocabulary()))
    can_chat: bool = True
    licence: str | None = None
    trained_sizes: tuple[Size, ...] = ()
    adapters: tuple[AdapterInfo, ...] = ()
    controlnets: tuple[str, ...] = ()
    num_control_layers: int = 0
    scheduler: Any = None
    num_layers: int | None = None
    preprocessors: tuple[str, ...] = ()
    takes_pictures: bool = False
    video_models: tuple[PublishedModel, ...] = ()

    def find_video_model(self, name: str, task: VideoTask) -> PublishedModel:
        """Find a published model by its name. Raises: DianjingError for one that the server does not have."""
        models = {model.name: model for model in self.list_video_models(task)}
        if name not in models:
            raise DianjingError("video_model_not_served", name=name, names=[self.model, *models])
        return models[name]

    @property
    def continuation_params(self) -> tuple[int, float]:
        """Steps and guidance scale of frames that continue an image."""
        steps, guidance_scale = self.continuation_steps, self.continuation_guidance_scale
        return (
            self.num_inference_steps if steps is None else steps,
            self.guidance_scale if guidance_scale is None else guidance_scale,
        )

    @property
    def fitting_schedulers(self) -> list[str]:
        """Classes of diffusers that sample from the model, by name."""
        return [] if self.scheduler is None else get_fitting_schedulers(self.scheduler)

    @property
    def can_generate_video(self) -> bool:
        return self.num_frames is not None

    @property
    def can_animate(self) -> bool:
        return self.can_generate_video and self.max_regions > 0

    def can_do(self, task: VideoTask) -> bool:
        """True if the server's own model has a task."""
        return self.can_animate if task == "image-to-video" else self.can_generate_video

    def list_video_models(self, task: VideoTask) -> list[PublishedModel]:
        """List the published models for a task."""
        return [model for model in self.video_models if model.pipeline.task == task]

    def has_task(self, task: VideoTask) -> bool:
        """True if the server's own model or one of its published models has a task."""
        return self.can_do(task) or bool(self.list_video_models(task))

    def get_video_defaults(self, task: VideoTask) -> VideoDefaults:
        """Get the defaults of a task: those of the server's own model, or else of its first published one."""
        if not self.can_do(task):
            model = self.list_video_models(task)[0]
            return VideoDefaults(
                video_model=model.name,
                num_frames=model.pipeline.default_num_frames,
                fps=model.default_fps,
                num_inference_steps=model.pipeline.default_num_inference_steps,
                guidance_scale=model.pipeline.default_guidance_scale,
            )
        assert self.num_frames is not None
        is_animation = task == "image-to-video"
        own_params = (self.num_inference_steps, self.guidance_scale)
        steps, guidance_scale = self.continuation_params if is_animation else own_params
        return VideoDefaults(
            video_model="",
            num_frames=self.num_frames,
            fps=self.fps,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
        )

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes (width, height) in px to choose from, the default one first."""
        default = (self.default_size_px, self.default_size_px)
        return (default, *(size for size in self.trained_sizes if size != default))

    def format_sizes(self, maximum: int = 5) -> list[str | Message]:
        """The trained sizes for a message."""
        return summarize_names([format_size(*size) for size in self.trained_sizes or self.sizes], maximum)


def format_size(width: int, height: int) -> str:
    return f"{width} x {height}"
