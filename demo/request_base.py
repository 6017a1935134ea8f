"""The base of requests for images and videos: shared parameters, their defaults, and the cost.

The cost of a request is pixels x frames x steps, summed over all of its sampling runs.
"""

import secrets
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities
from dianjing.pipelines.validation import (
    check_guidance_scale,
    check_negative_prompt,
    check_num_inference_steps,
    check_seed,
    check_side_px,
)
from dianjing.pipelines.video.windows import SamplingRun


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """The fields that images and videos share; None leaves a parameter to the model, and the seed to chance.

    `visible_label`: whether the files carry a visible AI label in a corner; None leaves it to the server.
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
        check_side = partial(check_side_px, multiple_px=1)
        self._validate_fields(
            width=lambda value: check_side(value, "width"),
            height=lambda value: check_side(value, "height"),
            num_inference_steps=check_num_inference_steps,
            guidance_scale=check_guidance_scale,
            seed=check_seed,
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
        sides: dict[str, Any] = {}
        for name in ("width", "height"):
            side_px = getattr(self, name)
            sides[name] = capabilities.default_size_px if side_px is None else side_px
            check_side_px(sides[name], name, multiple_px=capabilities.size_multiple_px)
        default_steps, default_guidance_scale = self._get_default_params(capabilities)
        return replace(
            self,
            **sides,
            num_inference_steps=default_steps if self.num_inference_steps is None else self.num_inference_steps,
            guidance_scale=default_guidance_scale if self.guidance_scale is None else self.guidance_scale,
            seed=secrets.randbelow(2**32) if self.seed is None else self.seed,
        )

    def get_pipeline_params(self) -> dict[str, Any]:
        """The keyword arguments that every pipeline takes."""
        names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
        return {name: getattr(self, name) for name in names}

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        """The model's default steps and guidance scale for this kind of request."""
        return capabilities.num_inference_steps, capabilities.guidance_scale

    def get_cost(self, capabilities: ModelCapabilities) -> int:
        """The cost of a request with defaults filled in."""
        assert self.width is not None
        assert self.height is not None
        return (
            self.width
            * self.height
            * sum(run.num_frames * run.num_steps for run in self.get_sampling_runs(capabilities))
        )

    def get_sampling_runs(self, capabilities: ModelCapabilities) -> list[SamplingRun]:
        """The sampling runs of a request with defaults filled in; images of a batch count as frames."""
        raise NotImplementedError
