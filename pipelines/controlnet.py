"""A ControlNet beside the transformer: a picture, such as a line drawing, says what goes where.

B batch, N image tokens, E head width; latents are B C Y X.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKL, HunyuanDiT2DControlNetModel
from torch import Tensor

from dianjing.dit import Condition, DiT
from dianjing.dit.rope import pairs_from_rotation
from dianjing.pipelines import prediction
from dianjing.pipelines.text import Text


def check_controlnet(controlnet: HunyuanDiT2DControlNetModel | None, transformer: DiT, *, has_image: bool) -> None:
    """Raises ValueError for a control image without a ControlNet, or a ControlNet of another model."""
    if not has_image:
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
def encode_control(vae: AutoencoderKL, pixels: Tensor, *, rows: int) -> Tensor:
    """Latents (rows, C, Y, X) of control images (1 or rows, 3, H, W) on [-1, 1].

    Raises: ValueError for another number of images.
    """
    if len(pixels) not in (1, rows):
        raise ValueError(f"{len(pixels)} control images for {rows} pictures; give one, or one for each")
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
    return latents.expand(rows, -1, -1, -1)


def residuals_of(
    controlnet: HunyuanDiT2DControlNetModel,
    latents: Tensor,
    timestep: Tensor,
    *,
    control: Tensor,
    rotation: Tensor,
    inputs: Mapping[str, Tensor],
    scale: float = 1.0,
) -> list[Tensor]:
    """What a ControlNet adds to each skip connection, (B, N, D).

    timestep (B,); control are the latents of the control images; inputs are what `DiT` takes of text and size.
    """
    return controlnet(
        latents, timestep.expand(len(latents)).to(latents.dtype), controlnet_cond=control.to(latents.dtype),
        conditioning_scale=scale, image_rotary_emb=pairs_from_rotation(rotation), **inputs, return_dict=False,
    )[0]  # fmt: skip


@dataclass(kw_only=True)
class Controlled:
    """`look_ahead` and `predict` of a transformer with its ControlNet; current_timestep is asked at each step."""

    transformer: DiT
    controlnet: HunyuanDiT2DControlNetModel
    control: Tensor
    scale: float
    current_timestep: Callable[[], Tensor | None]
    inputs: dict[str, Tensor] = field(default_factory=dict)  # of the schedule that was looked ahead at last

    def look_ahead(self, timesteps: Tensor, text: Text, *, guided: bool, **sizes: Any) -> Condition:
        meta = sizes["image_meta_size"]
        self.inputs = prediction.model_inputs(
            self.transformer, text, guided=guided, image_meta_size=meta, device=timesteps.device
        )
        return prediction.look_ahead(self.transformer, timesteps, text, guided=guided, **sizes)

    def predict(self, latents: Tensor, condition: Condition) -> tuple[Tensor, ...]:
        copies, timestep = condition.batch_size // len(latents), self.current_timestep()
        assert timestep is not None, "predictions are of a step"
        residuals = residuals_of(
            self.controlnet, torch.cat([latents] * copies).to(self.controlnet.dtype), timestep,
            control=torch.cat([self.control] * copies), rotation=condition.rotation, inputs=self.inputs,
            scale=self.scale,
        )  # fmt: skip
        dtype = condition.keys[0].dtype
        return prediction.predict(self.transformer, latents, condition, residuals=[r.to(dtype) for r in residuals])
