"""Configurations and inputs that cannot work, refused by name."""

from typing import Any

from torch import Tensor

from dianjing.dit.embeddings import NUM_POOL_HEADS
from dianjing.dit.motion.control import MotionControl

TEMPORAL_ATTENTION_MODES = ("pixelwise", "full")  # of motion blocks


def check_transformer_config(
    *,
    heads: int,
    head_dim: int,
    hidden_size: int | None,
    text_dim_t5: int,
    max_regions: int,
    use_motion_blocks: bool,
    temporal_attention: str,
    motion_block_interval: int,
    num_layers: int,
    use_flow_field: bool,
    norm_type: str,
) -> None:
    """Raise ValueError for widths that do not go together, or motion blocks that there cannot be."""
    if norm_type != "layer_norm":
        raise ValueError(f"norm_type {norm_type!r} is unknown; only 'layer_norm' is")
    if temporal_attention not in TEMPORAL_ATTENTION_MODES:
        raise ValueError(
            f"temporal_attention is {temporal_attention!r}; there are {' and '.join(map(repr, TEMPORAL_ATTENTION_MODES))}"
        )
    if use_motion_blocks and not 1 <= motion_block_interval <= num_layers:
        raise ValueError(
            f"motion_block_interval is {motion_block_interval}; of {num_layers} layers it is 1 to {num_layers}"
        )
    if hidden_size not in (None, heads * head_dim):
        raise ValueError(
            f"hidden_size {hidden_size} is not num_attention_heads {heads} x attention_head_dim {head_dim};"
            f" leave it out or give {heads * head_dim}"
        )
    if max_regions and not use_motion_blocks:
        raise ValueError(f"max_regions {max_regions} needs use_motion_blocks: a click moves something")
    if use_flow_field and not max_regions:
        raise ValueError("use_flow_field needs max_regions: clicks bring a first frame")
    if head_dim % 4:
        raise ValueError(f"attention_head_dim {head_dim} is not a multiple of 4; RoPE turns pairs on two axes")
    if text_dim_t5 % NUM_POOL_HEADS:
        raise ValueError(
            f"cross_attention_dim_t5 {text_dim_t5} is not a multiple of the {NUM_POOL_HEADS} pooling heads"
        )


def to_video_latents(latents: Tensor) -> Tensor:
    """Latents (B, C, F, Y, X) of these, or of a picture's (B, C, Y, X)."""
    if latents.ndim not in (4, 5):
        raise ValueError(f"latents of shape {tuple(latents.shape)}; this model takes (B, C, Y, X) or (B, C, F, Y, X)")
    return latents.unsqueeze(2) if latents.ndim == 4 else latents


def check_video_inputs(config: Any, num_frames: int, motion_control: MotionControl | None, *, batch_size: int) -> None:
    """Raise ValueError for frames or a click that a model of this configuration was not trained for."""
    if motion_control is not None:
        _check_motion_control(
            motion_control, batch_size=batch_size, num_frames=num_frames, max_regions=config.max_regions
        )
    if num_frames > 1 and not config.use_motion_blocks:
        raise ValueError(f"{num_frames} frames; this model draws pictures, use one with use_motion_blocks")


def _check_motion_control(motion_control: MotionControl, *, batch_size: int, num_frames: int, max_regions: int) -> None:
    if not max_regions:
        raise ValueError("this model was trained without clicks; use one whose configuration has max_regions")
    if motion_control.masks.shape[1] != max_regions:
        raise ValueError(
            f"a click with {motion_control.masks.shape[1]} regions; this model takes {max_regions}, empty ones without a phrase"
        )
    if len(motion_control.masks) != batch_size:
        raise ValueError(f"clicks for {len(motion_control.masks)} clips, but latents of {batch_size}")
    if num_frames < 2:
        raise ValueError("a click moves something, which takes at least 2 frames")
    if motion_control.warp is not None and motion_control.warp.frames.shape[1] != num_frames:
        raise ValueError(
            f"a click with {motion_control.warp.frames.shape[1]} moved frames, but latents of {num_frames}"
        )
