"""Published video models of a server: listed at its start, loaded when a request names one, one at a time."""

import gc
import time
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from dianjing import __version__
from dianjing.demo.progress import ProgressListener, PublishedProgressReporter
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.media.image import get_input_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import get_video_metadata
from dianjing.pipelines.segmentation.base import Segmenter, get_region_metadata
from dianjing.pipelines.video.guided_video import animate_regions
from dianjing.pipelines.video.published import PublishedVideoOutput, PublishedVideoPipeline
from dianjing.pipelines.video.published_cost import PublishedCostModel, make_video_work
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
        self.cost_model = PublishedCostModel(device=device, dtype=dtype)
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

    def _find(self, request: TextToVideoRequest | ImageToVideoRequest) -> PublishedModel:
        key = request.video_model, request.task
        return next(model for model in self.models if (model.name, model.pipeline.task) == key)

    def has_measured(self, request: TextToVideoRequest | ImageToVideoRequest) -> bool:
        """True once a run of the request's model has corrected the predictions."""
        return self.cost_model.has_measured(self._find(request))

    def predict_s(self, request: TextToVideoRequest | ImageToVideoRequest) -> float:
        """Predict how many s a request with defaults filled in takes, once its model is loaded."""
        model = self._find(request)
        assert request.width is not None
        assert request.height is not None
        assert request.num_frames is not None
        work = make_video_work(
            model,
            num_frames=request.num_frames,
            size=(request.width, request.height),
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            is_guided=isinstance(request, ImageToVideoRequest) and bool(request.regions),
        )
        return self.cost_model.predict_s(model, work)

    def generate(
        self, request: TextToVideoRequest | ImageToVideoRequest, on_progress: ProgressListener, *, segmenter: Segmenter
    ) -> tuple[np.ndarray, tuple[GenerationMetadata, ...], Message | None]:
        """Generate frames uint8 (F, H, W, 3) of a request with defaults filled in, their metadata, and the crop."""
        assert request.seed is not None
        assert request.fps is not None
        model = self._find(request)
        predicted_s, pipe = self.predict_s(request), self.load(model)
        start_s = time.monotonic()
        output = _call(pipe, request, on_progress, segmenter=segmenter)
        self.cost_model.add_run(model, predicted_s=predicted_s, measured_s=time.monotonic() - start_s)
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
    assert request.num_inference_steps is not None
    params: dict[str, Any] = {
        **request.get_published_params(),
        "generator": torch.Generator().manual_seed(request.seed),
        "output_type": "uint8",
        "on_step": PublishedProgressReporter(
            pipe.pipe.vae,
            on_progress,
            num_steps=request.num_inference_steps,
            num_extra_frames=pipe.model.num_extra_frames,
        ),
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
