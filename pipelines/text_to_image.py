"""Text to image: the pipeline of Hunyuan-DiT, with or without ControlNets.

B batch of images; latents are B C Y X.
"""

from collections.abc import Sequence

import torch
from diffusers.guiders import BaseGuidance
from diffusers.image_processor import PipelineImageInput
from PIL import Image
from torch import Tensor

from dianjing.pipelines.image_base import ImagePipelineBase, TextToImageOutput
from dianjing.pipelines.sampling import CallbackOnStepEnd, Generators
from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER, Segmenter


class TextToImagePipeline(ImagePipelineBase):
    """Generate images from prompts in Chinese or English.

    Loads folders saved by diffusers' `HunyuanDiTPipeline`. Components and ControlNets: `ImagePipelineBase`.
    Source: Hunyuan-DiT (arXiv 2405.08748).
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
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
        """Generate `num_images_per_prompt` images for each prompt.

        Arguments are those of diffusers' `HunyuanDiTPipeline`; height and width are in px, None for the model's own
        size. With a list of generators each image has its own seed, and is the same whatever batch it is in. With
        `use_resolution_binning` the nearest size that Hunyuan-DiT was trained at takes the place of the given one.
        guider: one of diffusers with its own scale, or a guidance mode, such as "apg", with the scales of the call.
        slow: a model with a default adapter, see `DefaultAdapterMixin`, draws with it and in its few steps by default,
        unless the call gives steps, guidance or a condition, or adapters of yours are active: True for the model alone,
        False for few steps, also beside your adapters.

        Raises: DianjingError for arguments that cannot work, before anything is computed.
        """
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
            use_resolution_binning=use_resolution_binning,
            control_image=control_image,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            control_guidance_start=control_guidance_start,
            control_guidance_end=control_guidance_end,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            guider=guider,
        )

    @torch.no_grad()
    def remove_background(self, image: Image.Image, prompt: str, *, segmenter: Segmenter | None = None) -> Image.Image:
        """Cut what a prompt names out of an image of it: RGBA, transparent around it, on any background.

        The objects are found by the model, and their rims lose the color of the background. segmenter: None for the
        model's own, or GrabCut.
        Raises: DianjingError for a prompt without an object, and for an image in which none is found.
        """
        from dianjing.pipelines.transparency.background_removal import remove_background
        from dianjing.pipelines.transparency.prompt_check import check_transparent_prompt

        check_transparent_prompt(self.prompt_normalizer, prompt, self.list_trigger_words())
        if segmenter is None:
            self._load_segmenter()
        return remove_background(self, image, prompt, segmenter=segmenter)

    def _load_segmenter(self) -> None:
        """Load the model's own segmenter, if it has one and it is not loaded yet."""
        folder = None if self._folder is None else self._folder / SEGMENTER_FOLDER
        if self.unet_segmenter is None and folder is not None and folder.is_dir():
            from dianjing.pipelines.segmentation.unet import UNetSegmenter

            self.unet_segmenter = UNetSegmenter.from_pretrained(folder)
