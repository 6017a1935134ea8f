"""Validation of the arguments of pipelines and of image requests, before torch is imported and weights are loaded.

Every check returns the value in its plain Python type, or raises an error that says what was given, what is allowed and
what to do. B batch of images or videos, L text tokens, T text width; latents are B C Y X or B C F Y X.
"""

import operator
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from torch import Tensor

MAX_PROMPT_CHARS = 4096
MAX_SIDE_PX = 8192
MAX_STEPS = 1000
MAX_IMAGES = 256
MAX_GUIDANCE_SCALE = 100.0
MAX_SEED = 2**64 - 1  # the largest of torch.Generator.manual_seed
DEFAULT_SIZE_MULTIPLE_PX = 16  # VAE factor 8 times patch 2


def _format_value(value: object) -> str:
    """Format a value for an error message: printable on any terminal, and short."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_int(value: object, name: str, *, low: int, high: int) -> int:
    """Check for an integer from `low` to `high`; True, "20", 20.0 and NaN are refused."""
    allowed = f"give a whole number from {low} to {high}"
    if isinstance(value, bool):
        raise ValueError(f"{name} is {value}; {allowed}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # raises for all but integers
    except TypeError:
        kind = type(value).__name__
        raise ValueError(f"{name} is {_format_value(value)} ({kind}); {allowed}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {_format_value(number)}; {allowed}")
    return number


def check_prompt(value: object, name: str = "prompt") -> str:
    """Check for a text in any script that the tokenizers can take: not empty, not too long, valid Unicode."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is of type {type(value).__name__}; give a text")
    if not value.strip():
        raise ValueError(f"{name} is empty; say in Chinese or English what to draw")
    if len(value) > MAX_PROMPT_CHARS:
        raise ValueError(
            f"{name} has {len(value):,} characters; at most {MAX_PROMPT_CHARS:,} are taken "
            "(the text encoders read a few hundred tokens): shorten it"
        )
    for position, char in enumerate(value):
        category = unicodedata.category(char)
        if category == "Cs":
            raise ValueError(
                f"{name} holds half of a surrogate pair (U+{ord(char):04X}) at character {position}; "
                "it is not valid Unicode: check how the text was decoded (UTF-8 is expected)"
            )
        if category == "Cc" and char not in "\t\n\r":
            raise ValueError(f"{name} holds the control character U+{ord(char):04X} at character {position}; remove it")
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
        above = below + multiple_px
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"{name} {side_px} px is not a multiple of {multiple_px}, the grid of this model; try {nearest}"
        )
    return side_px


def check_num_inference_steps(value: object) -> int:
    """Check for a number of steps from 1 to MAX_STEPS."""
    return check_int(value, "num_inference_steps", low=1, high=MAX_STEPS)


def check_num_images(value: object) -> int:
    """Check for a number of images per prompt from 1 to MAX_IMAGES."""
    return check_int(value, "num_images_per_prompt", low=1, high=MAX_IMAGES)


def check_seed(value: object) -> int:
    """Check for a seed that torch takes."""
    return check_int(value, "seed", low=0, high=MAX_SEED)


def check_guidance_scale(value: object) -> float:
    """Check for a finite guidance scale; 1 or less switches guidance off."""
    allowed = f"give a number from 0 to {MAX_GUIDANCE_SCALE:g} (1 or less switches guidance off)"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"guidance_scale is {_format_value(value)}; {allowed}")
    scale = float(value)
    if not 0 <= scale <= MAX_GUIDANCE_SCALE:  # NaN neither
        raise ValueError(f"guidance_scale is {scale:g}; {allowed}")
    return scale


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
        checked["num_images_per_prompt"] = check_num_images(self.num_images_per_prompt)
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
            raise ValueError(
                f"seed {self.seed} leaves no room for {self.num_images_per_prompt} pictures, "
                f"each of which takes the next seed; the largest is {MAX_SEED}"
            )

    @property
    def seeds(self) -> list[int]:
        """One seed for each image."""
        return [self.seed + i for i in range(self.num_images_per_prompt)]


MAX_FPS = 120.0


def check_fps(fps: float) -> float:
    """Check for a frame rate above 0 and up to MAX_FPS."""
    if isinstance(fps, bool) or not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps is {fps}; give a number above 0, at most {MAX_FPS:g}")
    return float(fps)


def check_num_frames(num_frames: object, duration_s: object, fps: float, *, bytes_per_frame: int) -> int | None:
    """Resolve the number of frames from num_frames or duration_s; None if neither is given.

    Raises: ValueError if both are given, and for more frames than fit in half of the free memory.
    """
    if num_frames is not None and duration_s is not None:
        raise ValueError("num_frames and duration_s are both given; give one of them")
    max_frames = max(2, int(0.5 * psutil.virtual_memory().available / bytes_per_frame))
    if duration_s is not None:
        if isinstance(duration_s, bool) or not isinstance(duration_s, int | float) or not 0 < duration_s < 1e6:
            raise ValueError(f"duration_s is {duration_s!r}; give seconds, more than 0")
        num_frames = max(1, round(duration_s * fps))
    if num_frames is None:
        return None
    try:
        return check_int(num_frames, "num_frames", low=1, high=max_frames)
    except ValueError as error:
        raise ValueError(f"{error}; {max_frames:,} fit in half of the memory that is free") from None


IMAGE_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def value_or_default(value: Any, default: Any) -> Any:
    """Return the value, or the default for None."""
    return default if value is None else value


def check_prompts(value: object) -> list[str]:
    """Check one prompt or a list of them; return a list."""
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list | tuple):
        raise ValueError(f"prompt is of type {type(value).__name__}; give a text or a list of texts")
    if not 1 <= len(prompts) <= MAX_IMAGES:
        raise ValueError(f"prompt is a list of {len(prompts)} texts; give 1 to {MAX_IMAGES}")
    name = "prompt" if len(prompts) == 1 else "prompt[{}]"
    return [check_prompt(prompt, name.format(i)) for i, prompt in enumerate(prompts)]


def check_negative_prompts(value: object, num_prompts: int) -> list[str]:
    """Check for one negative prompt or one for each prompt, and return a list of num_prompts; None becomes ""."""
    if value is None or isinstance(value, str):
        return [check_negative_prompt(value) or ""] * num_prompts
    if not isinstance(value, list | tuple) or len(value) != num_prompts:
        given = f"{len(value)} texts" if isinstance(value, list | tuple) else type(value).__name__
        raise ValueError(f"negative_prompt is {given}; give one text, or a list of {num_prompts}, one for each prompt")
    return [check_negative_prompt(prompt) or "" for prompt in value]


def check_embeds(
    embeds: "Tensor | None",
    attention_mask: "Tensor | None",
    name: str,
    *,
    max_length: int,
    embed_dim: int,
    num_prompts: int | None,
) -> int | None:
    """Check prompt embeddings (B, max_length, embed_dim) and their mask (B, max_length); return B, or None for None."""
    mask_name = name.replace("embeds", "attention_mask")
    if embeds is None:
        if attention_mask is not None:
            raise ValueError(f"{mask_name} is given without {name}; give both or neither")
        return None
    if attention_mask is None:
        raise ValueError(f"{name} is given without {mask_name}; give both")
    if embeds.ndim != 3 or tuple(embeds.shape[1:]) != (max_length, embed_dim):
        raise ValueError(f"{name} has shape {tuple(embeds.shape)}; this model takes (batch, {max_length}, {embed_dim})")
    if tuple(attention_mask.shape) != tuple(embeds.shape[:2]):
        raise ValueError(f"{mask_name} has shape {tuple(attention_mask.shape)}; {name} needs {tuple(embeds.shape[:2])}")
    if num_prompts is not None and embeds.shape[0] != num_prompts:
        raise ValueError(f"{name} is for {embeds.shape[0]} prompts, where there are {num_prompts}")
    return embeds.shape[0]


def check_latents(latents: "Tensor | None", shape: Sequence[int]) -> None:
    """Raise ValueError for latents of another shape."""
    if latents is not None and tuple(latents.shape) != tuple(shape):
        raise ValueError(f"latents have shape {tuple(latents.shape)}; this call needs {tuple(shape)}")


def check_generator(generator: object, batch_size: int) -> None:
    """Raise ValueError unless `generator` is None, one torch.Generator, or a list with one for each image or video."""
    from torch import Generator

    generators = list(generator) if isinstance(generator, list | tuple) else [generator] * batch_size
    if len(generators) != batch_size:
        raise ValueError(
            f"generator is a list of {len(generators)} for {batch_size} pictures; give one for each picture"
        )
    for item in generators:
        if item is not None and not isinstance(item, Generator):
            raise ValueError(f"generator is a {type(item).__name__}; give torch.Generator().manual_seed(seed)")


def check_output_type(value: object, allowed: Collection[str] = IMAGE_OUTPUT_TYPES) -> None:
    """Raise ValueError for an output type that the pipeline does not have."""
    if value not in allowed:
        raise ValueError(f"output_type is {value!r}; give one of {', '.join(allowed)}")


def check_callback_inputs(tensor_names: object, allowed: Collection[str]) -> list[str]:
    """Check for a list of names of tensors that callbacks may get."""
    if not isinstance(tensor_names, list | tuple) or any(name not in allowed for name in tensor_names):
        raise ValueError(f"callback_on_step_end_tensor_inputs is {tensor_names!r}; give a list of {', '.join(allowed)}")
    return list(tensor_names)


def check_image_meta_size(original_size: object, target_size: object, crops_coords_top_left: object) -> tuple[int, ...]:
    """Check three pairs in px, (height, width) or (top, left), and join them to the six numbers of the model."""
    pairs = {"original_size": original_size, "target_size": target_size, "crops_coords_top_left": crops_coords_top_left}
    for name, pair in pairs.items():
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(number, int) for number in pair):
            raise ValueError(f"{name} is {pair!r}; give two whole numbers of pixels")
    return tuple(number for pair in pairs.values() for number in pair)  # type: ignore[attr-defined]


def check_guidance_rescale(value: object) -> float:
    """Check for a number from 0 (off) to 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"guidance_rescale is {value!r}; give a number from 0 (off) to 1")
    return float(value)
