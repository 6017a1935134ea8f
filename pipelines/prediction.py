"""What the model predicts at a step, with all that the latents do not change computed ahead of them.

B batch of pictures, S steps; latents are B C Y X.
"""

from dataclasses import dataclass

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from dianjing.dit import Condition, DiT
from dianjing.pipelines.guidance import guide
from dianjing.pipelines.text import Text

STEPS_AT_ONCE = 64  # so that 1000 steps of a batch do not fill the memory with modulations

compute_condition = apply_forward_hook(DiT.condition)  # an offloaded model comes back first, as for its forward


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What is known of some steps before their latents are."""

    guided: bool  # negative prompts first, then the prompts: 2B rows
    inputs: dict[str, Tensor]  # of `DiT.forward`, but for latents and timestep
    condition: Condition | None  # None where the model's hooks need one whole call
    num_steps: int
    dtype: torch.dtype  # of the model: asked once, for diffusers looks through all parameters to answer


def look_ahead(
    transformer: DiT,
    timesteps: Tensor,
    text: Text,
    *,
    guided: bool,
    size: tuple[int, int],
    image_meta_size: tuple[int, ...],
) -> Ahead:
    """Prepare the first `STEPS_AT_ONCE` of timesteps (S,), which stay as exact as they are given.

    size is (height, width) in latents; image_meta_size holds six numbers in px.
    """
    timesteps = timesteps[:STEPS_AT_ONCE]
    inputs = text.inputs(guided=guided)
    device, rows = timesteps.device, len(inputs["encoder_hidden_states"])
    if transformer.config.use_style_cond_and_image_meta_size:
        inputs["image_meta_size"] = torch.tensor([image_meta_size], dtype=torch.float32, device=device).expand(rows, -1)
        inputs["style"] = torch.zeros(rows, dtype=torch.long, device=device)  # the only style there is
    condition = None
    if not _is_group_offload_enabled(transformer):  # its hooks bring a block back only for the block's own forward
        condition = compute_condition(transformer, timesteps, size=size, **inputs)
    return Ahead(guided=guided, inputs=inputs, condition=condition, num_steps=len(timesteps), dtype=transformer.dtype)


def predict(transformer: DiT, latents: Tensor, timestep: Tensor, ahead: Ahead, step: int) -> tuple[Tensor, ...]:
    """Predictions (B, C, Y, X) in float32: for the negative prompts, where guided, and for the prompts.

    `step` counts within `ahead`. A learned variance is left out: no scheduler here uses it.
    """
    batch = torch.cat([latents, latents]) if ahead.guided else latents
    batch = batch.to(ahead.dtype)
    if ahead.condition is None:
        output = transformer(batch, timestep.expand(len(batch)), **ahead.inputs, return_dict=False)[0]
    else:
        output = transformer(batch, condition=ahead.condition.at(step), return_dict=False)[0]
    return output[:, : latents.shape[1]].float().chunk(2 if ahead.guided else 1)


def combine(predictions: tuple[Tensor, ...], *, scale: float, rescale: float) -> Tensor:
    """One prediction (B, C, Y, X): guided where there are two."""
    return predictions[0] if len(predictions) == 1 else guide(*predictions, scale=scale, rescale=rescale)
