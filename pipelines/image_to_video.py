"""A click on a picture, and a few words: that part moves.

B batch of films, F frames, R regions, H height, W width; latents are B C F Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image
from torch import Tensor

from dianjing.pipelines import validation
from dianjing.pipelines.media.image import CropTransform, check_image, resize_crop
from dianjing.pipelines.prompt_embeds import NO_PROMPT_EMBEDS
from dianjing.pipelines.sampling import CallbackOnStepEnd, Generators, prepare_extra_step_kwargs, sample_noise
from dianjing.pipelines.segmentation.base import Region, check_region
from dianjing.pipelines.video.base import VIDEO_OUTPUT_TYPES, VideoOutput, VideoPipelineBase, postprocess_frames
from dianjing.pipelines.video.detail import restore_detail

logger = logging.get_logger(__name__)


@dataclass
class ImageToVideoOutput(VideoOutput):
    """`FilmOutput`, with the masks (R, height, width) that were moved and how the picture was fitted."""

    masks: np.ndarray
    crop_transform: CropTransform


class ImageToVideoPipeline(VideoPipelineBase):
    """A picture, clicks and motion phrases to films, by a `DiT` trained with clicks.

    The mask says what moves, and does not confine where to. A film longer than the model was trained on is drawn window
    after window.
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
    ) -> ImageToVideoOutput | tuple:
        """Move the regions of a picture, each in its own way, all in one run.

        image: PIL, or uint8 (H, W, 3); of another size than the model's it is scaled and its overhang cut off, and
        the result says how. prompt: what the picture shows, if it is to be said. The other arguments are those of
        `TextToVideoPipeline`.

        Raises: ValueError for what cannot be drawn, before anything is computed.
        """
        picture = check_image(image)
        regions = self._check_regions(regions, size=picture.size)
        height, width = self._check_size(height, width)
        steps = self._set_sampling_params(
            *self._get_continuation_params(num_inference_steps, guidance_scale), guidance_rescale
        )
        batch_size = validation.check_num_images(num_videos_per_prompt)
        sides = {"height": height, "width": width}
        num_frames, _ = self._check_num_frames(num_frames, duration_s, fps, **sides, batch_size=batch_size)
        if num_frames < 2:
            raise ValueError(f"num_frames is {num_frames}; what moves takes at least 2")
        shape = self._get_latent_shape(batch_size, num_frames, **sides)
        validation.check_latents(latents, shape)
        validation.check_generator(generator, batch_size)
        validation.check_output_type(output_type, VIDEO_OUTPUT_TYPES)
        call_back = self._make_step_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        validation.check_negative_prompts(negative_prompt, 1)
        if prompt:
            validation.check_prompts(prompt)
            self.warn_about_unknown_words(prompt)

        fitted, how = resize_crop(picture, **sides)
        masks = self._predict_cropped_masks(picture, regions, how)
        given = (
            NO_PROMPT_EMBEDS if prompt else NO_PROMPT_EMBEDS | self._encode_texts([""])
        )  # says nothing of the picture
        text = self._encode_prompts(prompt or None, negative_prompt, given, num_images_per_prompt=batch_size)
        if latents is None:
            latents = sample_noise(shape, generator, device=self._execution_device)
        draw = partial(
            self._sample,
            embeds=text,
            steps=steps,
            extra_step_kwargs=prepare_extra_step_kwargs(self.scheduler, eta=eta, generator=generator),
            step_callback=call_back,
        )
        said = [(region.motion, self.motion_vocabulary.get_speed(region.motion, region.strength)) for region in regions]
        pixels = self._to_pixels(np.asarray(fitted)[None]).expand(batch_size, -1, -1, -1)
        asked = self._encode_motion_request(pixels, [masks] * batch_size, [said] * batch_size)
        has_field = (
            self.transformer.motion_conditioner.flow_field is not None
        )  # which goes on where it was; else all is drawn at once
        window = self.config.default_num_frames if has_field else num_frames
        rolled = self._generate_windows(latents, asked, window_size=window, sample=draw)
        frames: Any = rolled.latents
        if output_type != "latent":
            films = self._decode_with_detail(rolled)
            if not has_field:
                still = np.broadcast_to(np.asarray(fitted), films[0].shape)
                films = np.stack([restore_detail(film, still, film[:1].repeat(len(film), 0)) for film in films])
            frames = postprocess_frames(films, output_type)
        self.maybe_free_model_hooks()
        return (
            ImageToVideoOutput(frames=frames, masks=masks, crop_transform=how) if return_dict else (frames, masks, how)
        )

    def predict_masks(self, image: Image.Image | np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """What the clicks mean: bool (R, H, W) of the picture."""
        picture = check_image(image)
        return self._predict_masks(picture, self._check_regions(regions, size=picture.size))

    def _check_regions(self, regions: Sequence[Region], *, size: tuple[int, int]) -> list[Region]:
        most = self.transformer.config.max_regions
        if not 1 <= len(regions) <= most:
            raise ValueError(f"{len(regions)} regions are given; this model was trained for 1 to {most} at once")
        for region in regions:
            check_region(region, size=size)
            if self.motion_vocabulary.motions and self.motion_vocabulary.find(region.motion) is None:
                known = ", ".join(motion.phrases[0] for motion in self.motion_vocabulary.motions)
                logger.warning(f"this model was not taught to {region.motion!r}, and tries; it knows: {known}")
        return list(regions)

    def _predict_masks(self, image: Image.Image, regions: Sequence[Region]) -> np.ndarray:
        """bool (R, H, W)"""
        segmenter = self.segmenter
        if any(region.mask is None for region in regions):
            segmenter.set_image(np.asarray(image))
        masks = [
            segmenter.predict(region.points) if region.mask is None else np.asarray(region.mask, bool)
            for region in regions
        ]
        return np.stack(masks)

    def _predict_cropped_masks(
        self, image: Image.Image, regions: Sequence[Region], crop_transform: CropTransform
    ) -> np.ndarray:
        """The masks as the fitted picture has them: bool (R, height, width)."""
        width, height = crop_transform.target_size
        masks = []
        for mask, region in zip(self._predict_masks(image, regions), regions, strict=True):
            fitted, _ = resize_crop(Image.fromarray(mask.astype(np.uint8) * 255), height=height, width=width)
            masks.append(np.asarray(fitted) > 127)
            if not masks[-1].any():
                raise ValueError(
                    f"nothing of the region of {region.motion!r} is left in the picture ({crop_transform})"
                )
        return np.stack(masks)
