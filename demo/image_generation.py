"""Generation of images in the inference engine: of prompts, edits and image conditions, in batches."""

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from dianjing.demo.edit_request import EditRequest
from dianjing.demo.progress import ProgressListener, ProgressReporter
from dianjing.demo.request_base import IMAGE_BATCH_SIZE
from dianjing.demo.requests import TextToImageRequest
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.named_schedulers import use_scheduler
from dianjing.pipelines.transparency.prompt_check import check_transparent_prompt

if TYPE_CHECKING:
    from dianjing.demo.engine import InferenceEngine


def run_image_request(
    engine: "InferenceEngine", request: TextToImageRequest, on_progress: ProgressListener
) -> tuple[list[Image.Image], tuple[GenerationMetadata, ...]]:
    """Generate the images of a request, with defaults filled in, and their metadata."""
    assert request.seed is not None
    if request.is_transparent:
        check_transparent_prompt(
            engine.text_to_image.prompt_normalizer, request.prompt, engine.text_to_image.list_trigger_words()
        )
    seeds = [request.seed + i for i in range(request.num_images)]
    run_steps = [run.num_steps for run in request.list_work(engine.capabilities)]
    images: list[Image.Image] = []
    pipe, condition_arguments, extra_metadata = _select_pipeline(engine, request)
    reporter = ProgressReporter(pipe, on_progress, run_steps=run_steps)
    with use_scheduler(pipe, request.scheduler), pipe.observe_steps(reporter):
        for first in range(0, len(seeds), IMAGE_BATCH_SIZE):
            batch = seeds[first : first + IMAGE_BATCH_SIZE]
            if isinstance(request, EditRequest):
                images += engine.image_editor.run(pipe, request, batch, **condition_arguments)
                continue
            output: Any = pipe(
                request.prompt,
                num_images_per_prompt=len(batch),
                generator=[torch.Generator().manual_seed(seed) for seed in batch],
                **request.get_pipeline_params(),
                **condition_arguments,
            )
            images += output.images
        if request.is_transparent:
            images = [engine.text_to_image.remove_background(image, request.prompt) for image in images]
            extra_metadata = {**extra_metadata, "background": "transparent"}
        sampling_metadata = get_sampling_metadata(pipe)
    settings = {
        "width": request.width,
        "height": request.height,
        "negative_prompt": request.negative_prompt,
        **sampling_metadata,
        **extra_metadata,
        **engine.adapter_switch.make_metadata(request.adapters),
    }
    return images, tuple(engine.make_metadata(request.prompt, seed=seed, settings=settings) for seed in seeds)


def _select_pipeline(
    engine: "InferenceEngine", request: TextToImageRequest
) -> tuple[Any, dict[str, Any], dict[str, object]]:
    """The pipeline of a request, its arguments for image conditions, and the metadata of an edit or of these."""
    if isinstance(request, EditRequest):
        pipe = engine.image_editor.get_pipeline(request)
        arguments, metadata = engine.conditioner.prepare(request, pipe)
        return pipe, arguments, request.edit.get_metadata() | metadata
    if not (request.controls or request.pictures):
        return engine.text_to_image, {}, {}
    return (engine.conditioner.pipe, *engine.conditioner.prepare(request))
