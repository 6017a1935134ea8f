"""Generation of videos in the inference engine: sampled, moved by the motion field, or of a published model.

F frames, H height, W width.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dianjing.demo.progress import ProgressListener, ProgressReporter
from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
from dianjing.errors import Message
from dianjing.pipelines.media.image import get_input_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import get_video_metadata
from dianjing.pipelines.named_schedulers import use_scheduler
from dianjing.pipelines.segmentation.base import get_region_metadata
from dianjing.pipelines.transparency.transparent_video import cut_out_regions

if TYPE_CHECKING:
    from dianjing.demo.engine import InferenceEngine


def run_video_request(
    engine: "InferenceEngine", request: TextToVideoRequest | ImageToVideoRequest, on_progress: ProgressListener
) -> tuple[np.ndarray, tuple[GenerationMetadata, ...], Message | None]:
    """Generate frames uint8 (F, H, W, 3 or 4), their metadata, and how an uploaded image was cropped."""
    assert request.seed is not None
    if request.video_model is not None:
        return engine.video_models.generate(request, on_progress, segmenter=engine.segmenter_factory())
    assert request.fps is not None
    pipe: Any = engine.image_to_video if isinstance(request, ImageToVideoRequest) else engine.text_to_video
    run_steps = [run.num_steps for run in request.list_work(engine.capabilities)]
    reporter = ProgressReporter(pipe, on_progress, run_steps=run_steps, num_windows=len(run_steps))
    with use_scheduler(pipe, request.scheduler), pipe.observe_steps(reporter):
        if isinstance(request, ImageToVideoRequest):
            frames, settings, crop = _animate(pipe, request)
        else:
            frames, settings, crop = _generate(pipe, request)
        is_sampled = settings.get("refine") != "off"
        settings = {**(get_sampling_metadata(pipe) if is_sampled else {}), **settings}
    if request.is_transparent:
        settings["background"] = "transparent"
    adapters = engine.adapter_switch.make_metadata(request.adapters)
    settings = {**get_video_metadata(frames, request.fps), **settings, **adapters}
    return frames, (engine.make_metadata(request.prompt, seed=request.seed, settings=settings),), crop


def _get_call_params(request: TextToVideoRequest | ImageToVideoRequest) -> dict[str, Any]:
    assert request.seed is not None
    return {
        **request.get_pipeline_params(),
        "num_frames": request.num_frames,
        "fps": request.fps,
        "generator": torch.Generator().manual_seed(request.seed),
    }


def _generate(pipe: Any, request: TextToVideoRequest) -> tuple[np.ndarray, dict[str, object], Message | None]:
    """Generate the video of a prompt; return its frames and settings."""
    params = _get_call_params(request)
    settings: dict[str, object] = {"negative_prompt": request.negative_prompt}
    if request.is_transparent:
        return np.stack(list(pipe.generate_transparent(request.prompt, **params).frames)), settings, None
    output = pipe(request.prompt, output_type="uint8", **params)
    return output.frames[0], settings | {"long_video": request.long_video}, None


def _animate(pipe: Any, request: ImageToVideoRequest) -> tuple[np.ndarray, dict[str, object], Message | None]:
    """Animate the image of a request; return the frames, their settings and the crop of the image."""
    image, regions = request.image, list(request.regions or pipe.locate_regions(request.image, request.prompt))
    settings: dict[str, object] = {
        "negative_prompt": request.negative_prompt,
        "image": get_input_image_metadata(image),
        "regions": [get_region_metadata(region) for region in regions],
    }
    if request.is_transparent:
        cut = cut_out_regions(image, regions, segmenter=pipe.segmenter)
        image, regions = cut.image, list(cut.regions)
    output = pipe(image, regions, request.prompt, output_type="uint8", **_get_call_params(request))
    settings["refine"] = "on" if output.is_refined else "off"
    return output.frames[0], settings, output.crop_transform.to_message()
