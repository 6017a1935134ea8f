"""DiT: the Hunyuan-DiT backbone.

S steps, B batch, F frames, N image tokens, L text tokens, D width, H heads, E head width;
latents are B C F Y X or B C Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.attention import KeyValue
from dianjing.dit.block import DiTBlock, Prepared, ScaleShiftNorm
from dianjing.dit.condition import Condition
from dianjing.dit.embeddings import PatchEmbed, Projection, TimeExtraEmbedding
from dianjing.dit.offload import onloaded
from dianjing.dit.rope import rotation_from_pairs, rotation_table

ROPE_SIDE = 64  # latents along a side of the 512 px picture whose grid defines the positions
KEY_MULTIPLE = 16  # CPU attention in bfloat16 is several times slower over other numbers of keys


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What the blocks take besides the tokens, either as it comes or prepared."""

    temb: Tensor | None  # (B, D)
    text: Tensor | None  # (B, L, T)
    prepared: Sequence[Prepared | None]
    mask: Tensor | None  # (1, 1, 1, L)
    rotation: Tensor  # (N, E/2, 2)
    scale_shift: Tensor  # (B, 2D)


def one_frame(latents: Tensor) -> Tensor:
    """Latents (B, C, Y, X) of latents (B, C, Y, X) or (B, C, 1, Y, X)."""
    if latents.ndim == 4:
        return latents
    if latents.ndim != 5 or latents.shape[2] != 1:
        raise ValueError(f"latents of shape {tuple(latents.shape)}; this model takes (B, C, Y, X) or (B, C, 1, Y, X)")
    return latents.squeeze(2)


class DiT(ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, CacheMixin):
    """Latents, time and text to the prediction: noise or velocity, (B, C, Y, X) or (B, C, F, Y, X).

    Parameter names and configuration keys are those of diffusers' `HunyuanDiT2DModel`, so
    published weights load as they are. `hidden_size` None means heads x head width.

    Raises: ValueError for a configuration that cannot work.
    Source: Hunyuan-DiT (arXiv 2405.08748).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DiTBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["DiTBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["pos_embed", "norm", "pooler"]
    _cp_plan: ClassVar[dict] = {
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3)},
        "blocks.*": {"turns": ContextParallelInput(split_dim=0)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        in_channels: int = 4,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        sample_size: int = 32,
        hidden_size: int | None = None,
        num_layers: int = 28,
        mlp_ratio: float = 4.0,
        learn_sigma: bool = True,
        cross_attention_dim: int = 1024,
        norm_type: str = "layer_norm",
        cross_attention_dim_t5: int = 2048,
        pooled_projection_dim: int = 1024,
        text_len: int = 77,
        text_len_t5: int = 256,
        use_style_cond_and_image_meta_size: bool = True,
    ):
        super().__init__()
        width = num_attention_heads * attention_head_dim
        if hidden_size not in (None, width):
            raise ValueError(
                f"hidden_size {hidden_size} is not num_attention_heads {num_attention_heads} x "
                f"attention_head_dim {attention_head_dim}; leave it out or give {width}"
            )
        if attention_head_dim % 4:
            raise ValueError(
                f"attention_head_dim {attention_head_dim} is not a multiple of 4; RoPE turns pairs on two axes"
            )
        if norm_type != "layer_norm":
            raise ValueError(f"norm_type {norm_type!r} is unknown; only 'layer_norm' is")
        self.register_to_config(hidden_size=width)
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.text_embedder = Projection(cross_attention_dim_t5, 4 * cross_attention_dim_t5, cross_attention_dim)
        self.text_embedding_padding = nn.Parameter(torch.randn(text_len + text_len_t5, cross_attention_dim))
        self.pos_embed = PatchEmbed(in_channels, width, patch_size)
        self.time_extra_emb = TimeExtraEmbedding(
            width,
            pooled_dim=pooled_projection_dim,
            num_text_tokens=text_len_t5,
            text_dim=cross_attention_dim_t5,
            with_size=use_style_cond_and_image_meta_size,
        )
        self.blocks = nn.ModuleList(
            DiTBlock(
                width,
                heads=num_attention_heads,
                head_dim=attention_head_dim,
                text_dim=cross_attention_dim,
                hidden_dim=int(width * mlp_ratio),
                activation=activation_fn,
                with_skip=layer > num_layers // 2,
            )
            for layer in range(num_layers)
        )
        self.norm_out = ScaleShiftNorm(width)
        self.proj_out = nn.Linear(width, patch_size**2 * self.out_channels)
        self.gradient_checkpointing = False

    def condition(
        self,
        timesteps: Tensor,
        *,
        encoder_hidden_states: Tensor,
        text_embedding_mask: Tensor | None = None,
        encoder_hidden_states_t5: Tensor,
        text_embedding_mask_t5: Tensor | None = None,
        size: tuple[int, int],
        image_meta_size: Tensor | None = None,
        style: Tensor | None = None,
    ) -> Condition:
        """Compute once what the latents do not change; good until the weights change.

        timesteps (S,) of the whole schedule; text states (B, L, T) of both encoders with masks
        (B, L), 1 for text; size (height, width) in latents; image_meta_size (B, 6) in px and
        style (B,) where the model was trained with them.

        Raises: ValueError for a size the patches do not fill, or an image size or style left out.
        """
        rows, columns = self._grid(*size)
        text_t5 = encoder_hidden_states_t5
        prepared = []
        with onloaded(self):
            text, mask = self._text(encoder_hidden_states, text_embedding_mask, text_t5, text_embedding_mask_t5)
            temb = self.time_extra_emb(timesteps.unsqueeze(-1), text_t5, image_meta_size, style)  # (S, B, D)
            for block in self.blocks:
                with onloaded(block):
                    prepared.append(block.prepare(temb, text))
            return Condition(
                keys=tuple(each.key_value.key for each in prepared),
                values=tuple(each.key_value.value for each in prepared),
                mask=mask,
                shifts=torch.stack([each.shift for each in prepared], dim=1),
                scale_shift=self.norm_out.scale_shift(temb),
                rotation=self._rotation(rows, columns, device=text.device),
            )

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        text_embedding_mask: Tensor | None = None,
        encoder_hidden_states_t5: Tensor | None = None,
        text_embedding_mask_t5: Tensor | None = None,
        image_meta_size: Tensor | None = None,
        style: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        return_dict: bool = True,
        condition: Condition | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict from the latents `hidden_states`, (B, C, Y, X) or (B, C, 1, Y, X), in their shape.

        Either with what diffusers' `HunyuanDiT2DModel` takes: timestep (B,), text states (B, L, T)
        and their masks (B, L); `image_rotary_emb` (cosine, sine), each (N, E), replaces our own
        positions. Or with one step of what `condition` computed: `condition.at(step)`.

        Raises: ValueError for latents, residuals or a condition that do not fit.
        """
        latents = one_frame(hidden_states)
        rows, columns = self._grid(*latents.shape[-2:])
        if condition is not None:
            guide = self._guide_from_condition(condition, latents)
        elif timestep is None or encoder_hidden_states is None or encoder_hidden_states_t5 is None:
            raise ValueError("give either `condition`, or `timestep` and the text states of both encoders")
        else:
            text, mask = self._text(
                encoder_hidden_states, text_embedding_mask, encoder_hidden_states_t5, text_embedding_mask_t5
            )
            temb = self.time_extra_emb(timestep.expand(len(latents)), encoder_hidden_states_t5, image_meta_size, style)
            guide = Guide(
                temb=temb,
                text=text,
                prepared=[None] * len(self.blocks),
                mask=mask,
                rotation=self._rotation(rows, columns, device=latents.device)
                if image_rotary_emb is None
                else rotation_from_pairs(*image_rotary_emb).to(latents.device),
                scale_shift=self.norm_out.scale_shift(temb),
            )
        tokens = self._run_blocks(self.pos_embed(latents), guide, controlnet_block_samples)  # (B, N, D)
        tokens = self.proj_out(self.norm_out(tokens, guide.scale_shift))
        patch = self.config.patch_size
        sample = rearrange(tokens, "b (y x) (p q c) -> b c (y p) (x q)", y=rows, p=patch, q=patch)
        sample = sample.reshape(len(latents), self.out_channels, *hidden_states.shape[2:])
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _guide_from_condition(self, condition: Condition, latents: Tensor) -> Guide:
        if condition.num_steps != 1:
            raise ValueError(f"a condition of {condition.num_steps} steps; pick one with condition.at(step)")
        if condition.batch_size != len(latents):
            raise ValueError(f"{len(latents)} latents for a condition of {condition.batch_size} prompts")
        parts = zip(condition.shifts[0], condition.keys, condition.values, strict=True)
        return Guide(
            temb=None,
            text=None,
            prepared=[Prepared(shift, KeyValue(key, value)) for shift, key, value in parts],
            mask=condition.mask,
            rotation=condition.rotation,
            scale_shift=condition.scale_shift[0],
        )

    def _run_blocks(self, tokens: Tensor, guide: Guide, residuals: Sequence[Tensor] | None) -> Tensor:
        num_skips = (len(self.blocks) - 1) // 2
        if residuals is not None and len(residuals) != num_skips:
            raise ValueError(f"{len(residuals)} ControlNet residuals for {num_skips} skip connections")
        turns = guide.rotation.unsqueeze(1)  # (N, 1, E/2, 2)
        if self._eager:
            turns = torch.view_as_complex(turns)  # (N, 1, E/2)
        skips: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            skip = None
            if layer > len(self.blocks) // 2:
                skip = skips.pop()
                if residuals is not None:
                    skip = skip + residuals[len(skips)]
            inputs = (tokens, guide.temb, guide.text, turns, guide.mask, skip, guide.prepared[layer])
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, *inputs)
            else:
                tokens = block(*inputs)
            if layer < num_skips:
                skips.append(tokens)
        return tokens

    @property
    def _eager(self) -> bool:
        return not torch.compiler.is_compiling() and self.blocks[0]._compiled_call_impl is None

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"latents of {height} x {width} are not multiples of the patch size {patch}")
        return height // patch, width // patch

    def _rotation(self, rows: int, columns: int, *, device: torch.device) -> Tensor:
        head_dim, base = self.config.attention_head_dim, ROPE_SIDE // self.config.patch_size
        return rotation_table(rows, columns, head_dim=head_dim, base=base, device=device)

    def _text(
        self, text: Tensor, mask: Tensor | None, text_t5: Tensor, mask_t5: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Both texts in one row (B, L, T), absent tokens learned, and the mask of what fills it up."""
        states = torch.cat([text, self.text_embedder(text_t5)], dim=1)
        if mask is not None and mask_t5 is not None:
            present = torch.cat([mask, mask_t5], dim=1).bool().unsqueeze(-1)
            states = torch.where(present, states, self.text_embedding_padding.to(states.dtype))
        filling = -states.shape[1] % KEY_MULTIPLE
        if states.device.type != "cpu" or not filling:
            return states, None
        key_mask = states.new_zeros(1, 1, 1, states.shape[1] + filling)
        key_mask[..., -filling:] = -torch.inf
        return F.pad(states, (0, 0, 0, filling)), key_mask
