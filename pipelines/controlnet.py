"""ControlNets of Hunyuan-DiT: checked controls, and a denoiser that adds their residuals to the skip connections.

B batch, N image tokens, D width; latents are B C Y X.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiT2DMultiControlNetModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor, nn

from dianjing.dit import Conditioning, DiT
from dianjing.dit.offload import onloaded
from dianjing.dit.rope import rotary_table_to_cos_sin
from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.denoiser import SamplingStep, TransformerDenoiser, make_model_inputs, predict_model_output
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.vae import encode_images

MAX_CONDITIONING_SCALE = 10.0  # of either sign


@dataclass(frozen=True, kw_only=True)
class Control:
    """A ControlNet with its control images and the part of the sampling run in which it acts.

    image: one, or one for each image, as PIL images, arrays, or a tensor (1 or B, 3, H, W) on [-1, 1]. guidance_start
    and guidance_end: fractions of the steps.
    """

    controlnet: HunyuanDiT2DControlNetModel
    image: Any
    conditioning_scale: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def acts_at(self, step: SamplingStep) -> bool:
        """True for a step that lies in the part wholly, as diffusers' `controlnet_keep` has it."""
        first, last = step.index / step.num_steps, (step.index + 1) / step.num_steps
        return self.conditioning_scale != 0 and self.guidance_start <= first and last <= self.guidance_end


def list_controlnets(controlnet: Any) -> list[HunyuanDiT2DControlNetModel]:
    """List the models of a pipeline's `controlnet`."""
    return list(controlnet.nets) if isinstance(controlnet, HunyuanDiT2DMultiControlNetModel) else [controlnet]


def combine_controlnets(controlnet: Any) -> Any:
    """Combine a sequence of ControlNets to diffusers' model of several; pass on anything else."""
    if not isinstance(controlnet, list | tuple):
        return controlnet
    return HunyuanDiT2DMultiControlNetModel(controlnet)


def check_controlnet(controlnet: nn.Module, transformer: DiT) -> None:
    """Raise DianjingError for a ControlNet of another transformer."""
    num_skips, expected_width = (len(transformer.blocks) - 1) // 2, transformer.inner_dim
    for net in list_controlnets(controlnet):
        num_residuals, width = len(net.controlnet_blocks), net.inner_dim
        if num_residuals != num_skips or width != expected_width:
            raise DianjingError(
                "controlnet_of_another_model",
                num_residuals=num_residuals,
                width=width,
                num_skips=num_skips,
                expected_width=expected_width,
            )


def check_controls(
    controlnet: nn.Module | None,
    transformer: DiT,
    control_image: Any,
    *,
    conditioning_scale: object,
    guidance_interval: tuple[object, object],
    image_shape: tuple[int, ...],
    num_per_prompt: int,
) -> tuple[Control, ...]:
    """Check the arguments of a call for its ControlNets, and pair them; none without a control image.

    With several ControlNets control_image is a sequence with the images of each, and every other argument one number
    for all or a sequence. image_shape: (B, height, width) of the images in px.
    Raises: DianjingError for arguments that do not fit the ControlNets or the images.
    """
    if control_image is None:
        return ()
    if controlnet is None:
        raise DianjingError("controlnet_missing")
    check_controlnet(controlnet, transformer)
    nets = list_controlnets(controlnet)
    images = [control_image]
    if isinstance(controlnet, HunyuanDiT2DMultiControlNetModel):
        if not isinstance(control_image, list | tuple) or len(control_image) != len(nets):
            count = len(control_image) if isinstance(control_image, list | tuple) else 1
            raise DianjingError("control_image_per_controlnet", count=count, num_controlnets=len(nets))
        images = list(control_image)
    limit = MAX_CONDITIONING_SCALE
    scales = _spread(conditioning_scale, "controlnet_conditioning_scale", len(nets), low=-limit, high=limit)
    starts = _spread(guidance_interval[0], "control_guidance_start", len(nets), low=0, high=1)
    ends = _spread(guidance_interval[1], "control_guidance_end", len(nets), low=0, high=1)
    for start, end in zip(starts, ends, strict=True):
        if start >= end:
            raise DianjingError("control_guidance_empty", start=f"{start:g}", end=f"{end:g}")
    for image in images:
        _check_control_image(image, image_shape, num_per_prompt=num_per_prompt)
    fields = zip(nets, images, scales, starts, ends, strict=True)
    return tuple(
        Control(controlnet=net, image=image, conditioning_scale=scale, guidance_start=start, guidance_end=end)
        for net, image, scale, start, end in fields
    )


def _spread(value: object, name: str, count: int, *, low: float, high: float) -> list[float]:
    """Check for one number, or `count` of them, and return `count`."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise DianjingError("control_value_count", name=name, count=len(values), num_controlnets=count)
    return [validation.check_number(each, name, low=low, high=high) for each in values]


def _check_control_image(image: Any, image_shape: tuple[int, ...], *, num_per_prompt: int) -> None:
    """Check the number of images of one ControlNet, and the shape of a tensor."""
    batch_size, *size = image_shape
    if isinstance(image, Tensor) and (image.ndim not in (3, 4) or list(image.shape[-3:]) != [3, *size]):
        raise DianjingError("control_tensor_shape", shape=str(tuple(image.shape)), height=size[0], width=size[1])
    count = count_control_images(image)
    if count not in (1, batch_size // num_per_prompt, batch_size):
        raise DianjingError("control_image_count", count=count, batch_size=batch_size)


def count_control_images(image: Any) -> int:
    """Count the images of one ControlNet: PIL images, arrays, tensors, or a sequence of them."""
    if isinstance(image, list | tuple):
        return sum(count_control_images(each) for each in image)
    return len(image) if isinstance(image, Tensor | np.ndarray) and image.ndim == 4 else 1


def crop_control_images(image: Any, box: tuple[int, int, int, int], *, size: tuple[int, int]) -> Any:
    """Crop control images to the part of a picture that is worked on, in the same arrangement.

    box: left, top, right and bottom of the part, in px of the picture; size: its (width, height), which that of a
    control image may differ from. A tensor, which has the size of the call, is returned as it is.
    """
    if image is None or isinstance(image, Tensor) or box == (0, 0, *size):
        return image
    if isinstance(image, list | tuple):
        return [crop_control_images(each, box, size=size) for each in image]
    height, width = (image.height, image.width) if isinstance(image, Image.Image) else np.shape(image)[-3:-1]
    scales = (width / size[0], height / size[1]) * 2
    left, top, right, bottom = (round(edge * scale) for edge, scale in zip(box, scales, strict=True))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    if isinstance(image, Image.Image):
        return image.crop((left, top, right, bottom))
    return image[..., top:bottom, left:right, :]


def encode_controls(
    vae: nn.Module,
    controls: Sequence[Control],
    *,
    image_processor: VaeImageProcessor,
    latent_shape: Sequence[int],
    device: torch.device,
) -> list[Tensor]:
    """Encode the images of each control to latents (B, C, Y, X), the shape of those of the call.

    Images are resized to those of the call; a tensor is used as it is, as in diffusers.
    """
    batch_size, _, *latent_size = latent_shape
    height, width = (side * image_processor.config.vae_scale_factor for side in latent_size)
    control_latents = []
    for control in controls:
        image = control.image
        if isinstance(image, Tensor):
            pixels = image if image.ndim == 4 else image.unsqueeze(0)
        else:
            pixels = image_processor.preprocess(image, height=height, width=width)
        latents = encode_images(vae, pixels.to(device))
        control_latents.append(latents.repeat_interleave(batch_size // len(latents), dim=0))
    return control_latents


def compute_controlnet_residuals(
    controlnet: HunyuanDiT2DControlNetModel,
    latents: Tensor,
    timestep: Tensor,
    *,
    control_latents: Tensor,
    rotary_emb: Tensor,
    model_inputs: Mapping[str, Tensor],
    conditioning_scale: float = 1.0,
) -> list[Tensor]:
    """Compute a residual (B, N, D) for each skip connection.

    timestep: (B,) or (). control_latents: latents of the control images. rotary_emb: the rotary table of the
    transformer. model_inputs: its arguments for text and size.
    """
    return controlnet(
        latents,
        timestep.expand(len(latents)).to(latents.dtype),
        controlnet_cond=control_latents.to(latents.dtype),
        conditioning_scale=conditioning_scale,
        image_rotary_emb=rotary_table_to_cos_sin(rotary_emb),
        **model_inputs,
        return_dict=False,
    )[0]


@dataclass(frozen=True, kw_only=True)
class ControlNetDenoiser(TransformerDenoiser):
    """`Denoiser` by a transformer with ControlNets. control_latents: (B, C, Y, X) for each control.

    controlnet: the pipeline's, which brings offloaded weights of several to their device at once.
    """

    controlnet: nn.Module
    controls: Sequence[Control]
    control_latents: Sequence[Tensor]

    def predict(self, step: SamplingStep, embeds: PromptEmbeds, conditioning: Conditioning) -> tuple[Tensor, ...]:
        residuals = self._compute_residuals(step, embeds, conditioning)
        return predict_model_output(self.transformer, step.latents, conditioning, controlnet_block_samples=residuals)

    def _compute_residuals(
        self, step: SamplingStep, embeds: PromptEmbeds, conditioning: Conditioning
    ) -> list[Tensor] | None:
        """Sum the residuals of the ControlNets that act at a step; None if none does."""
        active = [pair for pair in zip(self.controls, self.control_latents, strict=True) if pair[0].acts_at(step)]
        if not active:
            return None
        copies = conditioning.batch_size // len(step.latents)
        model_inputs = make_model_inputs(
            self.transformer,
            embeds,
            guided=copies == 2,
            image_meta_size=self.image_meta_size,
            device=step.latents.device,
        )
        assert conditioning.text_keys is not None, "conditioning is precomputed"
        dtype = conditioning.text_keys[0].dtype
        several: list[list[Tensor]] = []
        with onloaded(self.controlnet):
            for control, latents in active:
                residuals = compute_controlnet_residuals(
                    control.controlnet,
                    torch.cat([step.latents] * copies).to(control.controlnet.dtype),
                    step.timestep,
                    control_latents=torch.cat([latents] * copies),
                    rotary_emb=conditioning.rotary_table,
                    model_inputs=model_inputs,
                    conditioning_scale=control.conditioning_scale,
                )
                several.append([residual.to(dtype) for residual in residuals])
        return [
            torch.stack(same_layer).sum(0) if len(several) > 1 else same_layer[0]
            for same_layer in zip(*several, strict=True)
        ]
