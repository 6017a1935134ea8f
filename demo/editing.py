"""Edits in the inference engine: the pipelines that share the components of the engine's own, and their results."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from dianjing.demo.edit_request import EditRequest
from dianjing.pipelines.editing.edit import run_edit
from dianjing.pipelines.image_base import ImagePipelineBase
from dianjing.pipelines.image_to_image import ImageToImagePipeline
from dianjing.pipelines.inpaint import InpaintPipeline
from dianjing.pipelines.segmentation.base import Segmenter

EDIT_CLASSES: dict[str, type[ImagePipelineBase]] = {
    "ImageToImagePipeline": ImageToImagePipeline,
    "InpaintPipeline": InpaintPipeline,
}


class ImageEditor:
    """Makes edits by pipelines over the components of a text-to-image pipeline."""

    def __init__(self, text_to_image: Any, segmenter_factory: Callable[[], Segmenter] | None = None):
        self.text_to_image, self.segmenter_factory = text_to_image, segmenter_factory
        self._pipelines: dict[str, Any] = {}

    def get_pipeline(self, request: EditRequest) -> Any:
        """The pipeline of a request, with the scheduler that the text-to-image pipeline has at present."""
        name = request.edit.pipeline_name
        if name not in self._pipelines:
            pipe = EDIT_CLASSES[name].from_pipe(self.text_to_image)
            pipe.set_progress_bar_config(disable=True)
            self._pipelines[name] = pipe
        pipe = self._pipelines[name]
        pipe.scheduler, pipe.trained_scheduler = self.text_to_image.scheduler, self.text_to_image.trained_scheduler
        return pipe

    def run(self, pipe: Any, request: EditRequest, seeds: list[int], **arguments: Any) -> list[Image.Image]:
        """Make the edit of a request by its pipeline, one image for each seed. arguments: for image conditions."""
        return run_edit(
            pipe,
            request.edit,
            request.prompt,
            segmenter=self.segmenter_factory() if self.segmenter_factory else None,
            seeds=seeds,
            **request.get_pipeline_params(),
            **arguments,
        )
