"""Validation of the arguments of pipelines and of image requests, before torch is imported and weights are loaded.

Every check returns the value in its plain Python type, or raises an error that says what was given, what is allowed and
what to do. B batch of images or videos, L text tokens, T text width; latents are B C Y X or B C F Y X.
"""

import operator
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import psutil

from dianjing.errors import DianjingError

MAX_PROMPT_CHARS = 4096
MAX_SIDE_PX = 8192
MAX_STEPS = 1000
MAX_IMAGES = 256
MAX_GUIDANCE_SCALE = 100.0
MAX_SEED = 2**64 - 1  # the largest of torch.Generator.manual_seed
MIN_FPS, MAX_FPS = 0.1, 120.0
MAX_DURATION_S = 1e6
DEFAULT_SIZE_MULTIPLE_PX = 16  # VAE factor 8 times patch 2
Refine = Literal["auto", "on", "off"]  # whether a model generates the frames of an animated image
REFINE_MODES: tuple[Refine, ...] = ("auto", "on", "off")
IMAGE_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def coalesce(*values: Any) -> Any:
    """Return the first value that is not None, or None."""
    return next((value for value in values if value is not None), None)


def format_value(value: object) -> str:
    """Format a value for an error message: printable on any terminal, and short."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_int(value: object, name: str, *, low: int, high: int) -> int:
    """Check for an integer from `low` to `high`; True, "20", 20.0 and NaN are refused."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # of all but integers
        number = None
    if number is None or not low <= number <= high:
        raise DianjingError("integer_out_of_range", name=name, value=format_value(value), low=low, high=high)
    return number


def check_number(value: object, name: str, *, low: float, high: float) -> float:
    """Check for a finite number from `low` to `high`; True, "5" and NaN are refused."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise DianjingError(
            "number_out_of_range", name=name, value=format_value(value), low=f"{low:g}", high=f"{high:g}"
        )
    return float(value)


def check_prompt(value: object, name: str = "prompt") -> str:
    """Check for a text in any script that the tokenizers can take: not empty, not too long, valid Unicode."""
    if not isinstance(value, str):
        raise DianjingError("text_expected", name=name, type_name=type(value).__name__)
    if not value.strip():
        raise DianjingError("prompt_empty", name=name)
    if len(value) > MAX_PROMPT_CHARS:
        raise DianjingError("prompt_too_long", name=name, count=f"{len(value):,}", maximum=f"{MAX_PROMPT_CHARS:,}")
    for position, char in enumerate(value):
        category, code = unicodedata.category(char), f"U+{ord(char):04X}"
        if category == "Cs":
            raise DianjingError("prompt_has_surrogate", name=name, code=code, position=position)
        if category == "Cc" and char not in "\t\n\r":
            raise DianjingError("prompt_has_control_character", name=name, code=code, position=position)
    return value


def check_negative_prompt(value: object) -> str | None:
    """Check for a text or None; unlike a prompt it may be empty."""
    if value is None or value == "":
        return value
    return check_prompt(value, "negative_prompt")


def check_side_px(value: object, name: str, *, multiple_px: int = DEFAULT_SIZE_MULTIPLE_PX) -> int:
    """Check for a width or height in px that is a multiple of the model's grid."""
    side_px = check_int(value, name, low=1, high=MAX_SIDE_PX)
    if side_px % multiple_px:
        below = side_px // multiple_px * multiple_px
        raise DianjingError(
            "side_not_multiple",
            name=name,
            side_px=side_px,
            multiple_px=multiple_px,
            nearest=[side for side in (below, below + multiple_px) if side],
        )
    return side_px


def check_num_inference_steps(value: object, name: str = "num_inference_steps") -> int:
    """Check for a number of steps from 1 to MAX_STEPS."""
    return check_int(value, name, low=1, high=MAX_STEPS)


def check_num_per_prompt(value: object, name: str) -> int:
    """Check for a number of images or videos per prompt from 1 to MAX_IMAGES."""
    return check_int(value, name, low=1, high=MAX_IMAGES)


def check_seed(value: object) -> int:
    """Check for a seed that torch takes."""
    return check_int(value, "seed", low=0, high=MAX_SEED)


def check_guidance_scale(value: object, name: str = "guidance_scale") -> float:
    """Check for a guidance scale from 0 to MAX_GUIDANCE_SCALE; 1 or less switches guidance off."""
    return check_number(value, name, low=0, high=MAX_GUIDANCE_SCALE)


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Checked settings of a request for images; None leaves a setting to the model.

    Image i of a prompt is generated from `seed + i`, whatever batch it is in.
    Raises: ValueError for any value that is out of range.
    """

    prompt: str
    seed: int
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    num_images_per_prompt: int = 1
    size_multiple_px: int = DEFAULT_SIZE_MULTIPLE_PX

    def __post_init__(self) -> None:
        check_negative_prompt(self.negative_prompt)
        checked: dict[str, object] = {"prompt": check_prompt(self.prompt), "seed": check_seed(self.seed)}
        checked["num_images_per_prompt"] = check_num_per_prompt(self.num_images_per_prompt, "num_images_per_prompt")
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                side = check_side_px(getattr(self, name), name, multiple_px=self.size_multiple_px)
                checked[name] = side
        if self.num_inference_steps is not None:
            checked["num_inference_steps"] = check_num_inference_steps(self.num_inference_steps)
        if self.guidance_scale is not None:
            checked["guidance_scale"] = check_guidance_scale(self.guidance_scale)
        for name, value in checked.items():  # plain numbers, also for NumPy's
            object.__setattr__(self, name, value)
        if self.seed + self.num_images_per_prompt - 1 > MAX_SEED:
            raise DianjingError("seed_too_large", seed=self.seed, count=self.num_images_per_prompt, maximum=MAX_SEED)

    @property
    def seeds(self) -> list[int]:
        """One seed for each image."""
        return [self.seed + i for i in range(self.num_images_per_prompt)]


def check_fps(fps: object) -> float:
    """Check for a frame rate from MIN_FPS to MAX_FPS."""
    if isinstance(fps, bool) or not isinstance(fps, Real) or not MIN_FPS <= float(fps) <= MAX_FPS:
        raise DianjingError("fps_out_of_range", value=format_value(fps), minimum=f"{MIN_FPS:g}", maximum=f"{MAX_FPS:g}")
    return float(fps)


def check_num_frames(num_frames: object, duration_s: object, fps: float, *, bytes_per_frame: int) -> int | None:
    """Resolve the number of frames from num_frames or duration_s; None if neither is given.

    Raises: DianjingError if both are given, and for more frames than fit in half of the free memory.
    """
    if num_frames is not None and duration_s is not None:
        raise DianjingError("length_given_twice")
    if duration_s is not None:
        if (
            isinstance(duration_s, bool)
            or not isinstance(duration_s, Real)
            or not 0 < float(duration_s) < MAX_DURATION_S
        ):
            raise DianjingError(
                "duration_out_of_range", value=format_value(duration_s), maximum=f"{MAX_DURATION_S:,.0f}"
            )
        num_frames = max(1, round(float(duration_s) * fps))
    if num_frames is None:
        return None
    max_frames = max(2, int(0.5 * psutil.virtual_memory().available / bytes_per_frame))
    if isinstance(num_frames, int) and num_frames > max_frames:
        raise DianjingError("too_many_frames", num_frames=num_frames, maximum=f"{max_frames:,}")
    return check_int(num_frames, "num_frames", low=1, high=max_frames)


def check_prompts(value: object) -> list[str]:
    """Check one prompt or a list of them; return a list."""
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list | tuple):
        raise DianjingError("prompts_expected", type_name=type(value).__name__)
    if not 1 <= len(prompts) <= MAX_IMAGES:
        raise DianjingError("prompt_count_out_of_range", count=len(prompts), maximum=MAX_IMAGES)
    name = "prompt" if len(prompts) == 1 else "prompt[{}]"
    return [check_prompt(prompt, name.format(i)) for i, prompt in enumerate(prompts)]


def check_negative_prompts(value: object, num_prompts: int) -> list[str]:
    """Check for one negative prompt or one for each prompt, and return a list of num_prompts; None becomes ""."""
    if value is None or isinstance(value, str):
        return [check_negative_prompt(value) or ""] * num_prompts
    if not isinstance(value, list | tuple):
        raise DianjingError("text_expected", name="negative_prompt", type_name=type(value).__name__)
    if len(value) != num_prompts:
        raise DianjingError("negative_prompt_count", count=len(value), num_prompts=num_prompts)
    return [check_negative_prompt(prompt) or "" for prompt in value]


def check_generator(generator: object, batch_size: int) -> None:
    """Raise DianjingError unless `generator` is None, one torch.Generator, or a list with one for each of the batch."""
    from torch import Generator

    generators = list(generator) if isinstance(generator, list | tuple) else [generator] * batch_size
    if len(generators) != batch_size:
        raise DianjingError("generator_count", count=len(generators), batch_size=batch_size)
    for item in generators:
        if item is not None and not isinstance(item, Generator):
            raise DianjingError("generator_type", type_name=type(item).__name__)


def check_output_type(value: object, allowed: Collection[str] = IMAGE_OUTPUT_TYPES) -> None:
    """Raise DianjingError for an output type that the pipeline does not have."""
    if value not in allowed:
        raise DianjingError("value_not_allowed", name="output_type", value=format_value(value), allowed=list(allowed))


def check_refine(refine: object) -> None:
    """Raise DianjingError for a mode of refinement that does not exist."""
    if refine not in REFINE_MODES:
        raise DianjingError("value_not_allowed", name="refine", value=format_value(refine), allowed=REFINE_MODES)


def check_callback_inputs(tensor_names: object, allowed: Collection[str]) -> list[str]:
    """Check for a list of names of tensors that callbacks may get."""
    name = "callback_on_step_end_tensor_inputs"
    if not isinstance(tensor_names, list | tuple):
        raise DianjingError("value_not_allowed", name=name, value=format_value(tensor_names), allowed=list(allowed))
    for tensor_name in tensor_names:
        if tensor_name not in allowed:
            raise DianjingError("value_not_allowed", name=name, value=format_value(tensor_name), allowed=list(allowed))
    return list(tensor_names)


def check_image_meta_size(original_size: object, target_size: object, crops_coords_top_left: object) -> tuple[int, ...]:
    """Check three pairs in px, (height, width) or (top, left), and join them to the six numbers of the model."""
    pairs = {"original_size": original_size, "target_size": target_size, "crops_coords_top_left": crops_coords_top_left}
    numbers: list[int] = []
    for name, pair in pairs.items():
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(number, int) for number in pair):
            raise DianjingError("pixel_pair_expected", name=name, value=format_value(pair))
        numbers += pair
    return tuple(numbers)
