"""Image to image: the pipeline of Hunyuan-DiT that starts from a given image.

B batch of images, N images that are given; latents are B C Y X.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers.guiders import BaseGuidance
from diffusers.image_processor import PipelineImageInput
from torch import Tensor

from dianjing.pipelines import validation
from dianjing.pipelines.image_base import ImagePipelineBase, TextToImageOutput
from dianjing.pipelines.image_input import are_latents, read_pixels
from dianjing.pipelines.image_start import StartImage
from dianjing.pipelines.sampling import CallbackOnStepEnd, Generators
from dianjing.pipelines.tensor_checks import check_tensor


class ImageToImagePipeline(ImagePipelineBase):
    """Generate images from an image and a prompt: the higher the strength, the less is left of the image.

    Components are those of `TextToImagePipeline`; `from_pipe` shares them.
    Source: SDEdit (arXiv 2108.01073).
    """

    draws_in_few_steps: ClassVar[bool] = False  # adapters for few steps are trained from noise to an image

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: PipelineImageInput | None = None,
        strength: float = 0.8,
        height: int | None = None,
        width: int | None = None,
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
        """Generate `num_images_per_prompt` images for each prompt, starting from `image`.

        image: PIL, an array or a tensor, or a list of them: one, one for each prompt, or one for each image to
        generate; latents (N, C, Y, X) are taken as they are. height, width: the size of the result in px, by default
        about that of the image, see `choose_start_size`. strength: from 0, which returns the image as the VAE
        reconstructs it, to 1, which starts from noise alone and gives what `TextToImagePipeline` does; diffusers leaves
        a trace of the image at 1. latents: the noise. Other arguments are those of `TextToImagePipeline`.

        Raises: DianjingError for arguments that cannot work, before anything is computed.
        """
        strength = validation.check_number(strength, "strength", low=0, high=1)
        if are_latents(image, num_channels=self.transformer.config.in_channels):
            check_tensor(image, "image")
            height, width = (side * self.vae_scale_factor for side in image.shape[-2:])
            start = StartImage(latents=image, strength=strength)
        else:
            pixels = read_pixels(image, name="image")
            height, width = self._choose_size(pixels, height, width, use_resolution_binning=use_resolution_binning)
            start = StartImage(pixels=self._preprocess(pixels, height=height, width=width), strength=strength)
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
            control_image=control_image,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            control_guidance_start=control_guidance_start,
            control_guidance_end=control_guidance_end,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            guider=guider,
            start_image=start,
        )
