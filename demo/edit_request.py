"""Requests that edit an image: all of it, a part of it, or beyond its border."""

import io
from dataclasses import dataclass
from typing import Any, ClassVar

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.requests import TextToImageRequest
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.editing.edit import ImageEdit
from dianjing.pipelines.media.crop import choose_start_size
from dianjing.pipelines.media.image import read_image_metadata


def read_variation_prompt(content: bytes) -> str:
    """Read the prompt of an image file that was generated here; empty for any other image."""
    try:
        return read_image_metadata(io.BytesIO(content)).prompt
    except DianjingError:
        return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class EditRequest(TextToImageRequest):
    """A request for edited images of a prompt; without a prompt, for variations of the whole image.

    width, height: the size at which the model works; what a mask selects is put back into the image in its own size.
    """

    kind: ClassVar[str] = "edit"
    has_optional_prompt: ClassVar[bool] = True
    draws_in_few_steps: ClassVar[bool] = False  # the adapter was trained from noise to an image

    edit: ImageEdit

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt and self.edit.is_masked:
            raise DianjingError("prompt_empty", name="prompt")
        self.edit.check_conditions(self.controls)

    def _choose_size(self, capabilities: ModelCapabilities) -> dict[str, Any]:
        width, height = self._fit_size(capabilities, width=self.width, height=self.height)
        return {"width": width, "height": height}

    def _fit_size(
        self, capabilities: ModelCapabilities, *, width: int | None = None, height: int | None = None
    ) -> tuple[int, int]:
        """(width, height) in px that follows from the image, or as far as it is given."""
        return choose_start_size(
            self.edit.start_size,
            base_px=capabilities.default_size_px,
            multiple_px=capabilities.size_multiple_px,
            width=width,
            height=height,
        )

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        """The sampling runs; a strength below 1 leaves out the first steps of each."""
        assert self.num_inference_steps is not None
        num_steps = int(self.num_inference_steps * self.edit.used_strength)
        runs = [SamplingWork(**{**vars(run), "num_steps": num_steps}) for run in super().list_work(capabilities)]
        return runs * self.edit.count_runs()

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        """Warnings before the run; a size that follows from the image needs none."""
        follows_image = self._fit_size(capabilities) == (self.width, self.height)
        return [] if follows_image else super().list_warnings(capabilities)
