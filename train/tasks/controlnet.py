"""A ControlNet for line art, trained beside a transformer that stays as it is.

B batch; latents are (B, C, Y, X).
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
    """With the weights of the transformer's first half, and zeros where it meets it: it changes nothing yet.

    Raises: ValueError for a transformer that diffusers' class does not fit.
    """
    layers = transformer.config.num_layers
    if layers % 2 or layers < 4:
        raise ValueError(f"the transformer has {layers} blocks; a ControlNet takes an even number of them, 4 or more")
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
    """(B, C, Y, X), or (B, 2C, Y, X) where the variance is learnt; control are latents of control pictures."""
    patch = transformer.config.patch_size
    rows, columns = (side // patch for side in noisy_latents.shape[-2:])
    rotation = transformer.get_rotary_table(rows, columns, device=noisy_latents.device)
    residuals = compute_controlnet_residuals(
        controlnet, noisy_latents, timestep, control_latents=control, rotary_emb=rotation, model_inputs=inputs
    )
    return transformer(noisy_latents, timestep, **inputs, controlnet_block_samples=residuals, return_dict=False)[0]


class ControlNetTask(FinetuneTask):
    """drawings: line art for the sample prompts."""

    def __init__(self, *given: Any, control_images: Sequence[Image.Image], **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.controlnet = init_controlnet(self.transformer)
        self.control_images = control_images

    def _predict(self, noisy_latents: Tensor, timestep: Tensor, batch: Batch, **settings: Any) -> Tensor:
        assert not settings, "films are refused in the run file"
        return predict_with_controlnet(
            self.transformer,
            self.controlnet,
            noisy_latents,
            timestep,
            control=batch["control"].float(),
            inputs=self._make_model_inputs(batch, noisy_latents),
        )

    def _generate_rows(self, pipe: TextToImagePipeline) -> list[np.ndarray]:
        """The line art, and what is drawn from it."""
        pipe.register_modules(controlnet=self.controlnet)
        lines = torch.from_numpy(np.stack([np.asarray(drawing) for drawing in self.control_images]))
        return [
            tile_images(lines, columns=min(8, len(lines))),
            self._generate_images(pipe, control_image=list(self.control_images)),
        ]

    def _export(self, folder: Path, dtype: torch.dtype) -> None:
        export_controlnet(folder, dtype, controlnet=self.controlnet, scheduler=self.scheduler)
