"""Image to video: regions of an image move as their motion phrases say.

B batch of videos, F frames, R regions, H height, W width; latents are B C F Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers.guiders import BaseGuidance
from diffusers.utils import logging
from PIL import Image
from torch import Tensor

from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.media.crop import CropTransform, resize_crop
from dianjing.pipelines.media.image import check_image, check_image_with_alpha
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser, parse_moving_subjects
from dianjing.pipelines.prompting.placement import DEFAULT_MOTION_STRENGTH
from dianjing.pipelines.sampling import CallbackOnStepEnd, Generators, SamplingCall
from dianjing.pipelines.segmentation.base import Region, check_region, predict_masks
from dianjing.pipelines.vae import encode_images, frames_to_pixels
from dianjing.pipelines.video.animation_base import AnimationPipelineBase
from dianjing.pipelines.video.base import VIDEO_OUTPUT_TYPES, SampledVideo, VideoOutput, postprocess_frames
from dianjing.pipelines.video.detail import restore_detail
from dianjing.pipelines.video.subjects import find_subjects
from dianjing.pipelines.video.warped_image import crop_masks

logger = logging.get_logger(__name__)


@dataclass
class ImageToVideoOutput(VideoOutput):
    """`VideoOutput` with the masks of the regions, bool (R, height, width), and the crop of the image.

    is_refined: False if the image itself was moved, and the transformer did not take part.
    """

    masks: np.ndarray
    crop_transform: CropTransform
    is_refined: bool = True


class ImageToVideoPipeline(AnimationPipelineBase):
    """Animate regions of an image, by a `DiT` trained with motion control.

    A mask selects what moves; it does not limit where to. A video longer than the model was trained on is sampled
    window after window.
    Source: Follow-Your-Click (arXiv 2403.08268).
    """

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | np.ndarray,
        regions: Sequence[Region],
        prompt: str = "",
        num_frames: int | None = None,
        duration_s: float | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_rescale: float = 0.0,
        refine: validation.Refine = "auto",
        guider: BaseGuidance | str | None = None,
    ) -> ImageToVideoOutput | tuple:
        """Make videos that begin with an image and in which all regions move, each by its own phrase or path.

        image: PIL, or uint8 (H, W, 3) or (H, W, 4), scaled and cropped to height x width. prompt: an optional
        description of the image. refine: "off" moves the pixels of the image by the model's motion field, at the
        image's own size by default, and keeps its alpha; "on" has the transformer generate the frames, by default at a
        size that it was trained on; "auto" refines only images that the model can show, see `should_refine`. The other
        arguments are those of `TextToVideoPipeline`; without refinement, those of sampling have no effect.

        Raises: DianjingError for arguments that cannot work, before anything is computed.
        """
        # 1. Check
        batch_size = validation.check_num_per_prompt(num_videos_per_prompt, "num_videos_per_prompt")
        duration: dict[str, Any] = {"num_frames": num_frames, "duration_s": duration_s, "fps": fps}
        if refine == "auto" and (latents is not None or output_type == "latent"):
            refine = "on"
        if not self.should_refine(image, regions, height=height, width=width, refine=refine):
            validation.check_output_type(output_type, VIDEO_OUTPUT_TYPES[:-1])
            warped = self.warp(image, regions, **duration, height=height, width=width)
            videos = postprocess_frames(np.stack(list(warped.frames))[None].repeat(batch_size, 0), output_type)
            parts: dict[str, Any] = {"masks": warped.masks, "crop_transform": warped.crop_transform}
            output = ImageToVideoOutput(frames=videos, truncated=[], **parts, is_refined=False)
            return output if return_dict else (videos, warped.masks, warped.crop_transform)
        source = check_image(check_image_with_alpha(image))
        regions = self._check_regions(regions, size=source.size)
        height, width = self._choose_size(source, height, width)
        params = self._check_params(
            validation.coalesce(num_inference_steps, self.config.default_continuation_steps),
            guidance_scale,
            guidance_rescale=guidance_rescale,
            eta=eta,
            guider=guider,
            default_guidance_scale=self.config.default_continuation_guidance_scale,
        )
        sides = {"height": height, "width": width}
        num_frames = self._check_num_frames(**duration, **sides, batch_size=batch_size)
        if num_frames < 2:
            raise DianjingError("motion_needs_frames", num_frames=num_frames)
        validation.check_negative_prompts(negative_prompt, 1)
        call = self._make_call(
            params,
            prompt=validation.check_prompts(prompt) if prompt else None,
            negative_prompt=negative_prompt,
            encoded=PromptEmbeds(),
            num_per_prompt=batch_size,
            latent_shape=self._get_latent_shape(batch_size, num_frames, **sides),
            latents=latents,
            generator=generator,
            callback=callback_on_step_end,
            callback_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        validation.check_output_type(output_type, VIDEO_OUTPUT_TYPES)
        fitted, crop_transform = resize_crop(source, **sides)
        masks = crop_masks(predict_masks(np.asarray(source), regions, self.segmenter), regions, crop_transform)
        if not prompt:
            call = replace(call, encoded=self.encode_texts([""]))
        videos = self._generate_videos(call, fitted, regions, masks, output_type=output_type)
        output = ImageToVideoOutput(frames=videos, truncated=self.truncated, masks=masks, crop_transform=crop_transform)
        return output if return_dict else (videos, masks, crop_transform)

    def _generate_videos(
        self, call: SamplingCall, image: Image.Image, regions: Sequence[Region], masks: np.ndarray, *, output_type: str
    ) -> Any:
        """Sample videos of an image of their size, with masks (R, height, width), and convert them to output_type."""
        batch_size, _, num_frames, *_ = call.latent_shape

        def sample(embeds: PromptEmbeds, noise: Tensor) -> SampledVideo:
            speed = self.motion_vocabulary.get_speed
            motions = [(region.motion, speed(region.motion, region.strength)) for region in regions]
            frames = np.asarray(image)[None].repeat(batch_size, 0)
            pixels = frames_to_pixels(frames, device=self._execution_device, dtype=self.vae.dtype)
            request = self._encode_motion_request(pixels, [masks] * batch_size, [motions] * batch_size)
            return self._sample_windows(noise, embeds, call, request, window_size=self._get_window_size(num_frames))

        def decode(video: SampledVideo) -> Any:
            if output_type == "latent":
                return video.latents
            return postprocess_frames(self._decode_with_image(video, image), output_type)

        return self._run(call, sample, decode)

    def normalize_prompts(self, prompt: str | list[str] | None) -> str | list[str] | None:
        """Convert prompts as for images; one that names nothing known stays as it is: there is an image."""
        try:
            return super().normalize_prompts(prompt)
        except DianjingError:
            return prompt

    @torch.no_grad()
    def locate_regions(
        self, image: Image.Image | np.ndarray, prompt: str, *, height: int | None = None, width: int | None = None
    ) -> list[Region]:
        """Find what moves in an image, and how, from a prompt such as "a cat jumping and a dog".

        height, width: of the image that is searched, in px; by default the model's own size, to which the image is
        cropped, since objects are found best in it. The points of the regions are in px of the image.
        Raises: DianjingError for a prompt that names no motion of the model.
        """
        parser = MotionPromptParser(self.motion_vocabulary, self.concept_vocabulary)
        motion_prompt = parse_moving_subjects(parser, str(self.normalize_prompts(prompt)))
        source = check_image(image)
        height, width = self._check_size(height, width)
        fitted, crop_transform = resize_crop(source, height=height, width=width)
        pixels = frames_to_pixels(np.asarray(fitted)[None], device=self._execution_device, dtype=self.vae.dtype)
        latents = encode_images(self.vae, pixels)[0]
        regions = []
        for click, _ in find_subjects(self, latents, np.asarray(fitted), motion_prompt, self.segmenter):
            places = [crop_transform.invert_point(point.x, point.y) for point in click.points]
            points = [replace(point, x=x, y=y) for point, (x, y) in zip(click.points, places, strict=True)]
            regions.append(Region(motion=click.motion, points=points, strength=DEFAULT_MOTION_STRENGTH))
        return regions

    def predict_masks(self, image: Image.Image | np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """Predict the masks of regions, bool (R, H, W) of the image.

        Raises: DianjingError for regions that do not fit the image.
        """
        source = check_image(image)
        return predict_masks(np.asarray(source), self._check_regions(regions, size=source.size), self.segmenter)

    def _check_regions(self, regions: Sequence[Region], *, size: tuple[int, int]) -> list[Region]:
        max_regions = self.transformer.config.max_regions
        if not 1 <= len(regions) <= max_regions:
            raise DianjingError("region_count_out_of_range", count=len(regions), maximum=max_regions)
        for region in regions:
            check_region(region, size=size)
        self._warn_about_unknown_motions(regions)
        return list(regions)

    def _get_window_size(self, num_frames: int) -> int:
        """Frames of a window: the model's with a flow field, which continues a motion, else all at once."""
        has_flow_field = self.transformer.motion_conditioner.flow_field is not None
        return self.config.default_num_frames if has_flow_field else num_frames

    def _decode_with_image(self, video: SampledVideo, image: Image.Image) -> np.ndarray:
        """Decode to frames uint8 (B, F, H, W, 3), with the detail of the image."""
        videos = self._decode_video(video)
        if video.warped is not None:
            return videos
        still = np.broadcast_to(np.asarray(image), videos[0].shape)
        restored = [
            restore_detail(frames, still, frames[:1].repeat(len(frames), 0), scale_factor=self.vae_scale_factor)
            for frames in videos
        ]
        return np.stack(restored)
