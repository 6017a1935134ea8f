"""A ControlNet, trained with a frozen transformer.

B batch, C latent channels; latents are (B, C, Y, X).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanDiT2DControlNetModel
from PIL import Image
from torch import Tensor

from dianjing.dit import DiT
from dianjing.errors import DianjingError
from dianjing.pipelines.controlnet import compute_controlnet_residuals
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.data.images import tile_images
from dianjing.train.data.samples import Batch
from dianjing.train.export import export_controlnet
from dianjing.train.tasks.finetune import FinetuneTask

SHARED_CONFIG_KEYS = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "patch_size",
    "activation_fn",
    "sample_size",
    "hidden_size",
    "mlp_ratio",
    "cross_attention_dim",
    "cross_attention_dim_t5",
    "pooled_projection_dim",
    "text_len",
    "text_len_t5",
    "use_style_cond_and_image_meta_size",
)


def init_controlnet(transformer: DiT) -> HunyuanDiT2DControlNetModel:
    """A new ControlNet with the weights of the transformer's first half; its outputs are zero.

    Raises: DianjingError for a transformer that diffusers' class does not fit.
    """
    layers = transformer.config.num_layers
    if layers % 2 or layers < 4:
        raise DianjingError("controlnet_block_count", count=layers)
    controlnet = HunyuanDiT2DControlNetModel(
        **{name: transformer.config[name] for name in SHARED_CONFIG_KEYS}, transformer_num_layers=layers
    )
    missing, _ = controlnet.load_state_dict(transformer.state_dict(), strict=False)
    assert all(name.startswith(("input_block.", "controlnet_blocks.")) for name in missing), missing
    return controlnet.float().train()


def predict_with_controlnet(
    transformer: DiT,
    controlnet: Any,
    noisy_latents: Tensor,
    timestep: Tensor,
    *,
    control: Tensor,
    inputs: dict[str, Tensor],
) -> Tensor:
    """The prediction (B, C, Y, X), or (B, 2 C, Y, X) with learned variance.

    `control` are the latents (B, C, Y, X) of the control images.
    """
    patch = transformer.config.patch_size
    rows, columns = (side // patch for side in noisy_latents.shape[-2:])
    rotary_emb = transformer.get_rotary_table(rows, columns, device=noisy_latents.device)
    residuals = compute_controlnet_residuals(
        controlnet, noisy_latents, timestep, control_latents=control, rotary_emb=rotary_emb, model_inputs=inputs
    )
    return transformer(noisy_latents, timestep, **inputs, controlnet_block_samples=residuals, return_dict=False)[0]


class ControlNetTask(FinetuneTask):
    """Trains a ControlNet; `control_images` are those for the sample prompts."""

    def __init__(self, *arguments: Any, control_images: Sequence[Image.Image], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.controlnet = init_controlnet(self.transformer)
        self.control_images = control_images

    def _predict(self, noisy_latents: Tensor, timestep: Tensor, batch: Batch, **settings: Any) -> Tensor:
        assert not settings, "the run file allows no videos"
        return predict_with_controlnet(
            self.transformer,
            self.controlnet,
            noisy_latents,
            timestep,
            control=batch["control"].float(),
            inputs=self._make_model_inputs(batch, noisy_latents),
        )

    def _generate_rows(self, pipe: TextToImagePipeline) -> list[np.ndarray]:
        """The control images, and the images generated from them."""
        pipe.register_modules(controlnet=self.controlnet)
        control = torch.from_numpy(np.stack([np.asarray(image) for image in self.control_images]))
        return [
            tile_images(control, columns=min(8, len(control))),
            self._generate_images(pipe, control_image=list(self.control_images)),
        ]

    def _export(self, folder: Path, dtype: torch.dtype) -> None:
        export_controlnet(folder, dtype, controlnet=self.controlnet, scheduler=self.scheduler)
