"""The limits of a server, and the capabilities of the model that it serves."""

from dataclasses import dataclass, field, fields

from dianjing.errors import DianjingError
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser
from dianjing.pipelines.prompting.motions import MotionVocabulary


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """How much one server accepts.

    `max_cost` counts pixels x frames x steps: 100 million are two images of 1024 px in 50 steps. `max_body_items`
    bounds the values of a JSON body, of which each takes far more memory than it has characters.
    """

    max_queue_length: int = 32
    max_queue_length_per_owner: int = 8
    max_cost: int = 100_000_000
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
            if isinstance(value, bool) or not value > 0:
                raise DianjingError("limit_not_positive", name=each.name, value=repr(value))


@dataclass(frozen=True, kw_only=True)
class ModelCapabilities:
    """The kinds of requests that a model serves, and its defaults for the parameters that a request leaves unset.

    `num_frames` is None for a model without videos; `max_regions` is 0 for one without motion control.
    `continuation_steps` and `continuation_guidance_scale` apply to frames that continue an image; None: those of an
    image. `has_flow_field`: every window continues the first frame, however long the video is.
    `motion_parser` finds the motions in a prompt; the default knows none: only regions say what moves in an image.
    """

    model: str
    default_size_px: int
    size_multiple_px: int
    num_inference_steps: int
    guidance_scale: float
    num_frames: int | None = None
    fps: float = 8.0
    max_regions: int = 0
    continuation_steps: int | None = None
    continuation_guidance_scale: float | None = None
    has_flow_field: bool = False
    motion_parser: MotionPromptParser = field(default_factory=lambda: MotionPromptParser(MotionVocabulary()))

    @property
    def continuation_params(self) -> tuple[int, float]:
        """Steps and guidance scale of frames that continue an image."""
        steps, guidance_scale = self.continuation_steps, self.continuation_guidance_scale
        return (
            self.num_inference_steps if steps is None else steps,
            self.guidance_scale if guidance_scale is None else guidance_scale,
        )

    @property
    def can_generate_video(self) -> bool:
        return self.num_frames is not None

    @property
    def can_animate(self) -> bool:
        return self.can_generate_video and self.max_regions > 0
