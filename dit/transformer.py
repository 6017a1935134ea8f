"""DiT: the Hunyuan-DiT backbone, extended to video.

S steps, B batch, F frames, N image tokens, L text tokens, D width, H heads, E head width, T text width;
latents are B C F Y X or B C Y X.
"""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.attention import DiTAttnProcessor
from dianjing.dit.blocks import AdaLayerNormContinuous, DiTBlock, MotionBlock
from dianjing.dit.conditioning import Conditioning
from dianjing.dit.config_checks import check_transformer_config, to_video_latents
from dianjing.dit.embeddings import MLP, PatchEmbed, TimeExtraEmbedding
from dianjing.dit.feed_forward import ForwardChunkingMixin
from dianjing.dit.fused_cpu import can_run_fused, fused_forward
from dianjing.dit.motion.control import MotionConditioner, MotionControl
from dianjing.dit.motion.flow_field import FlowField
from dianjing.dit.motion.warp_guidance import WarpGuidance
from dianjing.dit.precompute import PrecomputeMixin
from dianjing.dit.rope import to_rotary_emb
from dianjing.dit.step_cache import StepCacheMixin, register_blocks
from dianjing.errors import DianjingError

VIDEO_CONFIG_NAMES = {
    "max_regions",
    "motion_block_interval",
    "temporal_attention",
    "use_flow_field",
    "use_motion_blocks",
}
ZERO_INIT_TYPES = (MotionBlock, MotionConditioner, FlowField, WarpGuidance)


class DiT(
    ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, ForwardChunkingMixin, StepCacheMixin, PrecomputeMixin
):
    """Predict noise or velocity from noisy latents (B, C, Y, X) or (B, C, F, Y, X), timestep and text.

    Parameter names and configuration keys are those of diffusers' `HunyuanDiT2DModel`, so that published weights load
    unchanged. hidden_size may be left out: it is num_attention_heads * attention_head_dim. Videos take these keys more:
    use_motion_blocks adds a motion block after every `motion_block_interval` layers; a single frame does not pass them.
    temporal_attention of motion blocks is "pixelwise" (each image token attends to itself in all frames) or "full" (to
    all tokens of all frames). max_regions adds motion control of that many regions; use_flow_field warps the first
    frame by a predicted flow and guides the prediction towards it.

    Raises: DianjingError for a configuration that cannot work.
    Source: Hunyuan-DiT (arXiv 2405.08748).
    """

    __module__ = "dianjing.dit"  # where it is imported from; diffusers takes a module inside `dit` for its own DiT
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
        register_blocks()
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
            norm_type=norm_type,
        )
        width = heads * head_dim
        self.register_to_config(hidden_size=width)
        self.inner_dim, self.num_heads = width, heads  # read by diffusers' pipelines
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.gradient_checkpointing = False

        self.text_embedder = MLP(text_dim_t5, 4 * text_dim_t5, cross_attention_dim)
        self.text_embedding_padding = nn.Parameter(torch.randn(text_len + text_len_t5, cross_attention_dim))
        self.pos_embed = PatchEmbed(in_channels, width, patch_size)
        self.time_extra_emb = TimeExtraEmbedding(
            width,
            pooled_dim=pooled_projection_dim,
            num_text_tokens=text_len_t5,
            text_dim=text_dim_t5,
            use_size_and_style=use_style_cond_and_image_meta_size,
        )
        block_sizes: dict[str, Any] = {
            "width": width,
            "heads": heads,
            "head_dim": head_dim,
            "text_dim": cross_attention_dim,
            "hidden_dim": int(width * mlp_ratio),
            "activation": activation_fn,
        }
        self.blocks = nn.ModuleList(
            DiTBlock(**block_sizes, has_skip=layer > num_layers // 2) for layer in range(num_layers)
        )
        self.motion_blocks: nn.ModuleList | None = None
        self.motion_conditioner: MotionConditioner | None = None
        if use_motion_blocks:
            num_motion_blocks = num_layers // motion_block_interval
            self.motion_blocks = nn.ModuleList(MotionBlock(**block_sizes) for _ in range(num_motion_blocks))
        if max_regions:
            self.motion_conditioner = MotionConditioner(
                channels=in_channels,
                max_regions=max_regions,
                width=width,
                text_dim=cross_attention_dim,
                patch_size=patch_size,
                use_flow_field=use_flow_field,
            )
        self.norm_out = AdaLayerNormContinuous(width)
        self.proj_out = nn.Linear(width, patch_size**2 * self.out_channels)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load a model as diffusers does; an image model with `use_motion_blocks=True` becomes a video model.

        Parts that the checkpoint lacks are zero-initialized, so that each frame is the image model's prediction.
        """
        if not kwargs.get("use_motion_blocks"):
            return super().from_pretrained(*args, **kwargs)
        # diffusers lists parameters that the checkpoint lacks, and leaves them uninitialized
        return_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, **{"low_cpu_mem_usage": False, **kwargs}, output_loading_info=True)
        missing = set(info["missing_keys"])
        for name, part in model.named_modules():
            if isinstance(part, ZERO_INIT_TYPES) and missing.issuperset(f"{name}.{key}" for key in part.state_dict()):
                part.zero_init()
        return (model, info) if return_info else model

    def set_default_attn_processor(self) -> None:
        """Compute attention with `DiTAttnProcessor` again, in place of custom processors."""
        self.set_attn_processor(DiTAttnProcessor())

    def save_config(self, save_directory: str | PathLike, **options: Any) -> None:
        """Write config.json; that of an image model has the keys of diffusers' `HunyuanDiT2DModel` alone."""
        super().save_config(save_directory, **options)
        if not self.config.use_motion_blocks:
            path = Path(save_directory) / self.config_name
            config = json.loads(path.read_text(encoding="utf-8"))
            image_config = {name: value for name, value in config.items() if name not in VIDEO_CONFIG_NAMES}
            path.write_text(json.dumps(image_config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

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
        """Predict from the latents `hidden_states`, (B, C, Y, X) or (B, C, F, Y, X); the sample has their shape.

        Takes one step of a precomputed `conditioning`, see `Conditioning.select_step`; or else the arguments of
        diffusers' `HunyuanDiT2DModel`, timestep (B,), text states (B, L, T) and their masks (B, L), and motion_control
        for a video. image_rotary_emb: cosine and sine, each (N, E), in place of our own positions.
        controlnet_block_samples: a residual (B, N, D) for each skip connection.

        Raises: DianjingError for latents, residuals or a conditioning that do not fit.
        """
        latents = to_video_latents(hidden_states)
        batch_size, num_frames = len(latents), latents.shape[2]
        rows, _ = self._get_token_grid(*latents.shape[-2:])
        if conditioning is not None:
            conditioning.check_latents(latents)
        elif timestep is None:
            raise DianjingError("conditioning_or_timestep_missing")
        else:
            conditioning = self._embed_conditions(
                timestep.expand(batch_size).unsqueeze(0),
                (encoder_hidden_states, text_embedding_mask, encoder_hidden_states_t5, text_embedding_mask_t5),
                latent_size=(latents.shape[-2], latents.shape[-1]),
                num_frames=num_frames,
                image_meta_size=image_meta_size,
                style=style,
                motion_control=motion_control,
                image_rotary_emb=image_rotary_emb,
            )
        video, patch = conditioning.video, self.config.patch_size
        tokens = self.pos_embed(rearrange(latents, "b c f y x -> (b f) c y x"))  # (B F, N, D)
        if video is not None and video.token_bias is not None:
            tokens = tokens + video.token_bias.flatten(0, 1)
        tokens = self._run_blocks(tokens, conditioning, controlnet_block_samples)
        tokens = self.norm_out(tokens, conditioning.scale_shift[0])
        axes = {"y": rows, "p": patch, "q": patch, "f": num_frames}
        sample = rearrange(self.proj_out(tokens), "(b f) (y x) (p q c) -> b c f (y p) (x q)", **axes)
        if video is not None and self.motion_conditioner is not None:
            sample = self.motion_conditioner.apply_warp_guidance(
                sample, latents, tokens, video.warped_first_frame, conditioning.blend_coefficients
            )
        sample = sample.reshape(batch_size, self.out_channels, *hidden_states.shape[2:])
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _run_blocks(self, tokens: Tensor, conditioning: Conditioning, residuals: Sequence[Tensor] | None) -> Tensor:
        """Run all blocks on tokens (B F, N, D); residuals of a ControlNet are added to the skip connections."""
        num_skips = (len(self.blocks) - 1) // 2
        if residuals is not None and len(residuals) != num_skips:
            raise DianjingError("residual_count_mismatch", num_residuals=len(residuals), num_skips=num_skips)
        fused_blocks = conditioning.fused_blocks if can_run_fused(tokens) and not self.is_cache_enabled else None
        is_compiled = torch.compiler.is_compiling() or self.blocks[0]._compiled_call_impl is not None
        rotary_emb = to_rotary_emb(conditioning.rotary_table, as_complex=not is_compiled)
        video, mask = conditioning.video, conditioning.attention_mask
        video_rotary_emb = None if video is None else to_rotary_emb(video.rotary_table, as_complex=not is_compiled)
        temb = None if conditioning.temb is None else conditioning.temb[0]
        skips: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            skip = None
            if layer > len(self.blocks) // 2:
                skip = skips.pop()
                if residuals is not None:
                    skip = skip + residuals[len(skips)]
            precomputed = conditioning.get_block_conditioning(layer)
            if fused_blocks and precomputed:
                tokens = fused_forward(fused_blocks[layer], tokens, precomputed, rotary_emb, mask, skip)
            else:
                inputs = (tokens, temb, conditioning.text, rotary_emb, mask, skip, precomputed)
                tokens = self._run_block(block, *inputs)
            motion, rest = divmod(layer + 1, self.config.motion_block_interval)
            if video is not None and self.motion_blocks is not None and rest == 0:
                motion_block, text_kv = self.motion_blocks[motion - 1], video.text_kv[motion - 1]
                motion_inputs = (video.num_frames, video_rotary_emb, text_kv, video.attention_mask)
                tokens = self._run_block(motion_block, tokens, *motion_inputs)
            if layer < num_skips:
                skips.append(tokens)
        return tokens

    def _run_block(self, block: nn.Module, *inputs) -> Tensor:
        """Run one block, with gradient checkpointing where that is on."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)
