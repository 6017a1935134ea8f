"""Checks of `DiT`'s configuration and inputs; every error says what was given and what is allowed."""

from typing import Any

from torch import Tensor

from dianjing.dit.embeddings import NUM_POOL_HEADS
from dianjing.dit.motion.control import MotionControl
from dianjing.errors import DianjingError

TEMPORAL_ATTENTION_MODES = ("pixelwise", "full")
NORM_TYPE = "layer_norm"  # the only one that Hunyuan-DiT has


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
    """Check that a configuration can work. Raises: DianjingError if not."""
    if norm_type != NORM_TYPE:
        raise DianjingError("norm_type_unknown", norm_type=norm_type, allowed=NORM_TYPE)
    if temporal_attention not in TEMPORAL_ATTENTION_MODES:
        raise DianjingError("temporal_attention_unknown", mode=temporal_attention, allowed=TEMPORAL_ATTENTION_MODES)
    if use_motion_blocks and not 1 <= motion_block_interval <= num_layers:
        raise DianjingError("motion_block_interval_out_of_range", interval=motion_block_interval, num_layers=num_layers)
    if hidden_size not in (None, heads * head_dim):
        raise DianjingError(
            "hidden_size_mismatch", hidden_size=hidden_size, heads=heads, head_dim=head_dim, expected=heads * head_dim
        )
    if max_regions and not use_motion_blocks:
        raise DianjingError("regions_need_motion_blocks", max_regions=max_regions)
    if use_flow_field and not max_regions:
        raise DianjingError("flow_field_needs_regions")
    if head_dim % 4:
        raise DianjingError("head_dim_not_multiple_of_4", head_dim=head_dim)
    if text_dim_t5 % NUM_POOL_HEADS:
        raise DianjingError("t5_width_not_divisible", width=text_dim_t5, num_heads=NUM_POOL_HEADS)


def to_video_latents(latents: Tensor) -> Tensor:
    """Return latents as (B, C, F, Y, X); those of an image (B, C, Y, X) become one frame.

    Raises: DianjingError for any other number of axes.
    """
    if latents.ndim not in (4, 5):
        raise DianjingError("latents_wrong_axes", shape=str(tuple(latents.shape)))
    return latents.unsqueeze(2) if latents.ndim == 4 else latents


def check_video_inputs(config: Any, num_frames: int, motion_control: MotionControl | None, *, batch_size: int) -> None:
    """Check that a model of this configuration takes these frames and this motion control.

    Raises: DianjingError if not.
    """
    if motion_control is not None:
        _check_motion_control(
            motion_control, batch_size=batch_size, num_frames=num_frames, max_regions=config.max_regions
        )
    if num_frames > 1 and not config.use_motion_blocks:
        raise DianjingError("frames_need_motion_blocks", num_frames=num_frames)


def _check_motion_control(motion_control: MotionControl, *, batch_size: int, num_frames: int, max_regions: int) -> None:
    """Check motion control against the model's regions, and the latents' batch size and frames."""
    num_clips, num_regions = motion_control.masks.shape[:2]
    if not max_regions:
        raise DianjingError("model_without_motion_control")
    if num_regions != max_regions:
        raise DianjingError("region_count_mismatch", num_regions=num_regions, max_regions=max_regions)
    if num_clips != batch_size:
        raise DianjingError("motion_control_batch_mismatch", num_clips=num_clips, batch_size=batch_size)
    if num_frames < 2:
        raise DianjingError("motion_control_needs_frames", num_frames=num_frames)
    if motion_control.warp is not None and motion_control.warp.frames.shape[1] != num_frames:
        raise DianjingError(
            "warp_frames_mismatch", warp_frames=motion_control.warp.frames.shape[1], num_frames=num_frames
        )
