"""DiT: the Hunyuan-DiT backbone.

S steps, B batch, F frames, N image tokens, L text tokens, D width, H heads, E head width, T text width;
latents are B C F Y X or B C Y X.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks import TaylorSeerCacheConfig
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.blocks import AdaLayerNormContinuous, DiTBlock, MotionBlock
from dianjing.dit.conditioning import Conditioning, Guide, guide_from_condition, pad_text_tokens
from dianjing.dit.config_checks import check_transformer_config, check_video_inputs, to_video_latents
from dianjing.dit.embeddings import MLP, PatchEmbed, TimeExtraEmbedding
from dianjing.dit.fused_cpu import can_run_fused, fuse_blocks, fused_forward
from dianjing.dit.motion.control import MotionConditioner, MotionControl
from dianjing.dit.motion.flow_field import FlowField
from dianjing.dit.motion.video_conditioning import VideoConditioning, make_video_conditioning
from dianjing.dit.motion.warp_guidance import WarpGuidance
from dianjing.dit.offload import onloaded
from dianjing.dit.rope import rope_1d, rope_2d, rope_3d, rotary_table_from_cos_sin

ZERO_INIT_TYPES = (MotionBlock, MotionConditioner, FlowField, WarpGuidance)
ROPE_BASE_SIZE = 64  # latents along a side of the 512 px picture whose grid defines the positions


class DiT(ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, CacheMixin):
    """Latents, time and text to the prediction, noise or velocity: (B, C, Y, X) or (B, C, F, Y, X).

    Parameter names and configuration keys are those of diffusers' `HunyuanDiT2DModel`, so
    published weights load as they are. `hidden_size` may be left out: it is heads x head width.
    `use_motion_blocks` adds time, `max_regions` clicks; a picture is drawn as without them. `motion_span` says how far
    a place sees over time: "place", itself in all frames, or "picture", every place in all frames;
    `motion_every`, how many layers there are to each motion block.
    `use_motion_field` lets clicks move the first frame itself, which frames take over.

    Raises: ValueError for a configuration that cannot work.
    Source: Hunyuan-DiT (arXiv 2405.08748).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DiTBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["DiTBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["pos_embed", "norm", "pooler"]
    _cp_plan: ClassVar[dict] = {
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3)},
        "blocks.*": {"rotary_emb": ContextParallelInput(split_dim=0)},
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
        use_motion_blocks: bool = False,
        max_regions: int = 0,
        temporal_attention: str = "pixelwise",
        motion_block_interval: int = 1,
        use_flow_field: bool = False,
    ):
        super().__init__()
        heads, head_dim, text_dim_t5 = num_attention_heads, attention_head_dim, cross_attention_dim_t5
        check_transformer_config(
            heads=heads,
            head_dim=head_dim,
            hidden_size=hidden_size,
            text_dim_t5=text_dim_t5,
            max_regions=max_regions,
            use_motion_blocks=use_motion_blocks,
            temporal_attention=temporal_attention,
            motion_block_interval=motion_block_interval,
            num_layers=num_layers,
            use_flow_field=use_flow_field,
        )
        if norm_type != "layer_norm":
            raise ValueError(f"norm_type {norm_type!r} is unknown; only 'layer_norm' is")
        width = heads * head_dim
        self.register_to_config(hidden_size=width)
        self.inner_dim, self.num_heads = width, heads  # read by diffusers' pipelines
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.gradient_checkpointing = False

        self.text_embedder = MLP(text_dim_t5, 4 * text_dim_t5, cross_attention_dim)
        self.text_embedding_padding = nn.Parameter(torch.randn(text_len + text_len_t5, cross_attention_dim))
        self.pos_embed = PatchEmbed(in_channels, width, patch_size)
        pool = {"pooled_dim": pooled_projection_dim, "num_text_tokens": text_len_t5, "text_dim": text_dim_t5}
        with_size = use_style_cond_and_image_meta_size
        self.time_extra_emb = TimeExtraEmbedding(width, **pool, use_size_and_style=with_size)
        self.blocks = nn.ModuleList(
            DiTBlock(
                width,
                heads=heads,
                head_dim=head_dim,
                text_dim=cross_attention_dim,
                hidden_dim=int(width * mlp_ratio),
                activation=activation_fn,
                has_skip=layer > num_layers // 2,
            )
            for layer in range(num_layers)
        )
        self.motion_blocks: nn.ModuleList | None = None
        self.motion_conditioner: MotionConditioner | None = None
        if use_motion_blocks:
            self.motion_blocks = nn.ModuleList(
                MotionBlock(
                    width,
                    heads=heads,
                    head_dim=head_dim,
                    text_dim=cross_attention_dim,
                    hidden_dim=int(width * mlp_ratio),
                    activation=activation_fn,
                )
                for _ in range(num_layers // motion_block_interval)
            )
        if max_regions:
            sizes = {"width": width, "text_dim": cross_attention_dim, "patch_size": patch_size, "channels": in_channels}
            self.motion_conditioner = MotionConditioner(max_regions=max_regions, use_flow_field=use_flow_field, **sizes)
        self.norm_out = AdaLayerNormContinuous(width)
        self.proj_out = nn.Linear(width, patch_size**2 * self.out_channels)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As diffusers'; a picture model becomes one for film with `use_motion_blocks=True`, its new parts at zero."""
        if not kwargs.get("use_motion_blocks"):
            return super().from_pretrained(*args, **kwargs)
        # diffusers names what the checkpoint lacks, and leaves it without values
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, **{"low_cpu_mem_usage": False, **kwargs}, output_loading_info=True)
        missing = set(info["missing_keys"])
        for name, part in model.named_modules():
            if isinstance(part, ZERO_INIT_TYPES) and missing.issuperset(f"{name}.{key}" for key in part.state_dict()):
                part.zero_init()
        return (model, info) if wants_info else model

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
        """Compute once what the latents do not change; good until the weights change.

        timesteps (S,) of the whole schedule; text states (B, L, T) of both encoders with masks
        (B, L), 1 for text; size (height, width) in latents; image_meta_size (B, 6) in px and
        style (B,) where the model was trained with them.

        Raises: ValueError for a size the patches do not fill, or an image size or style left out.
        """
        rows, columns = self._get_token_grid(*latent_size)
        texts = (encoder_hidden_states, text_embedding_mask, encoder_hidden_states_t5, text_embedding_mask_t5)
        prepared = []
        with onloaded(self):
            check_video_inputs(self.config, num_frames, motion_control, batch_size=len(encoder_hidden_states))
            text, mask, temb = self._embed_text_and_time(
                timesteps.unsqueeze(-1), *texts, image_meta_size, style, motion_control
            )
            film = self._make_video_conditioning(num_frames, motion_control, text, mask, grid=(rows, columns))
            for block in self.blocks:
                with onloaded(block):
                    prepared.append(block.precompute(temb, text))
            scale_shift = self.norm_out.compute_scale_shift(temb)  # (S, B, 2D)
        return Conditioning(
            text_keys=tuple(each.key_value.key for each in prepared),
            text_values=tuple(each.key_value.value for each in prepared),
            attention_mask=mask,
            shifts=torch.stack([each.shift for each in prepared], dim=1),
            scale_shift=scale_shift,
            rotary_table=self.get_rotary_table(rows, columns, device=text.device),
            latent_size=latent_size,
            fused_blocks=fuse_blocks(self.blocks) if can_run_fused(text) else None,
            video=film,
            blend_coefficients=None
            if self.motion_conditioner is None
            else self.motion_conditioner.compute_blend_coefficients(timesteps),
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
        conditioning: Conditioning | None = None,
        motion_control: MotionControl | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict from the latents `hidden_states`, (B, C, Y, X) or (B, C, F, Y, X), in their shape.

        Either with what diffusers' `HunyuanDiT2DModel` takes: timestep (B,), text states (B, L, T)
        and their masks (B, L); `image_rotary_emb` (cosine, sine), each (N, E), replaces our own
        positions; and for film, with `click`. Or with one step of what `condition` computed:
        `condition.at(step)`.

        Raises: ValueError for latents, residuals or a condition that do not fit.
        """
        latents = to_video_latents(hidden_states)
        batch_size, num_frames = len(latents), latents.shape[2]
        rows, columns = self._get_token_grid(*latents.shape[-2:])
        if conditioning is not None:
            guide = guide_from_condition(conditioning, latents)
        elif timestep is None:
            raise ValueError("give either `condition`, or `timestep` and the text states of both encoders")
        else:
            texts = (encoder_hidden_states, text_embedding_mask, encoder_hidden_states_t5, text_embedding_mask_t5)
            check_video_inputs(self.config, num_frames, motion_control, batch_size=batch_size)
            text, mask, temb = self._embed_text_and_time(
                timestep.expand(batch_size), *texts, image_meta_size, style, motion_control
            )
            film = self._make_video_conditioning(num_frames, motion_control, text, mask, grid=(rows, columns))
            if image_rotary_emb is None:
                rotation = self.get_rotary_table(rows, columns, device=latents.device)
            else:
                rotation = rotary_table_from_cos_sin(*image_rotary_emb, device=latents.device)
            scale_shift = self.norm_out.compute_scale_shift(temb)
            mix = (
                None
                if self.motion_conditioner is None
                else self.motion_conditioner.compute_blend_coefficients(timestep.expand(batch_size))
            )
            guide = Guide(
                temb=temb,
                text=text,
                attention_mask=mask,
                rotary_table=rotation,
                scale_shift=scale_shift,
                video=film,
                blend_coefficients=mix,
            )
        tokens = self.pos_embed(rearrange(latents, "b c f y x -> (b f) c y x"))  # (B F, N, D)
        if guide.video is not None and guide.video.token_bias is not None:
            tokens = tokens + guide.video.token_bias.flatten(0, 1)
        tokens = self._run_blocks(tokens, guide, controlnet_block_samples)
        tokens = self.norm_out(tokens, guide.scale_shift)
        patch = self.config.patch_size
        axes = {"y": rows, "p": patch, "q": patch, "f": num_frames}
        sample = rearrange(self.proj_out(tokens), "(b f) (y x) (p q c) -> b c f (y p) (x q)", **axes)
        if guide.video is not None and self.motion_conditioner is not None:
            sample = self.motion_conditioner.apply_warp_guidance(
                sample, latents, tokens, guide.video.warped_first_frame, guide.blend_coefficients
            )
        sample = sample.reshape(batch_size, self.out_channels, *hidden_states.shape[2:])
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def enable_cache(self, config) -> None:
        """As diffusers' `CacheMixin`: a cache over the steps, which trades a little quality for speed."""
        TransformerBlockRegistry.register(DiTBlock, TransformerBlockMetadata(return_hidden_states_index=0))
        if isinstance(config, TaylorSeerCacheConfig) and config.cache_identifiers is None:
            # its own default does not match the names attn1 and attn2, and would cache nothing
            config = replace(config, cache_identifiers=[r"blocks\.\d+\.attn[12]"])
        super().enable_cache(config)

    def _embed_text_and_time(
        self,
        timesteps: Tensor,
        text: Tensor | None,
        mask: Tensor | None,
        text_t5: Tensor | None,
        mask_t5: Tensor | None,
        image_meta_size: Tensor | None,
        style: Tensor | None,
        motion_control: MotionControl | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Both texts in one row (B, L, T) with absent tokens learned, its key mask, and the time (..., B, D)."""
        if text is None or text_t5 is None:
            raise ValueError("give the text states of both encoders")
        limits = (self.config.text_len, self.config.text_len_t5)
        if (text.shape[1], text_t5.shape[1]) != limits:
            raise ValueError(f"texts of {text.shape[1]} and {text_t5.shape[1]} tokens; this model takes {limits}")
        states = torch.cat([text, self.text_embedder(text_t5)], dim=1)
        if mask is not None and mask_t5 is not None:
            present = torch.cat([mask, mask_t5], dim=1).bool().unsqueeze(-1)
            states = torch.where(present, states, self.text_embedding_padding.to(states.dtype))
        temb = self.time_extra_emb(timesteps, text_t5, image_meta_size, style)
        return (
            *pad_text_tokens(states),
            temb
            if motion_control is None or self.motion_conditioner is None
            else temb + self.motion_conditioner.compute_timestep_bias(motion_control),
        )

    def _make_video_conditioning(
        self,
        num_frames: int,
        motion_control: MotionControl | None,
        text: Tensor,
        attention_mask: Tensor | None,
        *,
        grid: tuple[int, int],
    ) -> VideoConditioning | None:
        """What the frames share; None for a picture."""
        if num_frames == 1 or self.motion_blocks is None:
            return None
        head_dim, device = self.config.attention_head_dim, self.proj_out.weight.device
        if self.config.temporal_attention == "full":
            rotation = rope_3d(num_frames, *grid, head_dim=head_dim, device=device)
        else:
            rotation = rope_1d(num_frames, head_dim=head_dim, device=device)
        return make_video_conditioning(
            rotation,
            self.motion_blocks,
            self.motion_conditioner,
            motion_control,
            text=text,
            attention_mask=attention_mask,
        )

    def _run_blocks(self, tokens: Tensor, conditioning: Guide, residuals: Sequence[Tensor] | None) -> Tensor:
        num_skips = (len(self.blocks) - 1) // 2
        if residuals is not None and len(residuals) != num_skips:
            raise ValueError(f"{len(residuals)} ControlNet residuals for {num_skips} skip connections")
        frozen = conditioning.fused_blocks if can_run_fused(tokens) and not self.is_cache_enabled else None
        turns, film = self._to_rotary_emb(conditioning.rotary_table), conditioning.video
        frame_turns = None if film is None else self._to_rotary_emb(film.rotary_table)
        skips: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            skip = None
            if layer > len(self.blocks) // 2:
                skip = skips.pop()
                if residuals is not None:
                    skip = skip + residuals[len(skips)]
            prepared = conditioning.blocks and conditioning.blocks[layer]
            inputs = (tokens, conditioning.temb, conditioning.text, turns, conditioning.attention_mask, skip, prepared)
            if frozen and prepared:
                tokens = fused_forward(frozen[layer], tokens, prepared, turns, conditioning.attention_mask, skip)
            else:
                tokens = self._run_block(block, *inputs)
            motion, rest = divmod(layer + 1, self.config.motion_block_interval)
            if film is not None and self.motion_blocks is not None and rest == 0:
                inputs_of_film = (film.num_frames, frame_turns, film.text_kv[motion - 1], film.attention_mask)
                tokens = self._run_block(self.motion_blocks[motion - 1], tokens, *inputs_of_film)
            if layer < num_skips:
                skips.append(tokens)
        return tokens

    def _run_block(self, block: nn.Module, *inputs) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)

    def _to_rotary_emb(self, rotary_table: Tensor) -> Tensor:
        """(..., E/2, 2) for every head: (..., 1, E/2, 2), or (..., 1, E/2) as complex numbers."""
        turns = rotary_table.unsqueeze(-3)
        compiled = torch.compiler.is_compiling() or self.blocks[0]._compiled_call_impl is not None
        return turns if compiled else torch.view_as_complex(turns)

    def _get_token_grid(self, height: int, width: int) -> tuple[int, int]:
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"latents of {height} x {width} are not multiples of the patch size {patch}")
        return height // patch, width // patch

    def get_rotary_table(self, rows: int, columns: int, *, device: torch.device) -> Tensor:
        """Positions of a grid of rows x columns tokens, (N, E/2, 2)."""
        head_dim, base = self.config.attention_head_dim, ROPE_BASE_SIZE // self.config.patch_size
        return rope_2d(rows, columns, head_dim=head_dim, base_size=base, device=device)
