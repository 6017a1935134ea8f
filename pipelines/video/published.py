"""Published video models: HunyuanVideo, HunyuanVideo-1.5 and Wan by diffusers' own pipelines, guided by warped frames.

F frames, H height, W width; latents are B C F Y X.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.base import DOWNLOAD_OPTIONS, without_inner_progress_bars
from dianjing.pipelines.media.crop import CropTransform, resize_crop
from dianjing.pipelines.media.image import check_image
from dianjing.pipelines.tensor_checks import check_computed
from dianjing.pipelines.vae import encode_images, frames_to_pixels
from dianjing.pipelines.video.base import VIDEO_OUTPUT_TYPES, postprocess_frames
from dianjing.pipelines.video.published_models import PublishedModel, VideoTask, read_pipeline_class
from dianjing.pipelines.video.time_to_move import (
    LatentGuide,
    MotionGuide,
    StepListener,
    get_sigma,
    is_flow_matching,
    observe_steps,
    pool_background,
    pool_masks,
    restore_background,
    steer_scheduler,
)
from dianjing.weights.manifest import read_components
from dianjing.weights.resolve import resolve_model

MAX_WEIGHT_SHARE = 0.8  # of the free GPU memory; the rest is for activations


@dataclass
class PublishedVideoOutput(BaseOutput):
    """Videos in the form of `output_type`, as in `VideoOutput`, and the crop of the image, None for text to video."""

    frames: Any
    crop_transform: CropTransform | None = None


class PublishedVideoPipeline:
    """Generate videos by a pipeline of diffusers that is called as it is, and guide it by a `MotionGuide`.

    pipe: the pipeline. model: its sizes and lengths. Without a guide its output is that of `pipe` itself.
    """

    def __init__(self, pipe: Any, model: PublishedModel):
        self.pipe, self.model = pipe, model

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike, *, task: VideoTask, dtype: torch.dtype = torch.float32, **options: Any
    ) -> "PublishedVideoPipeline":
        """Load a registry name, a local folder or a hub id, for "text-to-video" or "image-to-video".

        options: those of `resolve_model`. Only safetensors are loaded, and no code that comes with weights is run.
        Raises: DianjingError for a model of another kind or task; WeightsError for an invalid folder.
        """
        folder = resolve_model(name_or_path, **{name: options[name] for name in DOWNLOAD_OPTIONS if name in options})
        if read_pipeline_class(folder) is None:
            raise DianjingError("not_a_published_video_model", model=str(name_or_path))
        model = PublishedModel.from_folder(str(name_or_path), folder, task)
        read_components(folder)  # no pickles, no code, no truncated file; diffusers names what else does not fit
        dtypes = {"default": dtype}
        if model.pipeline.vae_dtype is not None:
            dtypes["vae"] = getattr(torch, model.pipeline.vae_dtype)
        pipeline_class = getattr(diffusers, model.pipeline.class_name)
        with without_inner_progress_bars():
            return cls(pipeline_class.from_pretrained(str(folder), dtype=dtypes, use_safetensors=True), model)

    def place(self, device: str) -> "PublishedVideoPipeline":
        """Move to a device; on a GPU that cannot hold all weights at once, one component at a time."""
        modules = [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]
        num_bytes = sum(weight.numel() * weight.element_size() for part in modules for weight in part.parameters())
        if device.startswith("cuda") and num_bytes > torch.cuda.mem_get_info(device)[0] * MAX_WEIGHT_SHARE:
            self.pipe.enable_model_cpu_offload(device=device)
            self.pipe.vae.enable_tiling()
        else:
            self.pipe.to(device)
        return self

    def describe(self) -> dict[str, object]:
        """Describe the pipeline for generation metadata, with the number of steps of a call without one."""
        return {
            "pipeline": self.model.pipeline.class_name,
            "num_inference_steps": self.model.pipeline.default_num_inference_steps,
            "scheduler": type(self.pipe.scheduler).__name__,
            "device": self.pipe._execution_device.type,
            "dtype": str(self.pipe.dtype).removeprefix("torch."),
        }

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        image: Image.Image | np.ndarray | None = None,
        guide: MotionGuide | None = None,
        num_frames: int | None = None,
        duration_s: float | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        on_step: StepListener | None = None,
    ) -> PublishedVideoOutput:
        """Generate one video from a prompt, or from a prompt and an image, which is scaled and cropped to its size.

        guide: warped frames of the size and length of the video. What is None is the pipeline's default; the size of
        an image's video follows its aspect ratio. duration_s is rounded to a length that the model generates. on_step
        is called after every step; an exception that it raises ends the run.

        Raises: DianjingError for arguments that cannot work, before anything is computed.
        """
        validation.check_output_type(output_type, VIDEO_OUTPUT_TYPES)
        num_frames = self.model.resolve_num_frames(num_frames, duration_s, fps)
        num_steps = self.model.pipeline.default_num_inference_steps
        if num_inference_steps is not None:
            num_steps = validation.check_num_inference_steps(num_inference_steps)
        kwargs = self._make_arguments(prompt, negative_prompt, num_frames, num_steps)
        still, crop_transform = None, None
        if self.model.takes_image:
            still, crop_transform = self._fit_image(image, width=width, height=height)
            kwargs |= {"image": still} | self._make_size_arguments(still.size)
        elif (size := self.model.resolve_size(width, height)) is not None:
            kwargs |= self._make_size_arguments(size)
        context: Any = nullcontext()
        if guide is not None:
            assert still is not None, "only an image is guided"
            context, kwargs["latents"] = self._start_guide(guide, still, num_frames, num_steps, generator)
        with context, self._set_guidance(guidance_scale, kwargs), observe_steps(self.pipe.scheduler, on_step):
            is_raw = output_type == "latent"
            frames = self.pipe(**kwargs, generator=generator, output_type="latent" if is_raw else "np").frames
        check_computed(torch.as_tensor(frames), self.pipe.vae)
        if not is_raw:
            frames = _convert_frames(np.asarray(frames), output_type, guide, still, margin_px=self.model.spatial_factor)
        return PublishedVideoOutput(frames=frames, crop_transform=crop_transform)

    def _make_arguments(
        self, prompt: str, negative_prompt: str | None, num_frames: int, num_inference_steps: int
    ) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "prompt": validation.check_prompt(prompt),
            "num_frames": num_frames + self.model.num_extra_frames,
            "num_inference_steps": num_inference_steps,
        }
        if validation.check_negative_prompt(negative_prompt):
            if not self.model.pipeline.takes_negative_prompt:
                self.model.refuse_option("negative_prompt")
            arguments["negative_prompt"] = negative_prompt
        return arguments

    def _make_size_arguments(self, size: tuple[int, int]) -> dict[str, int]:
        """Arguments for a size; none for a pipeline that chooses it by the shape of the image."""
        if self.model.takes_image and self.model.fixed_sizes:
            return {}
        return {"width": size[0], "height": size[1]}

    def _fit_image(
        self, image: Image.Image | np.ndarray | None, *, width: int | None, height: int | None
    ) -> tuple[Image.Image, CropTransform]:
        if image is None:
            raise DianjingError("published_model_needs_image", model=self.model.name)
        source = check_image(image)
        size = self.model.resolve_size(width, height, source.size)
        assert size is not None  # an image has one
        return resize_crop(source, width=size[0], height=size[1])

    @contextmanager
    def _set_guidance(self, guidance_scale: float | None, kwargs: dict[str, Any]) -> Iterator[None]:
        """Set the guidance scale where the pipeline has it: among its arguments, or in its guider for one call."""
        if guidance_scale is None:
            yield
            return
        scale = validation.check_guidance_scale(guidance_scale)
        if self.model.pipeline.guidance == "argument":
            kwargs["guidance_scale"] = scale
            yield
            return
        guider = self.pipe.guider
        self.pipe.guider = guider.new(guidance_scale=scale)
        try:
            yield
        finally:
            self.pipe.guider = guider

    def _start_guide(
        self,
        guide: MotionGuide,
        still: Image.Image,
        num_frames: int,
        num_inference_steps: int,
        generator: torch.Generator | None,
    ) -> tuple[Any, torch.Tensor]:
        """Encode a guide; return the context in which it steers the scheduler, and the initial latents."""
        scheduler, pipeline = self.pipe.scheduler, self.model.pipeline
        if not is_flow_matching(scheduler):
            raise DianjingError("scheduler_not_flow_matching", scheduler=type(scheduler).__name__)
        expected = (num_frames, still.height, still.width)
        if guide.masks.shape != expected:
            raise DianjingError("motion_guide_size", shape=str(guide.masks.shape), expected=str(expected))
        latent_guide = self._encode_guide(guide, still, num_inference_steps, generator)
        sigma = get_sigma(
            scheduler,
            latent_guide.first_step,
            num_inference_steps=num_inference_steps,
            has_linspace_sigmas=pipeline.has_linspace_sigmas,
        )
        initial = latent_guide.make_initial_latents(sigma, image_fraction=pipeline.initial_image_fraction)
        return steer_scheduler(scheduler, latent_guide), initial

    def _encode_guide(
        self, guide: MotionGuide, still: Image.Image, num_inference_steps: int, generator: torch.Generator | None
    ) -> LatentGuide:
        num_extra = self.model.num_extra_frames
        frames = np.concatenate([guide.frames[:1].repeat(num_extra, axis=0), guide.frames])
        masks = np.concatenate([guide.masks[:1].repeat(num_extra, axis=0), guide.masks])
        warped = self._encode_frames(frames)
        rows, columns = warped.shape[-2:]
        background = torch.zeros(1, 1, 1, rows, columns)
        if guide.strict_background:
            background = pool_background(guide.get_track(), rows=rows, columns=columns)
        device = generator.device if generator is not None else "cpu"
        noise = torch.randn(warped.shape, generator=generator, device=device)
        first_step, last_step = guide.get_steps(num_inference_steps)
        return LatentGuide(
            warped=warped,
            still=self._encode_frames(np.broadcast_to(np.asarray(still), frames.shape)),
            noise=noise.to(warped),
            mask=pool_masks(masks, temporal_factor=self.model.temporal_factor, rows=rows, columns=columns).to(warped),
            background=background.to(warped),
            first_step=first_step,
            last_step=last_step,
        )

    def _encode_frames(self, frames: np.ndarray) -> torch.Tensor:
        """Encode frames, uint8 (F, H, W, 3), to scaled float32 latents (1, C, F, Y, X)."""
        vae = self.pipe.vae
        pixels = frames_to_pixels(frames, device=self.pipe._execution_device, dtype=vae.dtype)
        return encode_images(vae, pixels.transpose(0, 1)[None]).float()


def _convert_frames(
    frames: np.ndarray, output_type: str, guide: MotionGuide | None, still: Image.Image | None, *, margin_px: int
) -> Any:
    """Convert frames (B, F, H, W, 3) on [0, 1] to an output type, with the pixels of a strict background."""
    if guide is not None and guide.strict_background:
        picture = np.asarray(still, dtype=np.float32) / 255
        track = guide.get_track()
        frames = np.stack([restore_background(video, picture, track, margin_px=margin_px) for video in frames])
    if output_type == "np":
        return frames
    if output_type == "pt":
        return torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
    return postprocess_frames((frames * 255).round().astype(np.uint8), output_type)
