"""The pipelines of one model on one device, loaded once, and what each kind of request does with them.

F frames, H height, W width.
"""

import gc
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing import __version__
from dianjing.demo.jobs import Job, JobResult
from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.progress import ProgressCallback, ProgressListener, ProgressReportingPipeline
from dianjing.demo.requests import (
    IMAGE_BATCH_SIZE,
    ConversationRequest,
    ImageToVideoRequest,
    TextToImageRequest,
    TextToVideoRequest,
)
from dianjing.demo.results import ResultStore
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.media.image import check_image_size, to_rgb
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import get_video_metadata
from dianjing.pipelines.segmentation.base import Point, Segmenter, check_points, get_region_metadata
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline

SHARED_COMPONENTS = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler", "text_encoder_2", "tokenizer_2")


class InferenceEngine:
    """Draws for one worker at a time; masks are answered beside it.

    films and animations are None for a model that draws pictures only; model is the name that records carry.
    """

    def __init__(
        self,
        text_to_image: TextToImagePipeline,
        *,
        model: str,
        text_to_video: TextToVideoPipeline | None = None,
        image_to_video: ImageToVideoPipeline | None = None,
        segmenter_factory: Callable[[], Segmenter] = GrabCutSegmenter,
    ):
        self.text_to_image, self.text_to_video, self.image_to_video, self.model = (
            text_to_image,
            text_to_video,
            image_to_video,
            model,
        )
        self.conversation_pipeline = ProgressReportingPipeline(
            **text_to_image.components, **_get_defaults(text_to_image)
        )
        self.conversation_pipeline.vocabulary, self.conversation_pipeline.concept_vocabulary = (
            text_to_image.vocabulary,
            text_to_image.concept_vocabulary,
        )
        self.mask_service = MaskService(segmenter_factory)
        if image_to_video is not None:
            image_to_video.segmenter = segmenter_factory()
        for pipe in (text_to_image, text_to_video, image_to_video, self.conversation_pipeline):
            if pipe is not None:
                pipe.set_progress_bar_config(disable=True)
        self.capabilities = _get_capabilities(text_to_image, text_to_video, model)

    @classmethod
    def from_pretrained(
        cls, model: str = "sticker", *, device: str = "cpu", dtype: Any = torch.float32, **options: Any
    ) -> "InferenceEngine":
        """Load a registry name, a folder or a Hub id once for all pipelines.

        Raises: WeightsError, a ValueError, for what cannot be loaded.
        """
        pictures = TextToImagePipeline.from_pretrained(model, dtype=dtype).to(device)
        name = Path(model).resolve().name if Path(model).is_dir() else model  # where a folder lies is nobody's business
        if not pictures.transformer.config.use_motion_blocks:
            return cls(pictures, model=name, **options)
        parts = {name: pictures.components[name] for name in SHARED_COMPONENTS}
        films, animations = (
            pipeline.from_pretrained(model, dtype=dtype, **parts)
            for pipeline in (TextToVideoPipeline, ImageToVideoPipeline)
        )
        return cls(pictures, model=name, text_to_video=films, image_to_video=animations, **options)

    def run(self, job: Job, results: ResultStore, *, on_progress: ProgressListener) -> JobResult:
        """Draw what a job asks for, and write its files. tell hears every step, and may raise to stop the run."""
        request, label = job.request, {"visible_label": job.request.visible_label}
        if isinstance(request, TextToImageRequest):
            images, records = self._generate_images(request, on_progress)
            paths, fit, turn = results.save_images(job.id, images, records, **label), None, None
        elif isinstance(request, ConversationRequest):
            turn, records = self._run_turn(request, on_progress)
            paths, fit = results.save_images(job.id, [turn.image], records, **label), None
        else:
            assert request.fps is not None
            frames, records, fit = self._generate_video(request, on_progress)
            paths, turn = results.save_video(job.id, frames, records[0], fps=request.fps, **label), None
        said = records[0].prompt
        unknown = self.text_to_image.find_unknown_words(said) if said else []
        return JobResult(files=paths, metadata=records, unknown_words=tuple(unknown), crop_description=fit, turn=turn)

    def create_conversation(
        self, *, seed: int = 0, num_inference_steps: int | None = None, guidance_scale: float | None = None
    ) -> Conversation:
        """A new conversation for `TalkRequest`; it holds the model, so do not copy it deeply."""
        return Conversation(
            self.conversation_pipeline,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )

    def predict_mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """`Masks.mask`: bool (H, W). Waits for other masks only, never for the worker."""
        return self.mask_service.predict_mask(image, points, labels)

    def free_memory(self) -> None:
        """After a run that had too little."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _generate_images(
        self, request: TextToImageRequest, on_progress: ProgressListener
    ) -> tuple[list[Image.Image], tuple[GenerationMetadata, ...]]:
        assert request.seed is not None
        assert request.num_inference_steps is not None
        seeds = [request.seed + i for i in range(request.num_images)]
        batches = [seeds[i : i + IMAGE_BATCH_SIZE] for i in range(0, len(seeds), IMAGE_BATCH_SIZE)]
        on_step = ProgressCallback(
            self.text_to_image,
            on_progress,
            window_steps=[sum(steps for _, steps in request.sampling_runs(self.capabilities))],
        )
        images: list[Image.Image] = []
        for batch in batches:
            drawn: Any = self.text_to_image(
                request.prompt,
                num_images_per_prompt=len(batch),
                generator=[torch.Generator().manual_seed(seed) for seed in batch],
                callback_on_step_end=on_step,
                **_get_common_params(request),
            )
            images += drawn.images
        size = {"width": request.width, "height": request.height}
        settings = {**size, "negative_prompt": request.negative_prompt, **get_sampling_metadata(self.text_to_image)}
        return images, tuple(self._make_metadata(request.prompt, seed, settings) for seed in seeds)

    def _run_turn(
        self, request: ConversationRequest, on_progress: ProgressListener
    ) -> tuple[Any, tuple[GenerationMetadata, ...]]:
        self.conversation_pipeline.set_progress_listener(on_progress)
        try:
            turn = request.conversation.send(request.text)
        finally:
            self.conversation_pipeline.set_progress_listener(None)
        settings = {
            "width": turn.image.width,
            "height": turn.image.height,
            **get_sampling_metadata(self.conversation_pipeline),
        }
        return turn, (self._make_metadata(turn.prompt, turn.seed, settings),)

    def _generate_video(
        self, request: TextToVideoRequest | ImageToVideoRequest, on_progress: ProgressListener
    ) -> tuple[np.ndarray, tuple[GenerationMetadata, ...], str | None]:
        """Frames uint8 (F, H, W, 3), their record, and how an uploaded picture was cut."""
        assert request.seed is not None
        assert request.fps is not None
        common = {
            **_get_common_params(request),
            "num_frames": request.num_frames,
            "fps": request.fps,
            "output_type": "uint8",
            "generator": torch.Generator().manual_seed(request.seed),
        }
        own: dict[str, Any] = {"negative_prompt": request.negative_prompt}
        fit = None
        pipe: Any = self.image_to_video if isinstance(request, ImageToVideoRequest) else self.text_to_video
        on_step = ProgressCallback(
            pipe, on_progress, window_steps=[steps for _, steps in request.sampling_runs(self.capabilities)]
        )
        if isinstance(request, ImageToVideoRequest):
            made = pipe(request.image, request.regions, request.prompt, callback_on_step_end=on_step, **common)
            own["regions"], fit = [get_region_metadata(region) for region in request.regions], str(made.crop_transform)
        else:
            common |= self._get_unset_params(request)
            made = pipe(request.prompt, long_video=request.long_video, callback_on_step_end=on_step, **common)
            own["long_video"] = request.long_video
        frames = made.frames[0]
        settings = {**get_video_metadata(frames, request.fps), **get_sampling_metadata(pipe), **own}
        return frames, (self._make_metadata(request.prompt, request.seed, settings),), fit

    def _get_unset_params(self, request: TextToVideoRequest) -> dict[str, None]:
        """Steps and guidance as the model has them are left to it: frames that go on may take fewer than a picture."""
        names = ("num_inference_steps", "guidance_scale")
        return {name: None for name in names if getattr(request, name) == getattr(self.capabilities, name)}

    def _make_metadata(self, prompt: str, seed: int, settings: dict[str, object]) -> GenerationMetadata:
        return GenerationMetadata(prompt=prompt, seed=seed, settings=settings, model=self.model, version=__version__)


def _get_capabilities(
    text_to_image: TextToImagePipeline, text_to_video: TextToVideoPipeline | None, model: str
) -> ModelCapabilities:
    config, scale = text_to_image.transformer.config, text_to_image.vae_scale_factor
    film: dict[str, Any] = {}
    if text_to_video is not None:
        film = {
            "num_frames": text_to_video.config.default_num_frames,
            "fps": text_to_video.config.default_fps,
            "max_regions": config.max_regions,
            "has_flow_field": config.use_flow_field,
            "continuation_steps": text_to_video.config.default_continuation_steps,
            "continuation_guidance_scale": text_to_video.config.default_continuation_guidance_scale,
        }
    return ModelCapabilities(
        model=model,
        default_size_px=config.sample_size * scale,
        size_multiple_px=config.patch_size * scale,
        num_inference_steps=text_to_image.config.default_num_inference_steps,
        guidance_scale=text_to_image.config.default_guidance_scale,
        **film,
    )


def _get_defaults(pipe: TextToImagePipeline) -> dict[str, Any]:
    names = ("default_num_inference_steps", "default_guidance_scale")
    return {name: pipe.config[name] for name in names}


def _get_common_params(request: TextToImageRequest | TextToVideoRequest | ImageToVideoRequest) -> dict[str, Any]:
    """What every pipeline takes."""
    names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
    return {name: getattr(request, name) for name in names}


SEGMENTER_CACHE_SIZE = 4  # pictures whose clicks are answered without looking again


class MaskService:
    """One click after the other; a picture is looked at once."""

    def __init__(self, segmenter_factory: Callable[[], Segmenter] = GrabCutSegmenter):
        self.segmenter_factory = segmenter_factory
        self._lock = threading.Lock()
        self._segmenters: OrderedDict[bytes, Segmenter] = OrderedDict()

    def predict_mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """What clicks at (x, y) mean: bool (H, W) of the picture. A label is true for what is meant, else false.

        Raises: ValueError for points that are none of the picture's.
        """
        if len(points) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(points)} points; give one for each")
        check_image_size(*image.size)
        clicks = [Point(x=x, y=y, positive=bool(label)) for (x, y), label in zip(points, labels, strict=True)]
        check_points(clicks, width=image.width, height=image.height)
        pixels = np.asarray(to_rgb(image))
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        with self._lock:
            if key not in self._segmenters:
                segmenter = self.segmenter_factory()
                segmenter.set_image(pixels)
                self._segmenters[key] = segmenter
            self._segmenters.move_to_end(key)
            while len(self._segmenters) > SEGMENTER_CACHE_SIZE:
                self._segmenters.popitem(last=False)
            return self._segmenters[key].predict(clicks)
