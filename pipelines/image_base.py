"""Base of the pipelines that generate images: components, the way of a checked call, and images from latents.

B batch of images; latents are B C Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from diffusers import AutoencoderKL, HunyuanDiT2DControlNetModel
from diffusers.guiders import BaseGuidance
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor, nn
from transformers import BertModel, PreTrainedModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.dit import DiT
from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.controlnet import (
    Control,
    ControlNetDenoiser,
    check_controls,
    combine_controlnets,
    encode_controls,
)
from dianjing.pipelines.denoiser import Denoiser, TransformerDenoiser
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.image_input import read_pixels, resize_pixels
from dianjing.pipelines.image_start import StartImage
from dianjing.pipelines.ip_adapter import ImagePromptInput, ImagePromptPipelineBase
from dianjing.pipelines.media.crop import choose_start_size, get_nearest_trained_size
from dianjing.pipelines.prompt_embeds import TruncatedText
from dianjing.pipelines.sampling import CallbackOnStepEnd, Generators, SamplingPipelineBase
from dianjing.pipelines.vae import decode_result
from dianjing.weights.image_sizes import get_scale_factor


@dataclass
class TextToImageOutput(BaseOutput):
    """Images in the form of `output_type`; without a safety checker nsfw_content_detected is None.

    truncated: ends of prompts that an encoder did not read.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    nsfw_content_detected: list[bool] | None
    truncated: list[TruncatedText] | None = None


class ImagePipelineBase(ImagePromptPipelineBase):
    """Base of pipelines that generate images by a `DiT` and its two text encoders.

    default_num_inference_steps and default_guidance_scale are those of a call without.

    With a `controlnet` a call takes a `control_image`, such as edges, for all images or one for each. It is resized to
    the images, but a tensor (B, 3, H, W) on [-1, 1] is used as it is. With several ControlNets it is a list with the
    images of each, and the three numbers for them may be lists: the strength, and the fractions of the steps in which a
    ControlNet starts and ends to act.

    After `load_ip_adapter` pictures are prompts too: `ip_adapter_image` is the picture, or the list of pictures, of
    each IP-Adapter; ip_adapter_image_embeds are their embeddings (2, P, I), those of no picture first, or (1, P, I)
    without guidance.
    Raises: DianjingError for a transformer that is no `DiT`.
    """

    _optional_components: ClassVar[list[str]] = [
        "safety_checker",
        "feature_extractor",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "controlnet",
        "image_encoder",
    ]
    _extra_names: ClassVar[tuple[str, ...]] = (*SamplingPipelineBase._extra_names, "_ip_adapters", "_ip_adapter_scales")

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
        controlnet: HunyuanDiT2DControlNetModel | list[HunyuanDiT2DControlNetModel] | None = None,
        image_encoder: PreTrainedModel | None = None,
        default_num_inference_steps: int = 50,
        default_guidance_scale: float = 5.0,
    ):
        super().__init__()
        if transformer is not None and not hasattr(transformer, "compute_conditioning"):
            raise DianjingError("transformer_is_no_dit", class_name=type(transformer).__name__)
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
            controlnet=combine_controlnets(controlnet),
            image_encoder=image_encoder,
        )
        self.trained_scheduler = scheduler
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps, default_guidance_scale=default_guidance_scale
        )
        self.vae_scale_factor = 8 if vae is None else get_scale_factor(vae.config)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @property
    def components(self) -> dict[str, Any]:
        """All components; a ControlNet or image tower that is None has no entry, which diffusers' pipelines need."""
        extra = ("controlnet", "image_encoder")
        return {name: part for name, part in super().components.items() if name not in extra or part is not None}

    def _generate(
        self,
        *,
        prompt: str | list[str] | None,
        height: int | None,
        width: int | None,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        negative_prompt: str | list[str] | None,
        num_images_per_prompt: int,
        eta: float,
        generator: Generators,
        latents: Tensor | None,
        output_type: str,
        return_dict: bool,
        callback_on_step_end: CallbackOnStepEnd | None,
        callback_on_step_end_tensor_inputs: Sequence[str],
        guidance_rescale: float,
        original_size: tuple[int, int] | None,
        target_size: tuple[int, int] | None,
        crops_coords_top_left: tuple[int, int],
        use_resolution_binning: bool,
        control_image: PipelineImageInput | None,
        controlnet_conditioning_scale: float | Sequence[float],
        control_guidance_start: float | Sequence[float],
        control_guidance_end: float | Sequence[float],
        ip_adapter_image: PipelineImageInput | None,
        ip_adapter_image_embeds: list[Tensor] | None,
        guider: BaseGuidance | str | None,
        start_image: StartImage | None = None,
        **prompt_tensors: Tensor | None,
    ) -> TextToImageOutput | tuple:
        """Check the arguments of a call and generate its images.

        start_image: what sampling starts from; None for noise. prompt_tensors: fields of `PromptEmbeds`.
        """
        # 1. Check
        height, width = self._check_size(height, width, use_resolution_binning)
        params = self._check_params(
            num_inference_steps, guidance_scale, guidance_rescale=guidance_rescale, eta=eta, guider=guider
        )
        encoded = PromptEmbeds(**prompt_tensors)
        num_prompts = self._check_prompt_inputs(prompt, negative_prompt, encoded)
        num_images_per_prompt = validation.check_num_per_prompt(num_images_per_prompt, "num_images_per_prompt")
        call = self._make_call(
            params,
            prompt=prompt,
            negative_prompt=negative_prompt,
            encoded=encoded,
            num_per_prompt=num_images_per_prompt,
            latent_shape=self._get_latent_shape(num_prompts * num_images_per_prompt, height=height, width=width),
            latents=latents,
            generator=generator,
            callback=callback_on_step_end,
            callback_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        validation.check_output_type(output_type)
        controls = check_controls(
            self.controlnet,
            self.transformer,
            control_image,
            conditioning_scale=controlnet_conditioning_scale,
            guidance_interval=(control_guidance_start, control_guidance_end),
            image_shape=(call.latent_shape[0], height, width),
            num_per_prompt=num_images_per_prompt,
        )
        image_prompts = self._check_image_prompts(ip_adapter_image, ip_adapter_image_embeds, num_prompts=num_prompts)
        sizes = (original_size or (height, width), target_size or (height, width))
        image_meta_size = validation.check_image_meta_size(*sizes, crops_coords_top_left)
        if start_image is not None:
            start_image.check(num_prompts, batch_size=call.latent_shape[0], scheduler=self.scheduler)

        def sample(embeds: PromptEmbeds, noise: Tensor) -> Tensor:
            denoiser = self._make_denoiser(call.latent_shape, image_meta_size, controls, image_prompts)
            start = None if start_image is None else start_image.encode(self.vae, noise)
            return self._sample(noise, embeds, denoiser, call, start=start)

        def decode(sampled: Tensor) -> tuple[Any, list[bool] | None]:
            return self._decode_images(sampled, output_type, start_image)

        images, flags = self._run(call, sample, decode)
        return TextToImageOutput(images, flags, self.truncated) if return_dict else (images, flags)

    def _make_denoiser(
        self,
        latent_shape: tuple[int, ...],
        image_meta_size: tuple[int, ...],
        controls: Sequence[Control] = (),
        image_prompts: Sequence[ImagePromptInput] = (),
    ) -> Denoiser:
        """Step 3: bind what the images of a call share; with controls, for their ControlNets."""
        batch_size, _, rows, columns = latent_shape
        common: dict[str, Any] = {
            "transformer": self.transformer,
            "latent_size": (rows, columns),
            "image_meta_size": image_meta_size,
            "image_prompts": self._make_image_prompts(image_prompts, batch_size=batch_size),
        }
        if not controls:
            return TransformerDenoiser(**common)
        control_latents = encode_controls(
            self.vae,
            controls,
            image_processor=self.image_processor,
            latent_shape=latent_shape,
            device=self._execution_device,
        )
        return ControlNetDenoiser(
            controlnet=self.controlnet, controls=controls, control_latents=control_latents, **common
        )

    def _decode_images(
        self, latents: Tensor, output_type: str, start_image: StartImage | None
    ) -> tuple[Any, list[bool] | None]:
        """Step 7: convert latents to images of an output type, with the flags of the safety checker."""
        if output_type == "latent":
            return latents.to(self.transformer.dtype), None
        images = decode_result(self.vae, latents)
        if start_image is not None:
            images = start_image.finish(images)
        flags = None
        if self.safety_checker is not None:
            features = self.feature_extractor(self.image_processor.postprocess(images.cpu()), return_tensors="pt")
            images, flags = self.safety_checker(images=images, clip_input=features.pixel_values.to(images))
        do_denormalize = None if flags is None else [not flag for flag in flags]  # a flagged image is black already
        return self.image_processor.postprocess(images, output_type=output_type, do_denormalize=do_denormalize), flags

    def _check_size(self, height: int | None, width: int | None, use_resolution_binning: bool) -> tuple[int, int]:
        height = validation.coalesce(height, self.default_size_px)
        width = validation.coalesce(width, self.default_size_px)
        if use_resolution_binning:
            height = validation.check_side_px(height, "height", multiple_px=1)
            width = validation.check_side_px(width, "width", multiple_px=1)
            height, width = get_nearest_trained_size(height, width)
        return (
            validation.check_side_px(height, "height", multiple_px=self.size_multiple_px),
            validation.check_side_px(width, "width", multiple_px=self.size_multiple_px),
        )

    def choose_start_size(
        self, size: tuple[int, int], *, width: int | None = None, height: int | None = None
    ) -> tuple[int, int]:
        """Choose the (width, height) in px at which images of `size` (width, height) are worked on, if not given."""
        return choose_start_size(
            size, base_px=self.default_size_px, multiple_px=self.size_multiple_px, width=width, height=height
        )

    def _choose_size(
        self, pixels: Tensor, height: int | None, width: int | None, *, use_resolution_binning: bool
    ) -> tuple[int, int]:
        """Choose and check the (height, width) in px at which images (N, 3, H, W) are worked on."""
        width, height = self.choose_start_size((pixels.shape[-1], pixels.shape[-2]), width=width, height=height)
        return self._check_size(height, width, use_resolution_binning)

    def preprocess_image(self, image: PipelineImageInput, *, height: int, width: int) -> Tensor:
        """Convert images to what the VAE takes: (N, 3, height, width), on [-1, 1]. Raises: DianjingError."""
        return self._preprocess(read_pixels(image, name="image"), height=height, width=width)

    def _preprocess(self, pixels: Tensor, *, height: int, width: int) -> Tensor:
        """Scale pixels (N, 3, H, W) on [0, 1] to a size, and convert them to what the VAE takes."""
        resized = resize_pixels(pixels, height=height, width=width)
        return self.image_processor.preprocess(resized, height=height, width=width)

    def _get_latent_shape(self, batch_size: int, *, height: int, width: int) -> tuple[int, ...]:
        """Shape of the latents of images of height x width px."""
        if batch_size > validation.MAX_IMAGES:
            raise DianjingError("too_many_images", count=batch_size, maximum=validation.MAX_IMAGES)
        scale = self.vae_scale_factor
        return batch_size, self.transformer.config.in_channels, height // scale, width // scale
