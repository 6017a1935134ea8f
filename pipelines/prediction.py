"""What the model predicts at a step, with all that the latents do not change computed ahead of them.

B batch of pictures, S steps; latents are B C Y X.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from dianjing.dit import Condition, DiT
from dianjing.pipelines.guidance import guide
from dianjing.pipelines.text import Text

STEPS_AT_ONCE = 64  # so that 1000 steps of a batch do not fill the memory with modulations


def look_ahead(
    transformer: DiT,
    timesteps: Tensor,
    text: Text,
    *,
    guided: bool,
    size: tuple[int, int],
    image_meta_size: tuple[int, ...],
    **film: Any,
) -> Condition:
    """Prepare the first `STEPS_AT_ONCE` of timesteps (S,), which stay as exact as they are given.

    Where guided, the negative prompts come first: 2B rows. size is (height, width) in latents;
    image_meta_size holds six numbers in px; film is what else `DiT.condition` takes, of 2B rows.
    """
    inputs: dict[str, Any] = model_inputs(
        transformer, text, guided=guided, image_meta_size=image_meta_size, device=timesteps.device
    )
    return transformer.condition(timesteps[:STEPS_AT_ONCE], size=size, **inputs, **film)


def model_inputs(
    transformer: DiT, text: Text, *, guided: bool, image_meta_size: tuple[int, ...], device: torch.device
) -> dict[str, Any]:
    """Text and, where the model was trained with it, size: under the names of `DiT.forward`."""
    inputs: dict[str, Any] = dict(text.inputs(guided=guided))
    rows = len(inputs["encoder_hidden_states"])
    if transformer.config.use_style_cond_and_image_meta_size:
        inputs["image_meta_size"] = torch.tensor([image_meta_size], dtype=torch.float32, device=device).repeat(rows, 1)
        inputs["style"] = torch.zeros(rows, dtype=torch.long, device=device)  # the only style there is
    return inputs


def predict(
    transformer: DiT, latents: Tensor, condition: Condition, *, residuals: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Predictions (B, C, Y, X) in float32: for the negative prompts, where guided, and for the prompts.

    `condition` is of this one step; residuals are a ControlNet's. A learned variance is left out: no scheduler here
    uses it.
    """
    copies = condition.batch_size // len(latents)
    batch = torch.cat([latents] * copies).to(condition.keys[0].dtype)
    # a cache over the steps, where one is switched on, keeps its state under a name
    with transformer.cache_context("cond_uncond") if transformer.is_cache_enabled else nullcontext():
        output = transformer(batch, condition=condition, controlnet_block_samples=residuals, return_dict=False)[0]
    return output[:, : latents.shape[1]].float().chunk(copies)


def combine(predictions: tuple[Tensor, ...], *, scale: float, rescale: float) -> Tensor:
    """One prediction (B, C, Y, X): guided where there are two."""
    return predictions[0] if len(predictions) == 1 else guide(*predictions, scale=scale, rescale=rescale)
