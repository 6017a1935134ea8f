"""Precomputation: the part of `DiT` that turns prompts, time, sizes and motion control into a `Conditioning`.

S steps, B batch, F frames, N image tokens, L text tokens, D width, E head width, T text width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dianjing.dit.blocks import AdaLayerNormContinuous
from dianjing.dit.conditioning import Conditioning, pad_text_tokens
from dianjing.dit.config_checks import check_video_inputs
from dianjing.dit.embeddings import MLP, TimeExtraEmbedding
from dianjing.dit.fused_cpu import can_run_fused, fuse_blocks
from dianjing.dit.motion.control import MotionConditioner, MotionControl
from dianjing.dit.motion.video_conditioning import VideoConditioning, make_video_conditioning
from dianjing.dit.offload import onloaded
from dianjing.dit.rope import rope_1d, rope_2d, rope_3d, rotary_table_from_cos_sin
from dianjing.errors import DianjingError

ROPE_BASE_SIZE = 64  # latents along a side of the 512 px image whose grid defines the positions


class PrecomputeMixin:
    """Methods of `DiT` that compute whatever does not depend on the latents."""

    config: Any
    text_embedder: MLP
    text_embedding_padding: nn.Parameter
    time_extra_emb: TimeExtraEmbedding
    blocks: nn.ModuleList
    motion_blocks: nn.ModuleList | None
    motion_conditioner: MotionConditioner | None
    norm_out: AdaLayerNormContinuous

    def compute_conditioning(
        self,
        timesteps: Tensor,
        *,
        encoder_hidden_states: Tensor,
        text_embedding_mask: Tensor | None = None,
        encoder_hidden_states_t5: Tensor,
        text_embedding_mask_t5: Tensor | None = None,
        latent_size: tuple[int, int],
        image_meta_size: Tensor | None = None,
        style: Tensor | None = None,
        num_frames: int = 1,
        motion_control: MotionControl | None = None,
    ) -> Conditioning:
        """Compute the conditioning of all steps of a schedule; it is valid until the weights change.

        timesteps: (S,). encoder_hidden_states and encoder_hidden_states_t5: text states (B, L, T) of both encoders,
        with masks (B, L), 1 for text. latent_size: height and width in latents. image_meta_size (B, 6) in px and style
        (B,): for models that were trained with them. motion_control: for videos, see `MotionControl`.

        Raises: DianjingError for a size that patches do not fill, image size or style left out, or motion control that
        does not fit.
        """
        texts = (encoder_hidden_states, text_embedding_mask, encoder_hidden_states_t5, text_embedding_mask_t5)
        with onloaded(cast(nn.Module, self)):
            conditioning = self._embed_conditions(
                timesteps.unsqueeze(-1),
                texts,
                latent_size=latent_size,
                num_frames=num_frames,
                image_meta_size=image_meta_size,
                style=style,
                motion_control=motion_control,
            )
            assert conditioning.temb is not None
            assert conditioning.text is not None
            per_block = []
            for block in self.blocks:
                with onloaded(block):
                    per_block.append(block.precompute(conditioning.temb, conditioning.text))
        return replace(
            conditioning,
            text=None,
            temb=None,
            text_keys=tuple(each.key_value.key for each in per_block),
            text_values=tuple(each.key_value.value for each in per_block),
            shifts=torch.stack([each.shift for each in per_block], dim=1),
            fused_blocks=fuse_blocks(self.blocks) if can_run_fused(conditioning.text) else None,
        )

    def get_rotary_table(self, rows: int, columns: int, *, device: torch.device) -> Tensor:
        """Return the rotary table (N, E/2, 2) of a grid of rows x columns image tokens."""
        base_size = ROPE_BASE_SIZE // self.config.patch_size
        return rope_2d(rows, columns, head_dim=self.config.attention_head_dim, base_size=base_size, device=device)

    def _embed_conditions(
        self,
        timesteps: Tensor,
        texts: Sequence[Tensor | None],
        *,
        latent_size: tuple[int, int],
        num_frames: int,
        image_meta_size: Tensor | None,
        style: Tensor | None,
        motion_control: MotionControl | None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Conditioning:
        """Compute all of a conditioning but what blocks make of text and time.

        timesteps: (S, 1), or (1, B) for one step with a timestep for each of the batch. texts: states and mask of the
        first encoder, states and mask of the second. image_rotary_emb: diffusers' positions instead of our own.
        """
        text_states, mask, text_states_t5, mask_t5 = texts
        if text_states is None or text_states_t5 is None:
            raise DianjingError("text_states_missing")
        grid = self._get_token_grid(*latent_size)
        check_video_inputs(self.config, num_frames, motion_control, batch_size=len(text_states))
        text, attention_mask = pad_text_tokens(self._embed_text(text_states, mask, text_states_t5, mask_t5))
        temb = self.time_extra_emb(timesteps, text_states_t5, image_meta_size, style)  # (S, B, D)
        blend_coefficients = None
        if self.motion_conditioner is not None:
            blend_coefficients = self.motion_conditioner.compute_blend_coefficients(timesteps.flatten())
            if motion_control is not None:
                temb = temb + self.motion_conditioner.compute_timestep_bias(motion_control)
        if image_rotary_emb is None:
            rotary_table = self.get_rotary_table(*grid, device=text.device)
        else:
            rotary_table = rotary_table_from_cos_sin(*image_rotary_emb, device=text.device)
        return Conditioning(
            text=text,
            temb=temb,
            attention_mask=attention_mask,
            scale_shift=self.norm_out.compute_scale_shift(temb),
            rotary_table=rotary_table,
            latent_size=latent_size,
            video=self._make_video_conditioning(num_frames, motion_control, text, attention_mask, grid=grid),
            blend_coefficients=blend_coefficients,
        )

    def _embed_text(self, text: Tensor, mask: Tensor | None, text_t5: Tensor, mask_t5: Tensor | None) -> Tensor:
        """Join the states of both encoders to text tokens (B, L, T); masked ones become learned padding."""
        lengths, expected = (text.shape[1], text_t5.shape[1]), (self.config.text_len, self.config.text_len_t5)
        if lengths != expected:
            raise DianjingError("text_lengths_mismatch", lengths=lengths, expected=expected)
        states = torch.cat([text, self.text_embedder(text_t5)], dim=1)
        if mask is None or mask_t5 is None:
            return states
        is_text = torch.cat([mask, mask_t5], dim=1).bool().unsqueeze(-1)
        return torch.where(is_text, states, self.text_embedding_padding.to(states.dtype))

    def _make_video_conditioning(
        self,
        num_frames: int,
        motion_control: MotionControl | None,
        text: Tensor,
        attention_mask: Tensor | None,
        *,
        grid: tuple[int, int],
    ) -> VideoConditioning | None:
        """Compute the conditioning of the motion blocks for a grid of image tokens; None for an image."""
        if num_frames == 1 or self.motion_blocks is None:
            return None
        head_dim = self.config.attention_head_dim
        if self.config.temporal_attention == "full":
            rotary_table = rope_3d(num_frames, *grid, head_dim=head_dim, device=text.device)
        else:
            rotary_table = rope_1d(num_frames, head_dim=head_dim, device=text.device)
        return make_video_conditioning(
            rotary_table,
            self.motion_blocks,
            self.motion_conditioner,
            motion_control,
            text=text,
            attention_mask=attention_mask,
        )

    def _get_token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of image tokens for latents of this size."""
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise DianjingError("latents_not_multiple_of_patch", height=height, width=width, patch_size=patch)
        return height // patch, width // patch
