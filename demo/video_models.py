"""Published video models of a server: listed at its start, loaded when a request names one, one at a time."""

import gc
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from dianjing import __version__
from dianjing.demo.jobs import Progress
from dianjing.demo.progress import ProgressListener
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.media.image import get_input_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import get_video_metadata
from dianjing.pipelines.segmentation.base import Segmenter, get_region_metadata
from dianjing.pipelines.video.guided_video import animate_regions
from dianjing.pipelines.video.published import PublishedVideoOutput, PublishedVideoPipeline
from dianjing.pipelines.video.published_models import PublishedModel, VideoTask, read_pipeline_class
from dianjing.weights.description import describe_model
from dianjing.weights.resolve import resolve_model


def release_memory() -> None:
    """Release cached memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class VideoModels:
    """Published video models by name; for each, what its configurations say, and one pipeline that is loaded.

    Raises: WeightsError for a model that is not on this machine and cannot be downloaded; DianjingError for one that
    is no published video model.
    """

    def __init__(self, names: Sequence[str] = (), *, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self.device, self.dtype = device, dtype
        self.models = tuple(model for name in dict.fromkeys(names) for model in _read_models(name))
        self._loaded: PublishedVideoPipeline | None = None

    def load(self, model: PublishedModel) -> PublishedVideoPipeline:
        """Load the pipeline of a model, unless it is loaded already; another one is released first."""
        if self._loaded is None or self._loaded.model != model:
            self._loaded = None
            release_memory()
            pipe = PublishedVideoPipeline.from_pretrained(
                str(model.folder), task=model.pipeline.task, dtype=self.dtype
            ).place(self.device)
            pipe.pipe.set_progress_bar_config(disable=True)
            pipe.model = model
            self._loaded = pipe
        return self._loaded

    def generate(
        self, request: TextToVideoRequest | ImageToVideoRequest, on_progress: ProgressListener, *, segmenter: Segmenter
    ) -> tuple[np.ndarray, tuple[GenerationMetadata, ...], Message | None]:
        """Generate frames uint8 (F, H, W, 3) of a request with defaults filled in, their metadata, and the crop."""
        assert request.seed is not None
        assert request.fps is not None
        model = next(
            model for model in self.models if (model.name, model.pipeline.task) == (request.video_model, request.task)
        )
        pipe = self.load(model)
        output = _call(pipe, request, on_progress, segmenter=segmenter)
        frames: Any = output.frames[0]
        sampling = {"num_inference_steps": request.num_inference_steps, "guidance_scale": request.guidance_scale}
        settings: dict[str, Any] = {**get_video_metadata(frames, request.fps), **pipe.describe(), **sampling}
        if isinstance(request, ImageToVideoRequest):
            settings["image"] = get_input_image_metadata(request.image)
            settings["regions"] = [get_region_metadata(region) for region in request.regions]
            settings["strict_background"] = request.strict_background and bool(request.regions)
        metadata = GenerationMetadata(
            prompt=request.prompt,
            seed=request.seed,
            settings={name: value for name, value in settings.items() if value is not None},
            model=model.name,
            version=__version__,
        )
        crop = None if output.crop_transform is None else output.crop_transform.to_message()
        return frames, (metadata,), crop


def _call(
    pipe: PublishedVideoPipeline,
    request: TextToVideoRequest | ImageToVideoRequest,
    on_progress: ProgressListener,
    *,
    segmenter: Segmenter,
) -> PublishedVideoOutput:
    assert request.seed is not None
    params: dict[str, Any] = {
        **request.get_published_params(),
        "generator": torch.Generator().manual_seed(request.seed),
        "output_type": "uint8",
        "on_step": lambda step, total: on_progress(Progress(step=step + 1, total=total, windows=1)),
    }
    if isinstance(request, TextToVideoRequest):
        return pipe(request.prompt, **params)
    if not request.regions:
        return pipe(request.prompt, request.image, **params)
    return animate_regions(
        pipe,
        request.image,
        request.regions,
        request.prompt,
        fps=request.fps,
        segmenter=segmenter,
        strict_background=request.strict_background,
        **params,
    )


def _read_models(name: str) -> list[PublishedModel]:
    """Read a model for each task that it has; a folder is named without its path, which clients must not see."""
    folder = resolve_model(name)
    if read_pipeline_class(folder) is None:
        raise DianjingError("not_a_published_video_model", model=name)
    models = []
    tasks: tuple[VideoTask, ...] = get_args(VideoTask)
    for task in tasks:
        try:
            models.append(PublishedModel.from_folder(describe_model(name).name, folder, task))
        except DianjingError as error:
            if error.message_id not in ("published_model_needs_image", "published_model_without_image"):
                raise
    return models
