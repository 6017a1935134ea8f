"""ControlNet of Hunyuan-DiT: control images, and a denoiser that adds its residuals to the skip connections.

B batch, N image tokens, D width; latents are B C Y X.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import HunyuanDiT2DControlNetModel
from PIL import Image
from torch import Tensor

from dianjing.dit import Conditioning, DiT
from dianjing.dit.rope import rotary_table_to_cos_sin
from dianjing.errors import DianjingError
from dianjing.pipelines.denoiser import SamplingStep, TransformerDenoiser, make_model_inputs, predict_model_output
from dianjing.pipelines.prompt_embeds import PromptEmbeds
from dianjing.pipelines.vae import encode_images

CANNY_THRESHOLDS = (100, 200)  # of the gradient: below the first no edge, above the second always one


def detect_canny_edges(image: Image.Image) -> Image.Image:
    """Detect edges: RGB of the image's size, white on black.

    Source: Canny 1986, by OpenCV, with the thresholds of diffusers' ControlNet examples.
    """
    import cv2

    gray = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2GRAY)
    return Image.fromarray(cv2.Canny(gray, *CANNY_THRESHOLDS)).convert("RGB")


def check_controlnet(
    controlnet: HunyuanDiT2DControlNetModel | None, transformer: DiT, *, has_control_image: bool
) -> None:
    """Raise DianjingError for a control image without a ControlNet, or a ControlNet of another transformer."""
    if not has_control_image:
        return
    if controlnet is None:
        raise DianjingError("controlnet_missing")
    num_residuals, num_skips = len(controlnet.controlnet_blocks), (len(transformer.blocks) - 1) // 2
    width, expected_width = controlnet.inner_dim, transformer.inner_dim
    if num_residuals != num_skips or width != expected_width:
        raise DianjingError(
            "controlnet_of_another_model",
            num_residuals=num_residuals,
            width=width,
            num_skips=num_skips,
            expected_width=expected_width,
        )


def encode_control_images(vae: torch.nn.Module, pixels: Tensor, *, batch_size: int) -> Tensor:
    """Encode control images (1 or B, 3, H, W) on [-1, 1] to latents (B, C, Y, X).

    Raises: DianjingError for another number of images.
    """
    if len(pixels) not in (1, batch_size):
        raise DianjingError("control_image_count", count=len(pixels), batch_size=batch_size)
    return encode_images(vae, pixels).expand(batch_size, -1, -1, -1)


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
    """`Denoiser` by a transformer with its ControlNet. control_latents: (B, C, Y, X)."""

    controlnet: HunyuanDiT2DControlNetModel
    control_latents: Tensor
    conditioning_scale: float = 1.0

    def predict(self, step: SamplingStep, embeds: PromptEmbeds, conditioning: Conditioning) -> tuple[Tensor, ...]:
        copies = conditioning.batch_size // len(step.latents)
        model_inputs = make_model_inputs(
            self.transformer,
            embeds,
            guided=copies == 2,
            image_meta_size=self.image_meta_size,
            device=step.latents.device,
        )
        residuals = compute_controlnet_residuals(
            self.controlnet,
            torch.cat([step.latents] * copies).to(self.controlnet.dtype),
            step.timestep,
            control_latents=torch.cat([self.control_latents] * copies),
            rotary_emb=conditioning.rotary_table,
            model_inputs=model_inputs,
            conditioning_scale=self.conditioning_scale,
        )
        assert conditioning.text_keys is not None, "conditioning is precomputed"
        dtype = conditioning.text_keys[0].dtype
        return predict_model_output(
            self.transformer,
            step.latents,
            conditioning,
            controlnet_block_samples=[residual.to(dtype) for residual in residuals],
        )
