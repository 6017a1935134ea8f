"""What may be asked of the demo, checked when it is made; `settled` fills in what a model leaves open.

Cost is pixels x frames x steps over all that one request draws.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image
from typing_extensions import Self

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
import io

from dianjing.demo.limits import ModelCapabilities, ServerLimits

IMAGE_BATCH_SIZE = 8  # pictures of one batch; a seed gives the same picture in any batch
BYTES_PER_PIXEL = 16  # of a frame while it is drawn: uint8, and copies of float32 latents
MAX_SAMPLING_RUNS_PER_TURN = (
    14  # of the model in one turn, at most: three backgrounds in two runs each, four objects on white and black
)


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What pictures and films have in common; None leaves a setting to the model, and the seed to chance.

    visible_label: whether the files say in a corner that AI made them; None leaves it to the server.
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
        side = partial(check_side_px, multiple_px=1)
        self._validate_fields(width=lambda value: side(value, "width"), height=lambda value: side(value, "height"))
        self._validate_fields(
            num_inference_steps=check_num_inference_steps, guidance_scale=check_guidance_scale, seed=check_seed
        )

    def _validate_fields(self, **checks) -> None:
        """Keep plain numbers, also where NumPy's were given."""
        for name, check in checks.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(value))

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """The same request with every setting filled in.

        Raises: ValueError for what this model cannot draw.
        """
        sides: dict[str, Any] = {}
        for name in ("width", "height"):
            given = getattr(self, name)
            sides[name] = capabilities.default_size_px if given is None else given
            check_side_px(sides[name], name, multiple_px=capabilities.size_multiple_px)
        usual_steps, usual_guidance = self._get_default_params(capabilities)
        steps = usual_steps if self.num_inference_steps is None else self.num_inference_steps
        guidance = usual_guidance if self.guidance_scale is None else self.guidance_scale
        seed = secrets.randbelow(2**32) if self.seed is None else self.seed
        return replace(self, **sides, num_inference_steps=steps, guidance_scale=guidance, seed=seed)

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        """Steps and guidance where they are left open."""
        return capabilities.num_inference_steps, capabilities.guidance_scale

    def get_cost(self, capabilities: ModelCapabilities) -> int:
        """Of a settled request."""
        assert self.width is not None
        assert self.height is not None
        return self.width * self.height * sum(drawn * steps for drawn, steps in self.sampling_runs(capabilities))

    def sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        """Of the model, for a settled request: how many pictures or frames each draws, and in how many steps."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TextToImageRequest(GenerationRequest):
    """Words become pictures; picture i is drawn from `seed + i`."""

    kind: ClassVar[str] = "image"

    prompt: str
    num_images: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        self._validate_fields(num_images=partial(check_int, name="num_images", low=1, high=MAX_IMAGES))
        if self.seed is not None:  # leaves room for the seeds of all
            ImageRequest(prompt=self.prompt, seed=self.seed, num_images_per_prompt=self.num_images)

    def sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        assert self.num_inference_steps is not None
        batches = [
            min(IMAGE_BATCH_SIZE, self.num_images - first) for first in range(0, self.num_images, IMAGE_BATCH_SIZE)
        ]
        return [(drawn, self.num_inference_steps) for drawn in batches]


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
        if self.duration_s is not None and self.num_frames is not None:
            raise ValueError("num_frames and duration_s are both given; give one of them")
        return check_num_frames(self.num_frames, self.duration_s, fps, bytes_per_frame=BYTES_PER_PIXEL * pixels)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """As of any request; the length becomes a number of frames."""
        if capabilities.num_frames is None:
            raise ValueError(f"the model {capabilities.model} draws pictures only; serve one that was trained for film")
        settled = super().with_defaults(capabilities)
        fps = capabilities.fps if self.fps is None else self.fps
        assert settled.width is not None
        assert settled.height is not None
        asked = self._resolve_num_frames(fps=fps, pixels=settled.width * settled.height)
        num_frames = capabilities.num_frames if asked is None else asked
        return replace(settled, num_frames=num_frames, duration_s=None, fps=fps)

    def _get_window_lengths(self, capabilities: ModelCapabilities) -> list[int]:
        """The frames of each, of a settled request; each begins with the last frame of the one before."""
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        window = capabilities.num_frames
        return [min(window, self.num_frames - first) for first in range(0, self.num_frames - 1, window - 1)]


@dataclass(frozen=True, kw_only=True)
class TextToVideoRequest(_VideoRequestBase):
    """Words become a film; long_film is of `TextToVideoPipeline`."""

    kind: ClassVar[str] = "video"

    prompt: str
    long_video: Literal["joint", "autoregressive"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        if self.long_video not in (None, "joint", "autoregressive"):
            raise ValueError(f"long_film is {self.long_video!r}; give 'joint' or 'continued'")

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        settled = super().with_defaults(capabilities)
        if self.long_video is None:
            return replace(settled, long_video="autoregressive" if capabilities.can_animate else "joint")
        if self.long_video == "autoregressive" and not capabilities.can_animate:
            raise ValueError(
                f"long_film is 'continued', and the model {capabilities.model} takes no first frame; give 'joint'"
            )
        return settled

    def sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        """A picture and the windows that go on from it, or all frames at once."""
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        is_joint = self.long_video == "joint"
        if is_joint and not capabilities.has_flow_field:
            return [(self.num_frames, self.num_inference_steps)]
        windows = [self.num_frames] if is_joint and self.num_frames > 1 else self._get_window_lengths(capabilities)
        is_usual = self.num_inference_steps == capabilities.num_inference_steps
        steps = capabilities.continuation_params[0] if is_usual else self.num_inference_steps
        return [(1, self.num_inference_steps), *((frames, steps) for frames in windows)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToVideoRequest(_VideoRequestBase):
    """Parts of a picture move. image: PIL, kept as RGB; points of the regions are in its pixels."""

    kind: ClassVar[str] = "animation"

    image: Image.Image
    regions: Sequence[Region]
    prompt: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt:
            check_prompt(self.prompt)
        if not isinstance(self.image, Image.Image):
            raise ValueError(f"image is a {type(self.image).__name__}; give a PIL picture")
        check_image_size(*self.image.size)
        object.__setattr__(self, "image", to_rgb(self.image))
        object.__setattr__(self, "regions", tuple(self.regions))
        if not self.regions:
            raise ValueError("no region is given; click on what should move, and say how")
        for region in self.regions:
            check_region(region, size=self.image.size)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        settled = super().with_defaults(capabilities)
        if not capabilities.can_animate:
            raise ValueError(f"the model {capabilities.model} was not trained with clicks; serve one that was")
        if len(self.regions) > capabilities.max_regions:
            raise ValueError(
                f"{len(self.regions)} regions are given; "
                f"this model was trained for 1 to {capabilities.max_regions} at once"
            )
        assert settled.num_frames is not None
        if settled.num_frames < 2:
            raise ValueError(f"num_frames is {settled.num_frames}; what moves takes at least 2")
        return settled

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        return capabilities.continuation_params

    def sampling_runs(self, capabilities: ModelCapabilities) -> list[tuple[int, int]]:
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        windows = self._get_window_lengths(capabilities) if capabilities.has_flow_field else [self.num_frames]
        return [(frames, self.num_inference_steps) for frames in windows]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConversationRequest:
    """One more thing said in a conversation of `Studio.conversation`."""

    kind: ClassVar[str] = "conversation"

    conversation: "Conversation"
    text: str
    visible_label: bool | None = None

    def __post_init__(self) -> None:
        check_prompt(self.text, "text")

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        return self

    def get_cost(self, capabilities: ModelCapabilities) -> int:
        steps = self.conversation.num_inference_steps or capabilities.num_inference_steps
        return MAX_SAMPLING_RUNS_PER_TURN * steps * capabilities.default_size_px**2


AnyRequest = TextToImageRequest | TextToVideoRequest | ImageToVideoRequest | ConversationRequest


def check_cost(request: AnyRequest, capabilities: ModelCapabilities, *, max_cost: int) -> None:
    """Raise ValueError for a settled request that would take this server too long."""
    cost = request.get_cost(capabilities)
    if cost > max_cost:
        raise ValueError(
            f"this asks for {cost:,} pixels x frames x steps; at most {max_cost:,} are drawn at once here: "
            "ask for less of the size, the steps, the number of pictures or the length"
        )


UPLOAD_FORMATS = ("PNG", "JPEG", "WEBP")


def decode_upload(content: bytes, limits: ServerLimits) -> Image.Image:
    """The first frame of an uploaded file as RGB, upright.

    Raises: ValueError for what is no PNG, JPEG or WebP, damaged, or too large.
    """
    if len(content) > limits.max_upload_bytes:
        raise ValueError(f"the picture has {len(content):,} bytes; at most {limits.max_upload_bytes:,} are taken")
    try:
        with Image.open(io.BytesIO(content), formats=UPLOAD_FORMATS) as image:
            if image.width * image.height > limits.max_upload_pixels:
                raise Image.DecompressionBombError
            check_image_size(*image.size)
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError:
        raise ValueError(f"the picture has more than {limits.max_upload_pixels:,} pixels; scale it down") from None
    except (OSError, SyntaxError, EOFError):
        raise ValueError(
            f"the picture cannot be read; give a whole file of one of the kinds {', '.join(UPLOAD_FORMATS)}"
        ) from None
