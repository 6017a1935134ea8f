"""The capabilities of loaded pipelines: which requests they serve, with which defaults and sizes."""

from typing import Any

from dianjing.demo.image_conditioner import ImageConditioner
from dianjing.demo.limits import AdapterInfo, ModelCapabilities
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.pipelines.video.published_models import PublishedModel
from dianjing.weights.description import ModelDescription


def get_capabilities(
    text_to_image: TextToImagePipeline,
    video_pipe: TextToVideoPipeline | ImageToVideoPipeline | None,
    *,
    description: ModelDescription,
    adapters: tuple[AdapterInfo, ...] = (),
    conditioner: ImageConditioner | None = None,
    video_models: tuple[PublishedModel, ...] = (),
) -> ModelCapabilities:
    """Read the capabilities of pipelines from their configurations and the description of the model."""
    multiple_px = text_to_image.size_multiple_px
    return ModelCapabilities(
        model=description.name,
        licence=description.licence,
        default_size_px=text_to_image.default_size_px,
        size_multiple_px=multiple_px,
        trained_sizes=tuple(size for size in description.trained_sizes if not any(side % multiple_px for side in size)),
        **_get_sampling_capabilities(text_to_image),
        can_chat=hasattr(text_to_image.scheduler, "add_noise"),  # by which a turn keeps what it does not change
        adapters=adapters,
        scheduler=text_to_image.trained_scheduler or text_to_image.scheduler,
        num_layers=len(text_to_image.transformer.blocks),
        video_models=video_models,
        **({} if conditioner is None else _get_condition_capabilities(conditioner)),
        **({} if video_pipe is None else _get_video_capabilities(video_pipe)),
    )


def _get_sampling_capabilities(pipe: TextToImagePipeline) -> dict[str, Any]:
    """The steps and guidance scale of the model and of its default adapter."""
    return {
        "num_inference_steps": pipe.config.default_num_inference_steps,
        "guidance_scale": pipe.config.default_guidance_scale,
        "default_sampling": None if pipe.default_adapter is None else pipe.default_adapter.sampling,
    }


def _get_condition_capabilities(conditioner: ImageConditioner) -> dict[str, Any]:
    return {
        "controlnets": tuple(conditioner.controlnets),
        "num_control_layers": conditioner.num_control_layers,
        "preprocessors": tuple(conditioner.preprocessors),
        "takes_pictures": conditioner.ip_adapter is not None,
    }


def _get_video_capabilities(pipe: TextToVideoPipeline | ImageToVideoPipeline) -> dict[str, Any]:
    config, transformer_config = pipe.config, pipe.transformer.config
    return {
        "num_frames": config.default_num_frames,
        "fps": config.default_fps,
        "max_regions": transformer_config.max_regions,
        "should_refine": pipe.should_refine if isinstance(pipe, ImageToVideoPipeline) else None,
        "has_flow_field": transformer_config.use_flow_field,
        "motion_parser": MotionPromptParser(pipe.motion_vocabulary, pipe.concept_vocabulary),
        "continuation_steps": config.default_continuation_steps,
        "continuation_guidance_scale": config.default_continuation_guidance_scale,
    }
