"""The picture sizes that Hunyuan-DiT was trained at."""

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
from dianjing.pipelines import validation
from dianjing.pipelines.controlnet import ControlNetDenoiser, check_controlnet, encode_control_images
from dianjing.pipelines.sampling import (
    CallbackOnStepEnd,
    Generators,
    SamplingPipelineBase,
    decode_latents,
    precompute_conditioning,
    predict_model_output,
    prepare_extra_step_kwargs,
    sample_noise,
    set_timesteps,
)

# (height, width) in px
TRAINED_SIZES = (
    (1024, 1024),
    (1280, 1280),
    (768, 1024),
    (864, 1152),
    (960, 1280),
    (768, 1280),
    (1024, 768),
    (1152, 864),
    (1280, 960),
    (1280, 768),
)


def get_nearest_trained_size(height: int, width: int) -> tuple[int, int]:
    """The trained (height, width) in px of the nearest shape, and of these the one of the nearest area."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return abs(size[1] / size[0] - width / height), abs(size[0] * size[1] - height * width)

    return min(TRAINED_SIZES, key=distance)


@dataclass
class TextToImageOutput(BaseOutput):
    """Pictures in the form that `output_type` asked for; no flags where no safety checker looked at them."""

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None


class TextToImagePipeline(SamplingPipelineBase):
    """A prompt in Chinese or English to pictures, by a `DiT` and its two text encoders.

    Takes what a folder saved by diffusers' `HunyuanDiTPipeline` holds. The defaults are the number
    of steps and the guidance scale of a call that names none.
    Source: Hunyuan-DiT (arXiv 2405.08748).
    """

    _optional_components: ClassVar[list[str]] = [
        "safety_checker",
        "feature_extractor",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "controlnet",
    ]

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
        if transformer is not None and not hasattr(transformer, "compute_conditioning"):
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
        callback_on_step_end: CallbackOnStepEnd | None = None,
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
        steps = self._set_sampling_params(num_inference_steps, guidance_scale, guidance_rescale)
        given = {
            "prompt_embeds": prompt_embeds,
            "prompt_attention_mask": prompt_attention_mask,
            "prompt_embeds_2": prompt_embeds_2,
            "prompt_attention_mask_2": prompt_attention_mask_2,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
            "negative_prompt_embeds_2": negative_prompt_embeds_2,
            "negative_prompt_attention_mask_2": negative_prompt_attention_mask_2,
        }
        batch_size = self._check_prompt_inputs(prompt, negative_prompt, given) * validation.check_num_images(
            num_images_per_prompt
        )
        shape = self._check_latents(latents, generator, batch_size, height=height, width=width)
        validation.check_output_type(output_type)
        check_controlnet(self.controlnet, self.transformer, has_control_image=control_image is not None)
        call_back = self._make_step_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        meta = (original_size or (height, width)), (target_size or (height, width)), crops_coords_top_left
        image_meta_size = validation.check_image_meta_size(*meta)

        self.warn_about_unknown_words(prompt)
        device = self._execution_device
        text = self._encode_prompts(prompt, negative_prompt, given, num_images_per_prompt=num_images_per_prompt)
        timesteps = set_timesteps(self.scheduler, steps, device=device)
        if latents is None:
            latents = sample_noise(shape, generator, device=device)
        sizes = {"latent_size": (latents.shape[-2], latents.shape[-1]), "image_meta_size": image_meta_size}
        model: Any = partial(precompute_conditioning, self.transformer), partial(predict_model_output, self.transformer)
        if control_image is not None:
            pixels = self.image_processor.preprocess(control_image, height=height, width=width)
            control = encode_control_images(self.vae, pixels, batch_size=batch_size)
            controlled = ControlNetDenoiser(
                transformer=self.transformer,
                controlnet=self.controlnet,
                control_latents=control,
                conditioning_scale=controlnet_conditioning_scale,
                get_current_timestep=lambda: self.current_timestep,
            )
            model = controlled.precompute_conditioning, controlled.predict
        latents = self._denoise(
            latents.to(device, torch.float32) * self.scheduler.init_noise_sigma,
            timesteps,
            text,
            precompute=partial(model[0], **sizes),
            predict=model[1],
            extra_step_kwargs=prepare_extra_step_kwargs(self.scheduler, eta=eta, generator=generator),
            step_callback=call_back,
        )
        images, flags = self._decode_images(latents, output_type)
        self.maybe_free_model_hooks()
        return TextToImageOutput(images=images, nsfw_content_detected=flags) if return_dict else (images, flags)

    def _decode_images(self, latents: Tensor, output_type: str) -> tuple[Any, list[bool] | None]:
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
        height, width = validation.value_or_default(height, own_px), validation.value_or_default(width, own_px)
        if use_resolution_binning:
            height, width = (
                validation.check_side_px(side, name, multiple_px=1)
                for side, name in ((height, "height"), (width, "width"))
            )
            height, width = get_nearest_trained_size(height, width)
        return (
            validation.check_side_px(height, "height", multiple_px=multiple_px),
            validation.check_side_px(width, "width", multiple_px=multiple_px),
        )

    def _check_latents(
        self, latents: Tensor | None, generator: Generators, batch_size: int, *, height: int, width: int
    ) -> tuple[int, ...]:
        """The shape of the latents."""
        if batch_size > validation.MAX_IMAGES:
            raise ValueError(f"{batch_size} pictures in one call; give prompts for at most {validation.MAX_IMAGES}")
        scale = self.vae_scale_factor
        shape = (batch_size, self.transformer.config.in_channels, height // scale, width // scale)
        validation.check_latents(latents, shape)
        validation.check_generator(generator, batch_size)
        return shape
