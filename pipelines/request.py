"""A request for pictures, checked when it is made: before torch loads, before weights load.

Every check returns the value in its plain Python type or raises ValueError that says what was
given, what is allowed and what to do.
"""

import operator
import unicodedata
from dataclasses import dataclass
from numbers import Real

MAX_PROMPT_CHARS = 4096
MAX_SIDE_PX = 8192
MAX_STEPS = 1000
MAX_PICTURES = 256
MAX_GUIDANCE = 100.0
MAX_SEED = 2**64 - 1  # what torch.Generator.manual_seed takes
DEFAULT_SIZE_MULTIPLE_PX = 16  # VAE factor 8 times patch 2


def _given(value: object) -> str:
    """The value as an error shows it: printable on any terminal, and short."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_whole(value: object, name: str, *, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`; True, "20", 20.0 and NaN are none."""
    allowed = f"give a whole number from {low} to {high}"
    if isinstance(value, bool):
        raise ValueError(f"{name} is {value}; {allowed}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # raises for all but integers
    except TypeError:
        kind = type(value).__name__
        raise ValueError(f"{name} is {_given(value)} ({kind}); {allowed}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {_given(number)}; {allowed}")
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


def check_side(value: object, name: str, *, multiple_px: int = DEFAULT_SIZE_MULTIPLE_PX) -> int:
    """Return a width or height in pixels that lies on the model's grid."""
    side_px = check_whole(value, name, low=1, high=MAX_SIDE_PX)
    if side_px % multiple_px:
        below = side_px // multiple_px * multiple_px
        above = below + multiple_px
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"{name} {side_px} px is not a multiple of {multiple_px}, the grid of this model; try {nearest}"
        )
    return side_px


def check_steps(value: object) -> int:
    return check_whole(value, "num_inference_steps", low=1, high=MAX_STEPS)


def check_count(value: object) -> int:
    return check_whole(value, "num_images_per_prompt", low=1, high=MAX_PICTURES)


def check_seed(value: object) -> int:
    return check_whole(value, "seed", low=0, high=MAX_SEED)


def check_guidance(value: object) -> float:
    """Return a finite guidance scale; 1 or less switches guidance off."""
    allowed = f"give a number from 0 to {MAX_GUIDANCE:g} (1 or less switches guidance off)"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"guidance_scale is {_given(value)}; {allowed}")
    scale = float(value)
    if not 0 <= scale <= MAX_GUIDANCE:  # NaN neither
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
        checked["num_images_per_prompt"] = check_count(self.num_images_per_prompt)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                side = check_side(getattr(self, name), name, multiple_px=self.size_multiple_px)
                checked[name] = side
        if self.num_inference_steps is not None:
            checked["num_inference_steps"] = check_steps(self.num_inference_steps)
        if self.guidance_scale is not None:
            checked["guidance_scale"] = check_guidance(self.guidance_scale)
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
