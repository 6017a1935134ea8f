"""The inference engine: the pipelines of one model on one device, and how each kind of request runs on them.

F frames, H height, W width.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing import __version__
from dianjing.demo.album_request import StickerAlbumRequest
from dianjing.demo.capabilities import get_capabilities
from dianjing.demo.editing import ImageEditor
from dianjing.demo.extensions import AdapterSwitch
from dianjing.demo.image_conditioner import ImageConditioner
from dianjing.demo.image_generation import run_image_request
from dianjing.demo.jobs import Job, JobResult
from dianjing.demo.mask_service import MaskService
from dianjing.demo.progress import ProgressListener, ProgressReporter
from dianjing.demo.request_base import ImageRequestBase
from dianjing.demo.requests import (
    AnyRequest,
    ConversationRequest,
    ImageToVideoRequest,
    TextToImageRequest,
    TextToVideoRequest,
)
from dianjing.demo.results import ResultStore
from dianjing.demo.sticker_albums import make_sticker_album
from dianjing.demo.video_generation import run_video_request
from dianjing.demo.video_models import VideoModels, release_memory
from dianjing.pipelines.conversation.parsing.chat_model import ChatModelParser
from dianjing.pipelines.conversation.parsing.rule_parser import RuleParser
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.cost_model import CostModel
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.named_adapters import NamedAdapter
from dianjing.pipelines.prompting.enhancement import CompleteChat
from dianjing.pipelines.segmentation.base import Segmenter
from dianjing.pipelines.segmentation.own_images import make_default_segmenter
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.weights.description import ModelDescription, describe_model
from dianjing.weights.resolve import resolve_model


class InferenceEngine:
    """Run requests on the pipelines of one model, one request at a time; masks may be predicted in parallel.

    `text_to_video` and `image_to_video` are None for a model without motion blocks. `description` holds the name that
    the metadata of results carries. `adapters` are what requests may name, as are the ControlNets in
    `image_conditions`, the options of `ImageConditioner`, and `video_models`; `complete_chat` parses conversations,
    None for the rules alone.
    """

    def __init__(
        self,
        text_to_image: TextToImagePipeline,
        *,
        description: ModelDescription,
        text_to_video: TextToVideoPipeline | None = None,
        image_to_video: ImageToVideoPipeline | None = None,
        segmenter_factory: Callable[[], Segmenter] | None = None,
        adapters: Sequence[NamedAdapter] = (),
        complete_chat: CompleteChat | None = None,
        cost_model: CostModel | None = None,
        video_models: VideoModels | None = None,
        **image_conditions: Any,
    ):
        self.text_to_image, self.text_to_video, self.image_to_video = text_to_image, text_to_video, image_to_video
        self.model, self.complete_chat = description.name, complete_chat
        if image_to_video is not None and segmenter_factory is not None:
            image_to_video.segmenter = segmenter_factory()
        self.image_editor = ImageEditor(text_to_image, segmenter_factory)
        self.segmenter_factory = segmenter_factory or partial(make_default_segmenter, image_to_video or text_to_image)
        self.mask_service = MaskService(self.segmenter_factory)
        self.video_models = video_models or VideoModels()
        self.cost_model = cost_model or CostModel.measure(text_to_image)
        self.conditioner = ImageConditioner(text_to_image, **image_conditions)
        pipelines: list[Any] = [text_to_image, text_to_video, image_to_video, self.conditioner.pipe]
        pipelines = [pipe for pipe in pipelines if pipe is not None]
        for pipe in pipelines:
            pipe.set_progress_bar_config(disable=True)
        self.adapter_switch = AdapterSwitch(pipelines, adapters)
        self.capabilities = get_capabilities(
            text_to_image,
            text_to_video if image_to_video is None else image_to_video,
            description=description,
            adapters=self.adapter_switch.infos,
            conditioner=self.conditioner,
            video_models=self.video_models.models,
        )

    @classmethod
    def from_pretrained(
        cls, model: str = "sticker", *, device: str = "cpu", dtype: Any = torch.float32, **options: Any
    ) -> "InferenceEngine":
        """Load a registry name, a folder or a Hub id once for all pipelines; `options` are those of the class.

        Raises: WeightsError for weights that cannot be loaded; DianjingError for an adapter or a ControlNet of another
        model.
        """
        text_to_image = TextToImagePipeline.from_pretrained(model, dtype=dtype).to(device)
        options["description"] = describe_model(model, resolve_model(model))
        if not text_to_image.transformer.config.use_motion_blocks:
            return cls(text_to_image, **options)
        return cls(
            text_to_image,
            text_to_video=TextToVideoPipeline.from_pipe(text_to_image),
            image_to_video=ImageToVideoPipeline.from_pipe(text_to_image),
            **options,
        )

    def predict_s(self, request: AnyRequest) -> float:
        """Predict how many s a request with defaults filled in takes; for a conversation, at most."""
        if isinstance(request, TextToVideoRequest | ImageToVideoRequest) and request.video_model is not None:
            return self.video_models.predict_s(request)
        width, height = request.get_size(self.capabilities)
        return self.cost_model.predict_s(request.list_work(self.capabilities), width=width, height=height)

    def is_estimate(self, request: AnyRequest) -> bool:
        """True for a prediction of a published model that no run has corrected yet."""
        if not isinstance(request, TextToVideoRequest | ImageToVideoRequest) or request.video_model is None:
            return False
        return not self.video_models.has_measured(request)

    def run(self, job: Job, results: ResultStore, *, on_progress: ProgressListener) -> JobResult:
        """Generate what a job requests and write its files.

        `on_progress` is called after every denoising step; an exception that it raises ends the run.
        """
        request, label = job.request, job.request.visible_label
        if isinstance(request, StickerAlbumRequest):
            return make_sticker_album(self, job, results, on_progress)
        predicted_s, start_s = self.predict_s(request), time.monotonic()
        self.adapter_switch.activate(request.adapters or {})
        if isinstance(request, TextToImageRequest):
            images, metadata = run_image_request(self, request, on_progress)
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
            frames, metadata, crop = run_video_request(self, request, on_progress)
            files, turn = results.save_video(job.id, frames, metadata[0], fps=request.fps, visible_label=label), None
        if request.list_work(self.capabilities) and not isinstance(request, ConversationRequest):  # at most
            self.cost_model.add_run(predicted_s=predicted_s, measured_s=time.monotonic() - start_s)
        prompt = metadata[0].prompt
        unknown = self.text_to_image.find_nearest_words(prompt) if prompt else {}
        truncated = self.text_to_image.find_truncated(prompt, getattr(request, "negative_prompt", None))
        return JobResult(
            files=files, metadata=metadata, unknown_words=unknown, truncated=tuple(truncated), crop=crop, turn=turn
        )

    def create_conversation(
        self,
        *,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        slow: bool | None = None,
    ) -> Conversation:
        """Create a conversation for `ConversationRequest`; it references the model, so do not copy it deeply."""
        conversation = Conversation(
            self.text_to_image,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            slow=slow,
        )
        return self._set_parser(conversation)

    def load_conversation(self, path: Path) -> Conversation:
        """Load a saved conversation for `ConversationRequest`. Raises: DianjingError for any other file."""
        return self._set_parser(Conversation.load(path, self.text_to_image))

    def _set_parser(self, conversation: Conversation) -> Conversation:
        if self.complete_chat is not None:
            conversation.parser = ChatModelParser(self.complete_chat, RuleParser(conversation.concept_vocabulary))
        return conversation

    def predict_mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """Call `MaskService.predict_mask`, bool (H, W); it waits for other masks, never for a generation."""
        return self.mask_service.predict_mask(image, points, labels)

    def make_metadata(
        self, prompt: str, *, seed: int, settings: dict[str, object], model: str | None = None
    ) -> GenerationMetadata:
        """Metadata of a result of this version and a model, by default the engine's own."""
        return GenerationMetadata(
            prompt=prompt, seed=seed, settings=settings, model=model or self.model, version=__version__
        )

    def describe_sampling(self, request: ImageRequestBase) -> dict[str, object]:
        """Steps, guidance scale and default adapter of a request with defaults filled in, as settings of metadata."""
        adapter = self.text_to_image.default_adapter if request.uses_default_adapter else None
        return {
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            **({} if adapter is None else {"default_adapter": adapter.name}),
        }

    def make_conversation_metadata(
        self, conversation: Conversation, *, adapters: Mapping[str, float] | None = None
    ) -> GenerationMetadata:
        """Metadata of the last image of a conversation: its instructions and seed generate it again."""
        turn, pipe = conversation.turns[-1], self.text_to_image
        params = ImageRequestBase(
            num_inference_steps=conversation.num_inference_steps,
            guidance_scale=conversation.guidance_scale,
            slow=conversation.slow,
            adapters=adapters or {},
        ).with_defaults(self.capabilities)
        adapter = pipe.default_adapter if params.uses_default_adapter else None
        settings = {
            "width": turn.image.width,
            "height": turn.image.height,
            "instructions": [each.text for each in conversation.turns],
            **self.describe_sampling(params),
            "scheduler": type(pipe.scheduler if adapter is None else adapter.scheduler).__name__,
            "device": str(pipe.device.type),
            "dtype": str(pipe.dtype).removeprefix("torch."),
            **self.adapter_switch.make_metadata(adapters),
        }
        return self.make_metadata(turn.prompt, seed=conversation.seed, settings=settings)

    free_memory = staticmethod(release_memory)  # after a run that ran out of it

    def _run_turn(
        self, request: ConversationRequest, on_progress: ProgressListener
    ) -> tuple[Any, tuple[GenerationMetadata, ...]]:
        with self.text_to_image.observe_steps(ProgressReporter(self.text_to_image, on_progress)):
            turn = request.conversation.send(request.text)
        return turn, (self.make_conversation_metadata(request.conversation, adapters=request.adapters),)
