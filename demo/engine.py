"""The inference engine: the pipelines of one model on one device, and how each kind of request runs on them.

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
from dianjing.demo.progress import ProgressListener, ProgressReporter
from dianjing.demo.requests import (
    IMAGE_BATCH_SIZE,
    ConversationRequest,
    ImageToVideoRequest,
    TextToImageRequest,
    TextToVideoRequest,
)
from dianjing.demo.results import ResultStore
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.media.color import to_rgb
from dianjing.pipelines.media.image import check_image_size, get_input_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import get_video_metadata
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser
from dianjing.pipelines.segmentation.base import Point, Segmenter, check_points, get_region_metadata
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.pipelines.validation import coalesce

SEGMENTER_CACHE_SIZE = 4  # images whose features are kept for further clicks


class MaskService:
    """Predict masks from clicks, one call at a time; the features of the last images are cached."""

    def __init__(self, segmenter_factory: Callable[[], Segmenter] = GrabCutSegmenter):
        self.segmenter_factory = segmenter_factory
        self._lock = threading.Lock()
        self._segmenters: OrderedDict[bytes, Segmenter] = OrderedDict()

    def predict_mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at points (x, y) in pixels of the image.

        A label is true for a point on the object and false for a point outside it.

        Raises: DianjingError for points outside the image, or labels that do not match the points.
        """
        if len(points) != len(labels):
            raise DianjingError("labels_do_not_match_points", labels=len(labels), points=len(points))
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


class InferenceEngine:
    """Run requests on the pipelines of one model, one request at a time; masks may be predicted in parallel.

    `text_to_video` and `image_to_video` are None for a model without motion blocks. `model` is the name that the
    metadata of results carries.
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
        self.text_to_image, self.text_to_video, self.image_to_video = text_to_image, text_to_video, image_to_video
        self.model = model
        self.mask_service = MaskService(segmenter_factory)
        if image_to_video is not None:
            image_to_video.segmenter = segmenter_factory()
        for pipe in (text_to_image, text_to_video, image_to_video):
            if pipe is not None:
                pipe.set_progress_bar_config(disable=True)
        self.capabilities = _get_capabilities(text_to_image, text_to_video, model)

    @classmethod
    def from_pretrained(
        cls, model: str = "sticker", *, device: str = "cpu", dtype: Any = torch.float32, **options: Any
    ) -> "InferenceEngine":
        """Load a registry name, a folder or a Hub id once for all pipelines.

        Raises: WeightsError for weights that cannot be loaded.
        """
        text_to_image = TextToImagePipeline.from_pretrained(model, dtype=dtype).to(device)
        name = Path(model).resolve().name if Path(model).is_dir() else model  # never the path of a folder
        if not text_to_image.transformer.config.use_motion_blocks:
            return cls(text_to_image, model=name, **options)
        return cls(
            text_to_image,
            model=name,
            text_to_video=TextToVideoPipeline.from_pipe(text_to_image),
            image_to_video=ImageToVideoPipeline.from_pipe(text_to_image),
            **options,
        )

    def run(self, job: Job, results: ResultStore, *, on_progress: ProgressListener) -> JobResult:
        """Generate what a job requests and write its files.

        `on_progress` is called after every denoising step; an exception that it raises ends the run.
        """
        request, label = job.request, job.request.visible_label
        if isinstance(request, TextToImageRequest):
            images, metadata = self._generate_images(request, on_progress)
            files = results.save_images(
                job.id,
                images,
                metadata,
                visible_label=label,
                image_format=request.output_format,
                quality=request.output_compression,
            )
            crop, turn = None, None
        elif isinstance(request, ConversationRequest):
            turn, metadata = self._run_turn(request, on_progress)
            files, crop = results.save_images(job.id, [turn.image], metadata, visible_label=label), None
        else:
            assert request.fps is not None
            frames, metadata, crop = self._generate_video(request, on_progress)
            files, turn = results.save_video(job.id, frames, metadata[0], fps=request.fps, visible_label=label), None
        prompt = metadata[0].prompt
        unknown = self.text_to_image.find_unknown_words(prompt) if prompt else []
        return JobResult(files=files, metadata=metadata, unknown_words=tuple(unknown), crop=crop, turn=turn)

    def create_conversation(
        self, *, seed: int = 0, num_inference_steps: int | None = None, guidance_scale: float | None = None
    ) -> Conversation:
        """Create a conversation for `ConversationRequest`; it references the model, so do not copy it deeply."""
        return Conversation(
            self.text_to_image, seed=seed, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )

    def predict_mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """Call `MaskService.predict_mask`, bool (H, W); it waits for other masks, never for a generation."""
        return self.mask_service.predict_mask(image, points, labels)

    def make_metadata(self, prompt: str, *, seed: int, settings: dict[str, object]) -> GenerationMetadata:
        """Metadata of a result of this model and version."""
        return GenerationMetadata(prompt=prompt, seed=seed, settings=settings, model=self.model, version=__version__)

    def make_conversation_metadata(self, conversation: Conversation) -> GenerationMetadata:
        """Metadata of the last image of a conversation: its instructions and seed generate it again."""
        turn, defaults = conversation.turns[-1], self.capabilities
        settings = {
            "width": turn.image.width,
            "height": turn.image.height,
            "instructions": [each.text for each in conversation.turns],
            "num_inference_steps": coalesce(conversation.num_inference_steps, defaults.num_inference_steps),
            "guidance_scale": coalesce(conversation.guidance_scale, defaults.guidance_scale),
            "scheduler": type(self.text_to_image.scheduler).__name__,
            "device": str(self.text_to_image.device.type),
            "dtype": str(self.text_to_image.dtype).removeprefix("torch."),
        }
        return self.make_metadata(turn.prompt, seed=conversation.seed, settings=settings)

    def free_memory(self) -> None:
        """Release cached memory, after a run that ran out of it."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _generate_images(
        self, request: TextToImageRequest, on_progress: ProgressListener
    ) -> tuple[list[Image.Image], tuple[GenerationMetadata, ...]]:
        assert request.seed is not None
        seeds = [request.seed + i for i in range(request.num_images)]
        run_steps = [run.num_steps for run in request.get_sampling_runs(self.capabilities)]
        images: list[Image.Image] = []
        with self.text_to_image.observe_steps(ProgressReporter(self.text_to_image, on_progress, run_steps=run_steps)):
            for first in range(0, len(seeds), IMAGE_BATCH_SIZE):
                batch = seeds[first : first + IMAGE_BATCH_SIZE]
                output: Any = self.text_to_image(
                    request.prompt,
                    num_images_per_prompt=len(batch),
                    generator=[torch.Generator().manual_seed(seed) for seed in batch],
                    **request.get_pipeline_params(),
                )
                images += output.images
        settings = {
            "width": request.width,
            "height": request.height,
            "negative_prompt": request.negative_prompt,
            **get_sampling_metadata(self.text_to_image),
        }
        return images, tuple(self.make_metadata(request.prompt, seed=seed, settings=settings) for seed in seeds)

    def _run_turn(
        self, request: ConversationRequest, on_progress: ProgressListener
    ) -> tuple[Any, tuple[GenerationMetadata, ...]]:
        with self.text_to_image.observe_steps(ProgressReporter(self.text_to_image, on_progress)):
            turn = request.conversation.send(request.text)
        return turn, (self.make_conversation_metadata(request.conversation),)

    def _generate_video(
        self, request: TextToVideoRequest | ImageToVideoRequest, on_progress: ProgressListener
    ) -> tuple[np.ndarray, tuple[GenerationMetadata, ...], Message | None]:
        """Generate frames uint8 (F, H, W, 3), their metadata, and how an uploaded image was cropped."""
        assert request.seed is not None
        assert request.fps is not None
        pipe: Any = self.image_to_video if isinstance(request, ImageToVideoRequest) else self.text_to_video
        run_steps = [run.num_steps for run in request.get_sampling_runs(self.capabilities)]
        reporter = ProgressReporter(pipe, on_progress, run_steps=run_steps, num_windows=len(run_steps))
        params = {
            **request.get_pipeline_params(),
            "num_frames": request.num_frames,
            "fps": request.fps,
            "output_type": "uint8",
            "generator": torch.Generator().manual_seed(request.seed),
        }
        settings: dict[str, object] = {"negative_prompt": request.negative_prompt}
        crop = None
        with pipe.observe_steps(reporter):
            if isinstance(request, ImageToVideoRequest):
                sides = {"height": request.height, "width": request.width}
                regions = request.regions or pipe.locate_regions(request.image, request.prompt, **sides)
                output = pipe(request.image, regions, request.prompt, **params)
                settings["image"] = get_input_image_metadata(request.image)
                settings["regions"] = [get_region_metadata(region) for region in regions]
                crop = output.crop_transform.to_message()
            else:
                output = pipe(request.prompt, **params)
                settings["long_video"] = request.long_video
        frames = output.frames[0]
        settings = {**get_video_metadata(frames, request.fps), **get_sampling_metadata(pipe), **settings}
        return frames, (self.make_metadata(request.prompt, seed=request.seed, settings=settings),), crop


def _get_capabilities(
    text_to_image: TextToImagePipeline, text_to_video: TextToVideoPipeline | None, model: str
) -> ModelCapabilities:
    config, scale = text_to_image.transformer.config, text_to_image.vae_scale_factor
    video_capabilities: dict[str, Any] = {}
    if text_to_video is not None:
        video_capabilities = {
            "num_frames": text_to_video.config.default_num_frames,
            "fps": text_to_video.config.default_fps,
            "max_regions": config.max_regions,
            "has_flow_field": config.use_flow_field,
            "motion_parser": MotionPromptParser(text_to_video.motion_vocabulary, text_to_video.concept_vocabulary),
            "continuation_steps": text_to_video.config.default_continuation_steps,
            "continuation_guidance_scale": text_to_video.config.default_continuation_guidance_scale,
        }
    return ModelCapabilities(
        model=model,
        default_size_px=config.sample_size * scale,
        size_multiple_px=config.patch_size * scale,
        num_inference_steps=text_to_image.config.default_num_inference_steps,
        guidance_scale=text_to_image.config.default_guidance_scale,
        **video_capabilities,
    )
