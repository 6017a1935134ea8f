"""A click on a picture, and a few words: that part moves.

B batch of films, F frames, R regions, H height, W width; latents are B C F Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.dit import Click
from dianjing.pipelines import inputs, request
from dianjing.pipelines.encoding import SUFFIXES
from dianjing.pipelines.film import OUTPUT_TYPES, FilmOutput, FilmPipeline, as_output
from dianjing.pipelines.fitting import Fit, as_rgb, check_picture_size, fit
from dianjing.pipelines.latents import Generators, draw_noise
from dianjing.pipelines.regions import Region, check_region
from dianjing.pipelines.schedule import step_options
from dianjing.pipelines.segmenting import GrabCut, Segmenter
from dianjing.pipelines.stillness import keep_still
from dianjing.pipelines.text import encode, tokenize

ENCODED_AT_ONCE = 8  # frames
logger = logging.get_logger(__name__)


@dataclass
class ImageToVideoOutput(FilmOutput):
    """`FilmOutput`, with the masks (R, height, width) that were moved and how the picture was fitted."""

    masks: np.ndarray
    fit: Fit


class ImageToVideoPipeline(FilmPipeline):
    """A picture, clicks and motion phrases to films, by a `DiT` trained with clicks.

    The mask says what moves, and does not confine where to. `segmenter` makes a mask of clicks; GrabCut, which needs
    no weights, unless it is set.
    Source: Follow-Your-Click (arXiv 2403.08268).
    """

    segmenter: Segmenter | None = None

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
        steps = self._set_run(num_inference_steps, guidance_scale, guidance_rescale)
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
        given = _NOTHING_GIVEN if prompt else _NOTHING_GIVEN | self._silence()
        text = self._encode(prompt or None, negative_prompt, given, num_images_per_prompt=batch_size)
        click = self._clicked(np.asarray(fitted), masks, regions, num_frames=num_frames, batch_size=batch_size)
        if latents is None:
            latents = draw_noise(shape, generator, device=self._execution_device)
        latents = self._draw(
            latents, text, click=click, steps=steps, window=num_frames,
            options=step_options(self.scheduler, eta=eta, generator=generator),
            call_back=call_back,
        )  # fmt: skip
        if output_type == "latent":
            frames: Any = latents
        else:
            films = [keep_still(film, np.asarray(fitted)) for film in self.decode(latents)]
            frames = as_output(np.stack(films), output_type)
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
        segmenter = self.segmenter or GrabCut()
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

    def _clicked(
        self, picture: np.ndarray, masks: np.ndarray, regions: Sequence[Region], *, num_frames: int, batch_size: int
    ) -> Click:  # fmt: skip
        """The same picture and clicks for every film of the batch."""
        device, dtype = self._execution_device, self.transformer.dtype
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(device, self.vae.dtype) / 127.5 - 1
        first_frame = self._encode_pixels(pixels)
        most, (rows, columns) = self.transformer.config.max_regions, first_frame.shape[-2:]
        whole = torch.zeros(1, most, *masks.shape[1:], device=device)
        whole[0, : len(masks)] = torch.from_numpy(masks).to(whole)
        covered = adaptive_avg_pool2d(whole, (rows, columns))
        strengths = torch.zeros(1, most, device=device)
        strengths[0, : len(regions)] = torch.tensor([self.motions.speed(r.motion, r.strength) for r in regions])
        phrases = [region.motion for region in regions] + [""] * (most - len(regions))
        ids, mask = (t.to(device) for t in tokenize(self.tokenizer, phrases, length=self._phrase_length(phrases)))
        states = self.text_encoder(ids, attention_mask=mask)[0]
        mask[len(regions) :] = 0
        click = Click(
            first_frame=first_frame.to(dtype), masks=covered.to(dtype), phrases=states[None].to(dtype),
            phrases_mask=mask[None], strengths=strengths,
        )  # fmt: skip
        click = self.transformer.click.with_moved(
            click, pixels, whole, num_frames=num_frames, encode=self._encode_pixels
        )
        return click.apply(lambda tensor: tensor.repeat_interleave(batch_size, dim=0))

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W), from -1 to 1, to latents."""
        parts = [self.vae.encode(part).latent_dist.mode() for part in pixels.to(self.vae.dtype).split(ENCODED_AT_ONCE)]
        return torch.cat(parts) * self.vae.config.scaling_factor

    def _silence(self) -> dict[str, Tensor]:
        """States of an empty prompt, which says nothing of the picture."""
        given: dict[str, Tensor] = {}
        for suffix, length in zip(SUFFIXES, self._text_lengths, strict=True):
            encoder, tokenizer = getattr(self, f"text_encoder{suffix}"), getattr(self, f"tokenizer{suffix}")
            states = encode(encoder, tokenizer, [""], length=length, device=self._execution_device)
            given |= {f"prompt_embeds{suffix}": states.embeds, f"prompt_attention_mask{suffix}": states.mask}
        return given

    def _phrase_length(self, phrases: Sequence[str]) -> int:
        lengths = [len(ids) for ids in self.tokenizer(list(phrases)).input_ids]
        return min(max(lengths), self.transformer.config.text_len)


_NOTHING_GIVEN = dict.fromkeys(
    f"{side}prompt_{what}{suffix}"
    for side in ("", "negative_") for what in ("embeds", "attention_mask") for suffix in ("", "_2")
)  # fmt: skip


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
