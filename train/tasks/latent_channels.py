"""Weights of a transformer for latents with further channels, of which it knows nothing at first.

C latent channels before, D after, p the side of a patch, W the width of the transformer.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

INPUT_LAYERS = ("pos_embed.proj", "motion_conditioner.first_frame_patch", "motion_conditioner.warp_patch")
OUTPUT_LAYERS = ("proj_out", "motion_conditioner.warp_guidance.token_gate")


def add_latent_channels(weights: Mapping[str, Tensor], *, channels: int, patch_size: int) -> dict[str, Tensor]:
    """Weights of a DiT for latents of D = `channels`, from those of one for C channels.

    Weights of the added channels are zero: predictions for the first C channels stay as they are, those for the others
    are zero, apart from what warp guidance adds in videos. Weights for as many channels, or more, are returned as they
    are.
    """
    weights = dict(weights)
    first_layer = weights.get(f"{INPUT_LAYERS[0]}.weight")
    if first_layer is None or first_layer.shape[1] >= channels:
        return weights
    previous_channels = first_layer.shape[1]
    padding = (0, channels - previous_channels)
    for name in {f"{layer}.weight" for layer in INPUT_LAYERS} & weights.keys():  # (W, C + masks, p, p)
        latents, masks = weights[name].tensor_split([previous_channels], dim=1)
        weights[name] = torch.cat([F.pad(latents, (0, 0, 0, 0, *padding)), masks], dim=1)
    for layer in OUTPUT_LAYERS:
        if f"{layer}.weight" in weights:  # (p p C, W) and (p p C,)
            for name, inner in ((f"{layer}.weight", (0, 0, *padding)), (f"{layer}.bias", padding)):
                by_channel = weights[name].unflatten(0, (patch_size**2, previous_channels))
                weights[name] = F.pad(by_channel, inner).flatten(0, 1)
    return weights
