"""An edit of an image: which part may change and how far, and the call of the pipeline that makes it.

H height, W width; masks are bool (H, W).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.editing.background import names_background, segment_background
from dianjing.pipelines.editing.extension import Extension
from dianjing.pipelines.media.image import check_image, get_input_image_metadata
from dianjing.pipelines.media.mask import check_mask_of_change, grow_mask
from dianjing.pipelines.media.metadata import compute_pixels_sha256
from dianjing.pipelines.segmentation.base import Point, Segmenter, check_points
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.segmentation.own_images import make_default_segmenter
from dianjing.pipelines.validation import MAX_SIDE_PX, check_int, check_number, check_prompt

DEFAULT_STRENGTH = 0.8  # of an edit of the whole image, as in diffusers
DEFAULT_MASKED_STRENGTH = 1.0
DEFAULT_VARIATION_STRENGTH = 0.6  # of a variation, which needs no prompt
GROWTH_FRACTION = 1 / 8  # of the shorter side: what a click or words select grows by it, so that a new shape has room


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageEdit:
    """An edit of a PIL image, which is kept as RGB.

    At most one of these says what may change; without any it is the whole image. mask: bool (H, W), true where it may
    change. points: a click on it, in px. words: a phrase that names it. extension: a larger canvas.
    strength: None for the default. padding_mask_crop: as of `InpaintPipeline`.
    Raises: DianjingError for a part that is given twice or does not fit the image, and for a strength outside 0 to 1.
    """

    image: Image.Image
    mask: np.ndarray | None = None
    points: Sequence[Point] = ()
    words: str | None = None
    extension: Extension | None = None
    strength: float | None = None
    padding_mask_crop: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", check_image(self.image))
        selections = [self.mask is not None, bool(self.points), self.words is not None, self.extension is not None]
        if sum(selections) > 1:
            raise DianjingError("edit_selected_twice")
        if self.mask is not None:
            check_mask_of_change(self.mask, size=self.image.size)
        if self.points:
            check_points(self.points, width=self.image.width, height=self.image.height)
        if self.words is not None:
            check_prompt(self.words, "words")
        if self.extension is not None:
            self.extension.apply(self.image)
        if self.strength is not None:
            object.__setattr__(self, "strength", check_number(self.strength, "strength", low=0, high=1))
        if self.padding_mask_crop is not None:
            if not self.is_masked:
                raise DianjingError("padding_without_mask")
            check_int(self.padding_mask_crop, "padding_mask_crop", low=0, high=MAX_SIDE_PX)

    @property
    def is_masked(self) -> bool:
        """True if a part of the image may change, and not the whole."""
        return self.mask is not None or bool(self.points) or self.words is not None or self.extension is not None

    @property
    def pipeline_name(self) -> str:
        """The public name of the pipeline that makes this edit."""
        return "InpaintPipeline" if self.is_masked else "ImageToImagePipeline"

    @property
    def used_strength(self) -> float:
        """The strength, or the default for this kind of edit."""
        default = DEFAULT_MASKED_STRENGTH if self.is_masked else DEFAULT_STRENGTH
        return default if self.strength is None else self.strength

    @property
    def start_size(self) -> tuple[int, int]:
        """(width, height) in px that the size at which the model works follows; an extension is made in squares."""
        return self.image.size if self.extension is None else (min(self.image.size),) * 2

    def check_conditions(self, controls: Sequence[object]) -> None:
        """Raise DianjingError for control images of an edit whose canvas grows: they would fit none of its steps."""
        if controls and self.extension is not None:
            raise DianjingError("extension_with_control")

    def count_runs(self) -> int:
        """The number of sampling runs of this edit: one, or one for each part of an extension."""
        return 1 if self.extension is None else len(self.extension.split(self.image.size))

    def select(self, pipe: Any, segmenter: Segmenter | None = None) -> np.ndarray:
        """Find the mask, bool (H, W), of an edit by mask, click or words.

        segmenter: makes the mask of a click, and of words; None for the model's own, for clicks on its own images
        alone, and else GrabCut. Words that name the background select what lies around the objects.
        """
        if self.mask is not None:
            return self.mask
        pixels, radius_px = np.asarray(self.image), round(GROWTH_FRACTION * min(self.image.size))
        if self.points:
            segmenter = segmenter or make_default_segmenter(pipe)
            segmenter.set_image(pixels)
            return grow_mask(segmenter.predict(self.points), radius_px=radius_px)
        assert self.words is not None
        if names_background(pipe, self.words):
            return segment_background(pixels)
        from dianjing.pipelines.editing.localization import locate_words  # with torch

        points = locate_words(pipe, self.image, self.words)
        segmenter = segmenter or pipe.unet_segmenter or GrabCutSegmenter()
        segmenter.set_image(pixels)
        masks = [segmenter.predict([point]) for point in points]
        return grow_mask(np.any(masks, axis=0), radius_px=radius_px)

    def get_metadata(self, *, image_name: str | None = None) -> dict[str, object]:
        """Describe the edit for generation metadata, as JSON values: image and mask by hashes of their pixels."""
        described: dict[str, object] = {"image": get_input_image_metadata(self.image, name=image_name)}
        described["strength"] = self.used_strength
        if self.mask is not None:
            height, width = self.mask.shape
            pixels_sha256 = compute_pixels_sha256(self.mask.astype(np.uint8) * 255)
            described["mask"] = {"width": width, "height": height, "pixels_sha256": pixels_sha256}
        if self.points:
            described["points"] = [vars(point) for point in self.points]
        if self.words is not None:
            described["words"] = self.words
        if self.extension is not None:
            described["extension"] = {side: pixels for side, pixels in vars(self.extension).items() if pixels}
        if self.padding_mask_crop is not None:
            described["padding_mask_crop"] = self.padding_mask_crop
        return described


def run_edit(
    pipe: Any,
    edit: ImageEdit,
    prompt: str,
    *,
    segmenter: Segmenter | None = None,
    seeds: Sequence[int],
    **arguments: Any,
) -> list[Image.Image]:
    """Make an edit by its pipeline, one image for each seed; an empty prompt leaves the content to the image.

    The bundled model gets of the prompt what belongs in the mask, see `make_region_prompt`.
    arguments: of the pipeline's call; width and height follow `ImageEdit.start_size`.
    Raises: DianjingError also for an image that the bundled model cannot vary without a prompt.
    """
    import torch

    images = [edit.image] * len(seeds)
    mask = edit.select(pipe, segmenter) if edit.is_masked and edit.extension is None else None
    arguments |= _make_prompt_arguments(pipe, edit, mask, prompt, count=len(seeds), slow=arguments.get("slow"))

    def generate(images: list[Image.Image], **more: Any) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(image=images, generator=generators, strength=edit.used_strength, **more, **arguments).images

    if mask is not None:
        return generate(images, mask_image=mask, padding_mask_crop=edit.padding_mask_crop)
    if edit.extension is None:
        return generate(images)
    for part in edit.extension.split(edit.image.size):
        canvases, masks = zip(*(part.apply(image) for image in images), strict=True)
        padding_px = min(edit.image.size) // 2
        images = generate(list(canvases), mask_image=list(masks), padding_mask_crop=padding_px)
    return images


def _make_prompt_arguments(
    pipe: Any, edit: ImageEdit, mask: np.ndarray | None, prompt: str, *, count: int, slow: bool | None
) -> dict[str, Any]:
    """Make the arguments of a pipeline's call that follow from a prompt: that of the mask, or embeddings of none."""
    from dianjing.pipelines.editing.region_prompt import make_region_prompt  # with torch
    from dianjing.pipelines.editing.variation import check_variation

    if not prompt:
        if edit.used_strength > 0:
            check_variation(pipe, edit.image)
        guidance_scale = 1.0 if slow is not False else None  # few steps have their own, which is none
        return {**vars(pipe.encode_texts([""] * count)), "guidance_scale": guidance_scale, "negative_prompt": None}
    if mask is not None:
        is_cropped = edit.padding_mask_crop is not None
        prompt = make_region_prompt(pipe, edit.image, mask, prompt, is_cropped=is_cropped)
    return {"prompt": [prompt] * count}
