"""A request for pictures, checked when it is made: before torch loads, before weights load.

Every check returns the value in its plain Python type or raises ValueError that says what was
given, what is allowed and what to do.
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
MAX_SEED = 2**64 - 1  # what torch.Generator.manual_seed takes
DEFAULT_SIZE_MULTIPLE_PX = 16  # VAE factor 8 times patch 2


def _format_value(value: object) -> str:
    """The value as an error shows it: printable on any terminal, and short."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_int(value: object, name: str, *, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`; True, "20", 20.0 and NaN are none."""
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
    """Return a text that the tokenizers can take; any script, emoji included."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is of type {type(value).__name__}; give a text")
    if not value.strip():
        raise ValueError(f"{name} is empty; say in Chinese or English what to draw")
    if len(value) > MAX_PROMPT_CHARS:
        raise ValueError(
            f"{name} has {len(value):,} characters; at most {MAX_PROMPT_CHARS:,} are taken "
            "(the text encoders read a few hundred tokens): shorten it"
        )
    for place, char in enumerate(value):
        kind = unicodedata.category(char)
        if kind == "Cs":
            raise ValueError(
                f"{name} holds half of a surrogate pair (U+{ord(char):04X}) at character {place}; "
                "it is not valid Unicode: check how the text was decoded (UTF-8 is expected)"
            )
        if kind == "Cc" and char not in "\t\n\r":
            raise ValueError(f"{name} holds the control character U+{ord(char):04X} at character {place}; remove it")
    return value


def check_negative_prompt(value: object) -> str | None:
    """Return a text or None; unlike a prompt it may be empty."""
    if value is None or value == "":
        return value
    return check_prompt(value, "negative_prompt")


def check_side_px(value: object, name: str, *, multiple_px: int = DEFAULT_SIZE_MULTIPLE_PX) -> int:
    """Return a width or height in pixels that lies on the model's grid."""
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
    return check_int(value, "num_inference_steps", low=1, high=MAX_STEPS)


def check_num_images(value: object) -> int:
    return check_int(value, "num_images_per_prompt", low=1, high=MAX_IMAGES)


def check_seed(value: object) -> int:
    return check_int(value, "seed", low=0, high=MAX_SEED)


def check_guidance_scale(value: object) -> float:
    """Return a finite guidance scale; 1 or less switches guidance off."""
    allowed = f"give a number from 0 to {MAX_GUIDANCE_SCALE:g} (1 or less switches guidance off)"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"guidance_scale is {_format_value(value)}; {allowed}")
    scale = float(value)
    if not 0 <= scale <= MAX_GUIDANCE_SCALE:  # NaN neither
        raise ValueError(f"guidance_scale is {scale:g}; {allowed}")
    return scale


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What one call draws; None leaves a setting to the model.

    Picture i of a prompt is drawn from `seed + i`, whatever the batch it sits in.
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
        for name, value in checked.items():  # plain numbers, also where NumPy's were given
            object.__setattr__(self, name, value)
        if self.seed + self.num_images_per_prompt - 1 > MAX_SEED:
            raise ValueError(
                f"seed {self.seed} leaves no room for {self.num_images_per_prompt} pictures, "
                f"each of which takes the next seed; the largest is {MAX_SEED}"
            )

    @property
    def seeds(self) -> list[int]:
        return [self.seed + i for i in range(self.num_images_per_prompt)]


MAX_FPS = 120.0


def check_fps(fps: float) -> float:
    if isinstance(fps, bool) or not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps is {fps}; give a number above 0, at most {MAX_FPS:g}")
    return float(fps)


def check_num_frames(num_frames: object, duration_s: object, fps: float, *, bytes_per_frame: int) -> int | None:
    """How many frames are asked for, by number or by length; None where neither is. Too many are refused."""
    if num_frames is not None and duration_s is not None:
        raise ValueError("num_frames and duration_s are both given; give one of them")
    most = max(2, int(0.5 * psutil.virtual_memory().available / bytes_per_frame))
    if duration_s is not None:
        if isinstance(duration_s, bool) or not isinstance(duration_s, int | float) or not 0 < duration_s < 1e6:
            raise ValueError(f"duration_s is {duration_s!r}; give seconds, more than 0")
        num_frames = max(1, round(duration_s * fps))
    if num_frames is None:
        return None
    try:
        return check_int(num_frames, "num_frames", low=1, high=most)
    except ValueError as error:
        raise ValueError(f"{error}; {most:,} fit in half of the memory that is free") from None


IMAGE_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def value_or_default(value: Any, default: Any) -> Any:
    return default if value is None else value


def check_prompts(value: object) -> list[str]:
    """One prompt or a list of them, as a list."""
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list | tuple):
        raise ValueError(f"prompt is of type {type(value).__name__}; give a text or a list of texts")
    if not 1 <= len(prompts) <= MAX_IMAGES:
        raise ValueError(f"prompt is a list of {len(prompts)} texts; give 1 to {MAX_IMAGES}")
    name = "prompt" if len(prompts) == 1 else "prompt[{}]"
    return [check_prompt(prompt, name.format(i)) for i, prompt in enumerate(prompts)]


def check_negative_prompts(value: object, num_prompts: int) -> list[str]:
    """A negative prompt for each of `count` prompts: one text stands for all, None for an empty one."""
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
    """Check states (B, length, width) and their mask (B, length); return B, or None without states."""
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
    if latents is not None and tuple(latents.shape) != tuple(shape):
        raise ValueError(f"latents have shape {tuple(latents.shape)}; this call needs {tuple(shape)}")


def check_generator(generator: object, batch_size: int) -> None:
    """One generator, or a list with one for each picture."""
    from torch import Generator

    each = list(generator) if isinstance(generator, list | tuple) else [generator] * batch_size
    if len(each) != batch_size:
        raise ValueError(f"generator is a list of {len(each)} for {batch_size} pictures; give one for each picture")
    for one in each:
        if one is not None and not isinstance(one, Generator):
            raise ValueError(f"generator is a {type(one).__name__}; give torch.Generator().manual_seed(seed)")


def check_output_type(value: object, allowed: Collection[str] = IMAGE_OUTPUT_TYPES) -> None:
    if value not in allowed:
        raise ValueError(f"output_type is {value!r}; give one of {', '.join(allowed)}")


def check_callback_inputs(tensor_names: object, allowed: Collection[str]) -> list[str]:
    if not isinstance(tensor_names, list | tuple) or any(name not in allowed for name in tensor_names):
        raise ValueError(f"callback_on_step_end_tensor_inputs is {tensor_names!r}; give a list of {', '.join(allowed)}")
    return list(tensor_names)


def check_image_meta_size(original_size: object, target_size: object, crops_coords_top_left: object) -> tuple[int, ...]:
    """Three pairs of px, (height, width) or (top, left), as the six numbers that the model takes."""
    pairs = {"original_size": original_size, "target_size": target_size, "crops_coords_top_left": crops_coords_top_left}
    for name, pair in pairs.items():
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(number, int) for number in pair):
            raise ValueError(f"{name} is {pair!r}; give two whole numbers of pixels")
    return tuple(number for pair in pairs.values() for number in pair)  # type: ignore[attr-defined]


def check_guidance_rescale(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"guidance_rescale is {value!r}; give a number from 0 (off) to 1")
    return float(value)
