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

from dianjing.pipelines import inputs, request
from dianjing.pipelines.details import keep_details
from dianjing.pipelines.film import NOTHING_GIVEN, OUTPUT_TYPES, FilmOutput, FilmPipeline, as_output
from dianjing.pipelines.fitting import Fit, as_rgb, check_picture_size, fit
from dianjing.pipelines.latents import Generators, draw_noise
from dianjing.pipelines.regions import Region, check_region
from dianjing.pipelines.schedule import step_options

logger = logging.get_logger(__name__)


@dataclass
class ImageToVideoOutput(FilmOutput):
    """`FilmOutput`, with the masks (R, height, width) that were moved and how the picture was fitted."""

    masks: np.ndarray
    fit: Fit


class ImageToVideoPipeline(FilmPipeline):
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
        callback_on_step_end: inputs.CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_rescale: float = 0.0,
    ) -> ImageToVideoOutput | tuple:
        """Move the regions of a picture, each in its own way, all in one run.

        image: PIL, or uint8 (H, W, 3); of another size than the model's it is scaled and its overhang cut off, and
        the result says how. prompt: what the picture shows, if it is to be said. The other arguments are those of
        `TextToVideoPipeline`.

        Raises: ValueError for what cannot be drawn, before anything is computed.
        """
        picture = check_picture(image)
        regions = self._check_regions(regions, size=picture.size)
        height, width = self._check_size(height, width)
        steps = self._set_run(*self._going_on(num_inference_steps, guidance_scale), guidance_rescale)
        batch_size = request.check_count(num_videos_per_prompt)
        sides = {"height": height, "width": width}
        num_frames, _ = self._check_length(num_frames, duration_s, fps, **sides, batch_size=batch_size)
        if num_frames < 2:
            raise ValueError(f"num_frames is {num_frames}; what moves takes at least 2")
        shape = self._shape(batch_size, num_frames, **sides)
        inputs.check_latents(latents, shape)
        inputs.check_generator(generator, batch_size)
        inputs.check_output_type(output_type, OUTPUT_TYPES)
        call_back = self._listener(callback_on_step_end, callback_on_step_end_tensor_inputs)
        inputs.check_negative_prompts(negative_prompt, 1)
        if prompt:
            inputs.check_prompts(prompt)
            self.warn_of_unknown_words(prompt)

        fitted, how = fit(picture, **sides)
        masks = self._masks(picture, regions, how)
        given = NOTHING_GIVEN if prompt else NOTHING_GIVEN | self._states_of([""])  # says nothing of the picture
        text = self._encode(prompt or None, negative_prompt, given, num_images_per_prompt=batch_size)
        if latents is None:
            latents = draw_noise(shape, generator, device=self._execution_device)
        draw = partial(
            self._draw, text=text, steps=steps,
            options=step_options(self.scheduler, eta=eta, generator=generator), call_back=call_back,
        )  # fmt: skip
        said = [(region.motion, self.motions.speed(region.motion, region.strength)) for region in regions]
        pixels = self._to_pixels(np.asarray(fitted)[None]).expand(batch_size, -1, -1, -1)
        asked = self._ask(pixels, [masks] * batch_size, [said] * batch_size)
        has_field = self.transformer.click.field is not None  # which goes on where it was; else all is drawn at once
        window = self.config.default_num_frames if has_field else num_frames
        rolled = self._roll(latents, asked, window=window, draw=draw)
        frames: Any = rolled.latents
        if output_type != "latent":
            films = self._frames_of(rolled)
            if not has_field:
                still = np.broadcast_to(np.asarray(fitted), films[0].shape)
                films = np.stack([keep_details(film, still, film[:1].repeat(len(film), 0)) for film in films])
            frames = as_output(films, output_type)
        self.maybe_free_model_hooks()
        return ImageToVideoOutput(frames=frames, masks=masks, fit=how) if return_dict else (frames, masks, how)

    def masks(self, image: Image.Image | np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """What the clicks mean: bool (R, H, W) of the picture."""
        picture = check_picture(image)
        return self._segment(picture, self._check_regions(regions, size=picture.size))

    def _check_regions(self, regions: Sequence[Region], *, size: tuple[int, int]) -> list[Region]:
        most = self.transformer.config.max_regions
        if not 1 <= len(regions) <= most:
            raise ValueError(f"{len(regions)} regions are given; this model was trained for 1 to {most} at once")
        for region in regions:
            check_region(region, size=size)
            if self.motions.motions and self.motions.find(region.motion) is None:
                known = ", ".join(motion.phrases[0] for motion in self.motions.motions)
                logger.warning(f"this model was not taught to {region.motion!r}, and tries; it knows: {known}")
        return list(regions)

    def _segment(self, picture: Image.Image, regions: Sequence[Region]) -> np.ndarray:
        """bool (R, H, W)"""
        segmenter = self.segmenter
        if any(region.mask is None for region in regions):
            segmenter.look(np.asarray(picture))
        masks = [
            segmenter.mask(region.points) if region.mask is None else np.asarray(region.mask, bool)
            for region in regions
        ]
        return np.stack(masks)

    def _masks(self, picture: Image.Image, regions: Sequence[Region], how: Fit) -> np.ndarray:
        """The masks as the fitted picture has them: bool (R, height, width)."""
        width, height = how.fitted
        masks = []
        for mask, region in zip(self._segment(picture, regions), regions, strict=True):
            fitted, _ = fit(Image.fromarray(mask.astype(np.uint8) * 255), height=height, width=width)
            masks.append(np.asarray(fitted) > 127)
            if not masks[-1].any():
                raise ValueError(f"nothing of the region of {region.motion!r} is left in the picture ({how})")
        return np.stack(masks)


def check_picture(image: object) -> Image.Image:
    """PIL in any mode, or uint8 (H, W, 3), as RGB."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image is {image.dtype} {image.shape}; give PIL, or uint8 (height, width, 3)")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"image is a {type(image).__name__}; give PIL, or uint8 (height, width, 3)")
    check_picture_size(*image.size)
    return as_rgb(image)
