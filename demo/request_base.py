"""The base of requests for images and videos: shared parameters, their defaults, and the work of their runs."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities, format_size
from dianjing.demo.request_adapters import (
    check_adapters,
    get_default_params,
    resolve_adapters,
    should_use_default_adapter,
)
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.few_steps import check_slow
from dianjing.pipelines.guiders import make_guider
from dianjing.pipelines.image_conditions import ControlInput, PictureInput
from dianjing.pipelines.named_schedulers import make_scheduler
from dianjing.pipelines.validation import (
    MAX_IMAGES,
    check_guidance_scale,
    check_int,
    check_negative_prompt,
    check_num_inference_steps,
    check_seed,
    check_side_px,
)


def _check_guidance_mode(mode: str) -> str:
    """Check a guidance mode and its options, all but the layers, which depend on the model."""
    make_guider(mode, guidance_scale=1.0)
    return mode


MAX_CONDITIONS = 4  # control images of a request, and pictures of it
IMAGE_BATCH_SIZE = 8  # images of one sampling run; a seed gives the same image in any batch


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """The fields that images and videos share; None leaves a parameter to the model, and the seed to chance.

    `visible_label`: whether the files carry a visible AI label in a corner; None leaves it to the server. `adapters`:
    strengths of LoRA adapters by their names, None for those that the server starts with. `guidance_mode` and
    `scheduler`: by name with options, None for the model's own.
    """

    kind: ClassVar[str]

    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    visible_label: bool | None = None
    adapters: Mapping[str, float] | None = None
    guidance_mode: str | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        check_negative_prompt(self.negative_prompt)
        check_side = partial(check_side_px, multiple_px=1)
        self._validate_fields(
            width=lambda value: check_side(value, "width"),
            height=lambda value: check_side(value, "height"),
            num_inference_steps=check_num_inference_steps,
            guidance_scale=check_guidance_scale,
            seed=check_seed,
            adapters=check_adapters,
            guidance_mode=_check_guidance_mode,
        )

    def _validate_fields(self, **checks) -> None:
        """Replace each field that is set by what its check returns: NumPy's numbers become plain ones."""
        for name, check in checks.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check(value))

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Fill in every parameter that is left to the model.

        Raises: DianjingError for what this model cannot generate.
        """
        if self.scheduler is not None:
            make_scheduler(self.scheduler, capabilities.scheduler)
        if self.guidance_mode is not None:
            make_guider(self.guidance_mode, guidance_scale=1.0, num_layers=capabilities.num_layers)
        sides = self._choose_size(capabilities)
        for name, side_px in sides.items():
            check_side_px(side_px, name, multiple_px=self._get_size_multiple_px(capabilities))
        adapters = resolve_adapters(self.adapters, capabilities)
        default_steps, default_guidance_scale = get_default_params(
            adapters, capabilities, of_model=self._get_default_params(capabilities), guidance_mode=self.guidance_mode
        )
        return replace(
            self,
            **sides,
            num_inference_steps=default_steps if self.num_inference_steps is None else self.num_inference_steps,
            guidance_scale=default_guidance_scale if self.guidance_scale is None else self.guidance_scale,
            seed=secrets.randbelow(2**32) if self.seed is None else self.seed,
            adapters=adapters,
        )

    def get_pipeline_params(self) -> dict[str, Any]:
        """The keyword arguments that every pipeline takes."""
        names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
        guider = {} if self.guidance_mode is None else {"guider": self.guidance_mode}
        return {**{name: getattr(self, name) for name in names}, **guider}

    def _choose_size(self, capabilities: ModelCapabilities) -> dict[str, Any]:
        """Width and height in px; a side that is left out is that of the model."""
        default_px = capabilities.default_size_px
        return {
            "width": default_px if self.width is None else self.width,
            "height": default_px if self.height is None else self.height,
        }

    def _get_size_multiple_px(self, capabilities: ModelCapabilities) -> int:
        return capabilities.size_multiple_px

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        """The model's default steps and guidance scale for this kind of request."""
        return capabilities.num_inference_steps, capabilities.guidance_scale

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        """The sampling runs of a request with defaults filled in; images of a batch count as frames."""
        raise NotImplementedError

    def get_size(self, capabilities: ModelCapabilities) -> tuple[int, int]:
        """Width and height in px of a request with defaults filled in."""
        assert self.width is not None
        assert self.height is not None
        return self.width, self.height

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        """Warnings for the user of a request with defaults filled in, before it runs."""
        size = self.get_size(capabilities)
        if size in capabilities.sizes:
            return []
        return [Message("size_not_trained", size=format_size(*size), sizes=capabilities.format_sizes())]


@dataclass(frozen=True, kw_only=True)
class ImageRequestBase(GenerationRequest):
    """The fields that tell the work of `num_images` images, whatever they show.

    `controls` are control images for ControlNets of the server, `pictures` those for its IP-Adapter. `slow`: True for
    the model alone, False for its default adapter in few steps, None for the rule of `should_use_few_steps`;
    `uses_default_adapter` says what it came to once defaults are filled in.
    """

    draws_in_few_steps: ClassVar[bool] = True  # by default; else where a request asks for it

    num_images: int = 1
    slow: bool | None = None
    uses_default_adapter: bool | None = None
    controls: Sequence[ControlInput] = ()
    pictures: Sequence[PictureInput] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._validate_fields(num_images=partial(check_int, name="num_images", low=1, high=MAX_IMAGES))
        check_slow(self.slow)
        for name in ("controls", "pictures"):
            items = tuple(getattr(self, name))
            object.__setattr__(self, name, items)
            if len(items) > MAX_CONDITIONS:
                raise DianjingError("too_many_conditions", name=name, count=len(items), maximum=MAX_CONDITIONS)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        request = self
        if self.uses_default_adapter is None:
            request = replace(self, uses_default_adapter=self._choose_default_adapter(capabilities))
        return super(ImageRequestBase, request).with_defaults(capabilities)

    def _choose_default_adapter(self, capabilities: ModelCapabilities) -> bool:
        """Decide whether the model's default adapter draws this request. Raises: DianjingError."""
        names = ("num_inference_steps", "guidance_scale", "guidance_mode", "scheduler", "negative_prompt")
        settings = {name: getattr(self, name) for name in (*names, "controls", "pictures")}
        adapters = resolve_adapters(self.adapters, capabilities)
        return should_use_default_adapter(
            self.slow, settings, adapters, capabilities, is_default=self.draws_in_few_steps
        )

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        sampling = capabilities.default_sampling
        if not self.uses_default_adapter or sampling is None:
            return super()._get_default_params(capabilities)
        return sampling.num_inference_steps, sampling.guidance_scale

    def get_pipeline_params(self) -> dict[str, Any]:
        """The keyword arguments of a pipeline; its default adapter has steps and guidance of its own."""
        if not self.uses_default_adapter:
            return super().get_pipeline_params()
        return super().get_pipeline_params() | {"num_inference_steps": None, "guidance_scale": None, "slow": False}

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        assert self.num_inference_steps is not None
        batches = [min(IMAGE_BATCH_SIZE, self.num_images - i) for i in range(0, self.num_images, IMAGE_BATCH_SIZE)]
        common: dict[str, Any] = {
            "num_steps": self.num_inference_steps,
            "num_passes": count_passes(self.guidance_scale),
            "num_control_layers": len(self.controls) * capabilities.num_control_layers,
        }
        return [SamplingWork(num_frames=size, **common) for size in batches]


def count_passes(guidance_scale: float | None) -> int:
    """Passes of the transformer in each step: 2 with classifier-free guidance."""
    return 2 if guidance_scale is not None and guidance_scale > 1 else 1
