"""Words become a picture.

B batch of pictures; latents are B C Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, HunyuanDiT2DControlNetModel
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor, nn
from transformers import BertModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.dit import DiT
from dianjing.pipelines import inputs, request
from dianjing.pipelines.controlnet import Controlled, check_controlnet, encode_control
from dianjing.pipelines.denoising import DenoisingPipeline
from dianjing.pipelines.latents import Generators, decode_latents, draw_noise
from dianjing.pipelines.prediction import look_ahead, predict
from dianjing.pipelines.schedule import set_schedule, step_options
from dianjing.pipelines.sizes import nearest_trained_size


@dataclass
class TextToImageOutput(BaseOutput):
    """Pictures in the form that `output_type` asked for; no flags where no safety checker looked at them."""

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None


class TextToImagePipeline(DenoisingPipeline):
    """A prompt in Chinese or English to pictures, by a `DiT` and its two text encoders.

    Takes what a folder saved by diffusers' `HunyuanDiTPipeline` holds. The defaults are the number
    of steps and the guidance scale of a call that names none.
    Source: Hunyuan-DiT (arXiv 2405.08748).
    """

    _optional_components: ClassVar[list[str]] = [
        "safety_checker", "feature_extractor", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2",
        "controlnet",
    ]  # fmt: skip

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: BertModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        transformer: DiT,
        scheduler: SchedulerMixin,
        safety_checker: nn.Module | None = None,
        feature_extractor: Any = None,
        text_encoder_2: T5EncoderModel | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        controlnet: HunyuanDiT2DControlNetModel | None = None,
        default_num_inference_steps: int = 50,
        default_guidance_scale: float = 5.0,
    ):
        super().__init__()
        if transformer is not None and not hasattr(transformer, "condition"):
            raise ValueError(f"transformer is a {type(transformer).__name__}; load its folder with DiT.from_pretrained")
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            controlnet=controlnet,
        )
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps, default_guidance_scale=default_guidance_scale
        )
        self.vae_scale_factor = 8 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @property
    def components(self) -> dict[str, Any]:
        """As diffusers'; no ControlNet where there is none, so that its other pipelines take them as they are."""
        return {name: part for name, part in super().components.items() if name != "controlnet" or part is not None}

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
        callback_on_step_end: inputs.CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_rescale: float = 0.0,
        original_size: tuple[int, int] | None = (1024, 1024),
        target_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        use_resolution_binning: bool = False,
        control_image: PipelineImageInput | None = None,
        controlnet_conditioning_scale: float = 1.0,
    ) -> TextToImageOutput | tuple:
        """Draw `num_images_per_prompt` pictures for each prompt.

        Arguments are those of diffusers' `HunyuanDiTPipeline`; height and width are in px, None for
        the model's own size. With a list of generators each picture has its own seed, and is the
        same whatever the batch it sits in. With `use_resolution_binning` the nearest size that
        Hunyuan-DiT was trained at is drawn instead of the one given. A pipeline with a `controlnet`
        takes a `control_image`, such as line art: one, or one for each picture.

        Raises: ValueError for what cannot be drawn, before anything is computed.
        """
        height, width = self._check_size(height, width, use_resolution_binning)
        steps = self._set_run(num_inference_steps, guidance_scale, guidance_rescale)
        given = {
            "prompt_embeds": prompt_embeds, "prompt_attention_mask": prompt_attention_mask,
            "prompt_embeds_2": prompt_embeds_2, "prompt_attention_mask_2": prompt_attention_mask_2,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
            "negative_prompt_embeds_2": negative_prompt_embeds_2,
            "negative_prompt_attention_mask_2": negative_prompt_attention_mask_2,
        }  # fmt: skip
        batch_size = self._check_text(prompt, negative_prompt, given) * request.check_count(num_images_per_prompt)
        shape = self._check_latents(latents, generator, batch_size, height=height, width=width)
        inputs.check_output_type(output_type)
        check_controlnet(self.controlnet, self.transformer, has_image=control_image is not None)
        call_back = self._listener(callback_on_step_end, callback_on_step_end_tensor_inputs)
        meta = (original_size or (height, width)), (target_size or (height, width)), crops_coords_top_left
        image_meta_size = inputs.check_image_meta_size(*meta)

        self.warn_of_unknown_words(prompt)
        device = self._execution_device
        text = self._encode(prompt, negative_prompt, given, num_images_per_prompt=num_images_per_prompt)
        timesteps = set_schedule(self.scheduler, steps, device=device)
        if latents is None:
            latents = draw_noise(shape, generator, device=device)
        sizes = {"size": (latents.shape[-2], latents.shape[-1]), "image_meta_size": image_meta_size}
        model: Any = partial(look_ahead, self.transformer), partial(predict, self.transformer)
        if control_image is not None:
            pixels = self.image_processor.preprocess(control_image, height=height, width=width)
            control = encode_control(self.vae, pixels, rows=batch_size)
            controlled = Controlled(
                transformer=self.transformer, controlnet=self.controlnet, control=control,
                scale=controlnet_conditioning_scale, current_timestep=lambda: self.current_timestep,
            )  # fmt: skip
            model = controlled.look_ahead, controlled.predict
        latents = self._denoise(
            latents.to(device, torch.float32) * self.scheduler.init_noise_sigma,
            timesteps,
            text,
            look_ahead=partial(model[0], **sizes),
            predict=model[1],
            options=step_options(self.scheduler, eta=eta, generator=generator),
            call_back=call_back,
        )
        images, flags = self._finish(latents, output_type)
        self.maybe_free_model_hooks()
        return TextToImageOutput(images=images, nsfw_content_detected=flags) if return_dict else (images, flags)

    def _finish(self, latents: Tensor, output_type: str) -> tuple[Any, list[bool] | None]:
        """Latents to pictures as `output_type` wants them, and what the safety checker said of each."""
        if output_type == "latent":
            return latents.to(self.transformer.dtype), None
        pictures = decode_latents(self.vae, latents)
        flags = None
        if self.safety_checker is not None:
            seen = self.feature_extractor(self.image_processor.postprocess(pictures.cpu()), return_tensors="pt")
            seen = seen.pixel_values.to(pictures)
            pictures, flags = self.safety_checker(images=pictures, clip_input=seen)
        scaled = None if flags is None else [not flag for flag in flags]  # a flagged picture is black already
        return self.image_processor.postprocess(pictures, output_type=output_type, do_denormalize=scaled), flags

    def _check_size(self, height: int | None, width: int | None, use_resolution_binning: bool) -> tuple[int, int]:
        multiple_px = self.vae_scale_factor * self.transformer.config.patch_size
        own_px = self.transformer.config.sample_size * self.vae_scale_factor
        height, width = inputs.or_default(height, own_px), inputs.or_default(width, own_px)
        if use_resolution_binning:
            height, width = (
                request.check_side(side, name, multiple_px=1) for side, name in ((height, "height"), (width, "width"))
            )
            height, width = nearest_trained_size(height, width)
        return (
            request.check_side(height, "height", multiple_px=multiple_px),
            request.check_side(width, "width", multiple_px=multiple_px),
        )

    def _check_latents(
        self, latents: Tensor | None, generator: Generators, batch_size: int, *, height: int, width: int
    ) -> tuple[int, ...]:
        """The shape of the latents."""
        if batch_size > request.MAX_PICTURES:
            raise ValueError(f"{batch_size} pictures in one call; give prompts for at most {request.MAX_PICTURES}")
        scale = self.vae_scale_factor
        shape = (batch_size, self.transformer.config.in_channels, height // scale, width // scale)
        inputs.check_latents(latents, shape)
        inputs.check_generator(generator, batch_size)
        return shape
