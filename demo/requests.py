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

from dianjing.pipelines.fitting import as_rgb, check_picture_size
from dianjing.pipelines.lengths import check_fps, check_num_frames
from dianjing.pipelines.regions import Region, check_region
from dianjing.pipelines.request import (
    MAX_PICTURES,
    ImageRequest,
    check_guidance,
    check_negative_prompt,
    check_prompt,
    check_seed,
    check_side,
    check_steps,
    check_whole,
)

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.talk import Conversation

AT_ONCE = 8  # pictures of one batch; a seed gives the same picture in any batch
BYTES_A_PIXEL = 16  # of a frame while it is drawn: uint8, and copies of float32 latents
TALK_RUNS = 14  # of the model in one turn, at most: three backgrounds in two runs each, four objects on white and black


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What the served model does where a request leaves it open. max_regions 0: no clicks; num_frames None: no film.

    film_steps, film_guidance_scale: of frames that go on from a picture, None as of a picture. has_motion_field: what
    moves is taken from that picture, however long ago it was.
    """

    model: str
    side_px: int
    size_multiple_px: int
    num_inference_steps: int
    guidance_scale: float
    num_frames: int | None = None
    fps: float = 8.0
    max_regions: int = 0
    film_steps: int | None = None
    film_guidance_scale: float | None = None
    has_motion_field: bool = False

    @property
    def going_on(self) -> tuple[int, float]:
        """Steps and guidance of frames that go on from a picture."""
        steps, guidance = self.film_steps, self.film_guidance_scale
        return (
            self.num_inference_steps if steps is None else steps,
            self.guidance_scale if guidance is None else guidance,
        )

    @property
    def makes_films(self) -> bool:
        return self.num_frames is not None

    @property
    def takes_clicks(self) -> bool:
        return self.makes_films and self.max_regions > 0


@dataclass(frozen=True, kw_only=True)
class Request:
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
        side = partial(check_side, multiple_px=1)
        self._check(width=lambda value: side(value, "width"), height=lambda value: side(value, "height"))
        self._check(num_inference_steps=check_steps, guidance_scale=check_guidance, seed=check_seed)

    def _check(self, **checks) -> None:
        """Keep plain numbers, also where NumPy's were given."""
        for name, check in checks.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(value))

    def settled(self, abilities: Abilities) -> Self:
        """The same request with every setting filled in.

        Raises: ValueError for what this model cannot draw.
        """
        sides: dict[str, Any] = {}
        for name in ("width", "height"):
            given = getattr(self, name)
            sides[name] = abilities.side_px if given is None else given
            check_side(sides[name], name, multiple_px=abilities.size_multiple_px)
        usual_steps, usual_guidance = self._usual(abilities)
        steps = usual_steps if self.num_inference_steps is None else self.num_inference_steps
        guidance = usual_guidance if self.guidance_scale is None else self.guidance_scale
        seed = secrets.randbelow(2**32) if self.seed is None else self.seed
        return replace(self, **sides, num_inference_steps=steps, guidance_scale=guidance, seed=seed)

    def _usual(self, abilities: Abilities) -> tuple[int, float]:
        """Steps and guidance where they are left open."""
        return abilities.num_inference_steps, abilities.guidance_scale

    def cost(self, abilities: Abilities) -> int:
        """Of a settled request."""
        assert self.width is not None
        assert self.height is not None
        return self.width * self.height * sum(drawn * steps for drawn, steps in self.runs(abilities))

    def runs(self, abilities: Abilities) -> list[tuple[int, int]]:
        """Of the model, for a settled request: how many pictures or frames each draws, and in how many steps."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PictureRequest(Request):
    """Words become pictures; picture i is drawn from `seed + i`."""

    kind: ClassVar[str] = "picture"

    prompt: str
    num_images: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        self._check(num_images=partial(check_whole, name="num_images", low=1, high=MAX_PICTURES))
        if self.seed is not None:  # leaves room for the seeds of all
            ImageRequest(prompt=self.prompt, seed=self.seed, num_images_per_prompt=self.num_images)

    def runs(self, abilities: Abilities) -> list[tuple[int, int]]:
        assert self.num_inference_steps is not None
        batches = [min(AT_ONCE, self.num_images - first) for first in range(0, self.num_images, AT_ONCE)]
        return [(drawn, self.num_inference_steps) for drawn in batches]


@dataclass(frozen=True, kw_only=True)
class _MovingRequest(Request):
    num_frames: int | None = None
    duration_s: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(fps=check_fps)
        self._length(fps=self.fps or 8.0, pixels=(self.width or 1) * (self.height or 1))

    def _length(self, *, fps: float, pixels: int) -> int | None:
        if self.duration_s is not None and self.num_frames is not None:
            raise ValueError("num_frames and duration_s are both given; give one of them")
        return check_num_frames(self.num_frames, self.duration_s, fps, bytes_a_frame=BYTES_A_PIXEL * pixels)

    def settled(self, abilities: Abilities) -> Self:
        """As of any request; the length becomes a number of frames."""
        if abilities.num_frames is None:
            raise ValueError(f"the model {abilities.model} draws pictures only; serve one that was trained for film")
        settled = super().settled(abilities)
        fps = abilities.fps if self.fps is None else self.fps
        assert settled.width is not None
        assert settled.height is not None
        asked = self._length(fps=fps, pixels=settled.width * settled.height)
        num_frames = abilities.num_frames if asked is None else asked
        return replace(settled, num_frames=num_frames, duration_s=None, fps=fps)

    def _windows(self, abilities: Abilities) -> list[int]:
        """The frames of each, of a settled request; each begins with the last frame of the one before."""
        assert self.num_frames is not None
        assert abilities.num_frames is not None
        window = abilities.num_frames
        return [min(window, self.num_frames - first) for first in range(0, self.num_frames - 1, window - 1)]


@dataclass(frozen=True, kw_only=True)
class FilmRequest(_MovingRequest):
    """Words become a film; long_film is of `TextToVideoPipeline`."""

    kind: ClassVar[str] = "film"

    prompt: str
    long_film: Literal["joint", "continued"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt(self.prompt)
        if self.long_film not in (None, "joint", "continued"):
            raise ValueError(f"long_film is {self.long_film!r}; give 'joint' or 'continued'")

    def settled(self, abilities: Abilities) -> Self:
        settled = super().settled(abilities)
        if self.long_film is None:
            return replace(settled, long_film="continued" if abilities.takes_clicks else "joint")
        if self.long_film == "continued" and not abilities.takes_clicks:
            raise ValueError(
                f"long_film is 'continued', and the model {abilities.model} takes no first frame; give 'joint'"
            )
        return settled

    def runs(self, abilities: Abilities) -> list[tuple[int, int]]:
        """A picture and the windows that go on from it, or all frames at once."""
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        is_joint = self.long_film == "joint"
        if is_joint and not abilities.has_motion_field:
            return [(self.num_frames, self.num_inference_steps)]
        windows = [self.num_frames] if is_joint and self.num_frames > 1 else self._windows(abilities)
        is_usual = self.num_inference_steps == abilities.num_inference_steps
        steps = abilities.going_on[0] if is_usual else self.num_inference_steps
        return [(1, self.num_inference_steps), *((frames, steps) for frames in windows)]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnimateRequest(_MovingRequest):
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
        check_picture_size(*self.image.size)
        object.__setattr__(self, "image", as_rgb(self.image))
        object.__setattr__(self, "regions", tuple(self.regions))
        if not self.regions:
            raise ValueError("no region is given; click on what should move, and say how")
        for region in self.regions:
            check_region(region, size=self.image.size)

    def settled(self, abilities: Abilities) -> Self:
        settled = super().settled(abilities)
        if not abilities.takes_clicks:
            raise ValueError(f"the model {abilities.model} was not trained with clicks; serve one that was")
        if len(self.regions) > abilities.max_regions:
            raise ValueError(
                f"{len(self.regions)} regions are given; "
                f"this model was trained for 1 to {abilities.max_regions} at once"
            )
        assert settled.num_frames is not None
        if settled.num_frames < 2:
            raise ValueError(f"num_frames is {settled.num_frames}; what moves takes at least 2")
        return settled

    def _usual(self, abilities: Abilities) -> tuple[int, float]:
        return abilities.going_on

    def runs(self, abilities: Abilities) -> list[tuple[int, int]]:
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        windows = self._windows(abilities) if abilities.has_motion_field else [self.num_frames]
        return [(frames, self.num_inference_steps) for frames in windows]


@dataclass(frozen=True, kw_only=True, eq=False)
class TalkRequest:
    """One more thing said in a conversation of `Studio.conversation`."""

    kind: ClassVar[str] = "talk"

    conversation: "Conversation"
    text: str
    visible_label: bool | None = None

    def __post_init__(self) -> None:
        check_prompt(self.text, "text")

    def settled(self, abilities: Abilities) -> Self:
        return self

    def cost(self, abilities: Abilities) -> int:
        steps = self.conversation.num_inference_steps or abilities.num_inference_steps
        return TALK_RUNS * steps * abilities.side_px**2


AnyRequest = PictureRequest | FilmRequest | AnimateRequest | TalkRequest


def check_cost(request: AnyRequest, abilities: Abilities, *, max_cost: int) -> None:
    """Raise ValueError for a settled request that would take this server too long."""
    cost = request.cost(abilities)
    if cost > max_cost:
        raise ValueError(
            f"this asks for {cost:,} pixels x frames x steps; at most {max_cost:,} are drawn at once here: "
            "ask for less of the size, the steps, the number of pictures or the length"
        )
