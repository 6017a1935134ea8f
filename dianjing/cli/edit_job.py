"""The edit of `dianjing edit`: the image and what of it may change, checked without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dianjing.cli.mask_preview import load_segmenter
from dianjing.pipelines.editing.edit import ImageEdit, run_edit
from dianjing.pipelines.editing.extension import parse_extension
from dianjing.pipelines.media.image import open_image
from dianjing.pipelines.media.mask import read_mask_of_change
from dianjing.pipelines.segmentation.base import parse_click
from dianjing.pipelines.validation import ImageRequest


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """An edit with the path of its image, and the segmenter of its click: a SAM model, or None."""

    image_path: Path
    edit: ImageEdit
    segmenter: str | None = None

    def choose_size(self, pipe: Any, request: ImageRequest) -> ImageRequest:
        """Fill in the width and height at which the model works on the image."""
        width, height = pipe.choose_start_size(self.edit.start_size, width=request.width, height=request.height)
        return replace(request, width=width, height=height)

    def run(self, pipe: Any, prompt: str, seeds: Sequence[int], **arguments: Any) -> list[Any]:
        """Make the edit, one PIL image for each seed."""
        return run_edit(pipe, self.edit, prompt, segmenter=load_segmenter(self.segmenter), seeds=seeds, **arguments)

    def get_metadata(self, request: ImageRequest) -> dict[str, object]:
        """Describe the edit for the metadata of its results; width and height are those that the model worked at."""
        size = {"width": request.width, "height": request.height}
        return {**size, **self.edit.get_metadata(image_name=self.image_path.name)}


def read_edit(
    image_path: Path,
    *,
    mask_path: Path | None,
    click: str | None,
    words: str | None,
    extensions: Sequence[str],
    strength: float | None,
    padding_mask_crop: int | None,
    segmenter: str | None,
) -> EditJob:
    """Read an image and its mask, and check what of it may change. Raises: DianjingError."""
    image = open_image(image_path)
    edit = ImageEdit(
        image=image,
        mask=None if mask_path is None else read_mask_of_change(mask_path, size=image.size),
        points=() if click is None else parse_click(click),
        words=words,
        extension=parse_extension(extensions) if extensions else None,
        strength=strength,
        padding_mask_crop=padding_mask_crop,
    )
    return EditJob(image_path=image_path, edit=edit, segmenter=segmenter)
