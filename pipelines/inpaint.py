"""Inpainting: the pipeline of Hunyuan-DiT that changes a masked part of an image and keeps the rest.

B batch of images, N images or masks that are given, H height, W width; latents are B C Y X.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers.guiders import BaseGuidance
from diffusers.image_processor import PipelineImageInput
from PIL import Image
from torch import Tensor

from dianjing.pipelines import validation
from dianjing.pipelines.controlnet import crop_control_images
from dianjing.pipelines.image_base import ImagePipelineBase, TextToImageOutput
from dianjing.pipelines.image_input import read_masks, read_pixels
from dianjing.pipelines.image_start import Box, Overlay, StartImage, to_latent_mask
from dianjing.pipelines.media.mask import check_mask_of_change, feather_mask
from dianjing.pipelines.sampling import CallbackOnStepEnd, Generators
from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.pipelines.segmentation.unet import UNetSegmenter

MASK_RIM_LATENTS = 0.5  # width of the rim around a mask in which the result fades into the image


def check_masks(mask_image: PipelineImageInput | None, pixels: Tensor) -> Tensor:
    """Convert masks for images (N, 3, H, W) to bool (1 or N, 1, H, W), true where the images may change.

    Raises: DianjingError for masks of another size, and for one that selects nothing.
    """
    masks = read_masks(mask_image, name="mask_image")
    for mask in masks[:, 0]:
        check_mask_of_change(mask.numpy(), size=(pixels.shape[-1], pixels.shape[-2]), name="mask_image")
    return masks


class InpaintPipeline(ImagePipelineBase):
    """Generate what a prompt says inside a mask; every pixel outside it, its rim aside, stays as it is.

    Components are those of `TextToImagePipeline`; `from_pipe` shares them. After every step the latents outside the
    mask are those of the image with the noise of the step.
    Source: RePaint (arXiv 2201.09865), without its resampling.
    """

    draws_in_few_steps: ClassVar[bool] = False  # adapters for few steps are trained from noise to an image

    def _load_extra_files(self, folder: Path) -> None:
        super()._load_extra_files(folder)
        if (folder / SEGMENTER_FOLDER).is_dir():  # for edits that name in words what may change
            self.unet_segmenter = UNetSegmenter.from_pretrained(folder / SEGMENTER_FOLDER)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: PipelineImageInput | None = None,
        mask_image: PipelineImageInput | None = None,
        height: int | None = None,
        width: int | None = None,
        padding_mask_crop: int | None = None,
        strength: float = 1.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_2: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_2: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        prompt_attention_mask_2: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask_2: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_rescale: float = 0.0,
        original_size: tuple[int, int] | None = (1024, 1024),
        target_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        use_resolution_binning: bool = False,
        control_image: PipelineImageInput | None = None,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        guider: BaseGuidance | str | None = None,
        slow: bool | None = None,
    ) -> TextToImageOutput | tuple:
        """Generate `num_images_per_prompt` images for each prompt that differ from `image` inside the mask.

        image: PIL, an array or a tensor, or a list of them: one, one for each prompt, or one for each image to
        generate. mask_image: of the size of the image, white where it may change; one, or as many as images.
        height, width: the size at which the model works, by default about that of the image, see `choose_start_size`;
        the result has the size of the image. padding_mask_crop: work on the part of the image around the mask alone,
        with so many px around it, as in diffusers. strength: from 0, which returns the masked part as the VAE
        reconstructs it, to 1, which starts there from noise alone. latents: the noise. Other arguments are those of
        `TextToImagePipeline`.

        Raises: DianjingError for arguments that cannot work, before anything is computed.
        """
        strength = validation.check_number(strength, "strength", low=0, high=1)
        pixels = read_pixels(image, name="image")
        mask = check_masks(mask_image, pixels)
        height, width = self._choose_size(pixels, height, width, use_resolution_binning=use_resolution_binning)
        box = self._choose_box(mask, padding_mask_crop, height=height, width=width)
        start = self._make_start(pixels, mask, box, strength=strength, height=height, width=width)
        return self._draw(
            slow=slow,
            prompt=prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            eta=eta,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            prompt_embeds_2=prompt_embeds_2,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_embeds_2=negative_prompt_embeds_2,
            prompt_attention_mask=prompt_attention_mask,
            prompt_attention_mask_2=prompt_attention_mask_2,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            negative_prompt_attention_mask_2=negative_prompt_attention_mask_2,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            guidance_rescale=guidance_rescale,
            original_size=original_size,
            target_size=target_size,
            crops_coords_top_left=crops_coords_top_left,
            use_resolution_binning=False,  # done already
            control_image=crop_control_images(control_image, box, size=(pixels.shape[-1], pixels.shape[-2])),
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            control_guidance_start=control_guidance_start,
            control_guidance_end=control_guidance_end,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            guider=guider,
            start_image=start,
        )

    def _choose_box(self, mask: Tensor, padding_mask_crop: int | None, *, height: int, width: int) -> Box:
        """The part of the image that is worked on: all of it, or what surrounds the masks (N, 1, H, W), in px."""
        if padding_mask_crop is None:
            return 0, 0, mask.shape[-1], mask.shape[-2]
        padding_px = validation.check_int(padding_mask_crop, "padding_mask_crop", low=0, high=validation.MAX_SIDE_PX)
        union = Image.fromarray(mask.any(dim=0)[0].byte().mul(255).numpy())
        return self.image_processor.get_crop_region(union, width, height, pad=padding_px)

    def _make_start(
        self, pixels: Tensor, mask: Tensor, box: Box, *, strength: float, height: int, width: int
    ) -> StartImage:
        """Crop and scale images (N, 3, H, W) on [0, 1] and masks (N, 1, H, W) to the size that is worked at."""
        left, top, right, bottom = box
        part, part_of_mask = (each[..., top:bottom, left:right] for each in (pixels, mask))
        scale = self.vae_scale_factor
        rim_px = MASK_RIM_LATENTS * scale * (bottom - top) / height
        alphas = [feather_mask(each.numpy(), rim_px=rim_px) for each in mask[:, 0]]
        return StartImage(
            pixels=self._preprocess(part, height=height, width=width),
            strength=strength,
            mask=to_latent_mask(part_of_mask, (height // scale, width // scale)),
            overlay=Overlay(pixels=2 * pixels - 1, alpha=torch.from_numpy(np.stack(alphas))[:, None], box=box),
        )
