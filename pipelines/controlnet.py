"""The lines of a picture, white on black: what a ControlNet for line art is trained on, and drawn from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, HunyuanDiT2DControlNetModel
from PIL import Image
from torch import Tensor

from dianjing.dit import Conditioning, DiT
from dianjing.dit.rope import rotary_table_to_cos_sin
from dianjing.pipelines import sampling
from dianjing.pipelines.prompt_embeds import PromptEmbeds

CANNY_THRESHOLDS = (100, 200)  # of the gradient: below the first no edge, above the second always one


def detect_canny_edges(image: Image.Image) -> Image.Image:
    """RGB, of the picture's size.

    Source: Canny 1986, as OpenCV has it and diffusers' ControlNets take it.
    """
    import cv2

    grey = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2GRAY)
    return Image.fromarray(cv2.Canny(grey, *CANNY_THRESHOLDS)).convert("RGB")


def check_controlnet(
    controlnet: HunyuanDiT2DControlNetModel | None, transformer: DiT, *, has_control_image: bool
) -> None:
    """Raises ValueError for a control image without a ControlNet, or a ControlNet of another model."""
    if not has_control_image:
        return
    if controlnet is None:
        raise ValueError("control_image without a ControlNet; load the pipeline with controlnet=...")
    residuals, skips = len(controlnet.controlnet_blocks), (len(transformer.blocks) - 1) // 2
    widths = controlnet.inner_dim, transformer.inner_dim
    if residuals != skips or widths[0] != widths[1]:
        raise ValueError(
            f"the ControlNet has {residuals} blocks of width {widths[0]}; this transformer takes {skips} of {widths[1]}"
        )


@torch.no_grad()
def encode_control_images(vae: AutoencoderKL, pixels: Tensor, *, batch_size: int) -> Tensor:
    """Latents (rows, C, Y, X) of control images (1 or rows, 3, H, W) on [-1, 1].

    Raises: ValueError for another number of images.
    """
    if len(pixels) not in (1, batch_size):
        raise ValueError(f"{len(pixels)} control images for {batch_size} pictures; give one, or one for each")
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
    return latents.expand(batch_size, -1, -1, -1)


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
    """What a ControlNet adds to each skip connection, (B, N, D).

    timestep (B,); control are the latents of the control images; inputs are what `DiT` takes of text and size.
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


@dataclass(kw_only=True)
class ControlNetDenoiser:
    """`look_ahead` and `predict` of a transformer with its ControlNet; current_timestep is asked at each step."""

    transformer: DiT
    controlnet: HunyuanDiT2DControlNetModel
    control_latents: Tensor
    conditioning_scale: float
    get_current_timestep: Callable[[], Tensor | None]
    model_inputs: dict[str, Tensor] = field(default_factory=dict)  # of the schedule that was looked ahead at last

    def precompute_conditioning(
        self, timesteps: Tensor, embeds: PromptEmbeds, *, guided: bool, **size_kwargs: Any
    ) -> Conditioning:
        meta = size_kwargs["image_meta_size"]
        self.model_inputs = sampling.make_model_inputs(
            self.transformer, embeds, guided=guided, image_meta_size=meta, device=timesteps.device
        )
        return sampling.precompute_conditioning(self.transformer, timesteps, embeds, guided=guided, **size_kwargs)

    def predict(self, latents: Tensor, conditioning: Conditioning) -> tuple[Tensor, ...]:
        copies, timestep = conditioning.batch_size // len(latents), self.get_current_timestep()
        assert timestep is not None, "predictions are of a step"
        residuals = compute_controlnet_residuals(
            self.controlnet,
            torch.cat([latents] * copies).to(self.controlnet.dtype),
            timestep,
            control_latents=torch.cat([self.control_latents] * copies),
            rotary_emb=conditioning.rotary_table,
            model_inputs=self.model_inputs,
            conditioning_scale=self.conditioning_scale,
        )
        dtype = conditioning.text_keys[0].dtype
        return sampling.predict_model_output(
            self.transformer, latents, conditioning, controlnet_block_samples=[r.to(dtype) for r in residuals]
        )
