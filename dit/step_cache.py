"""Caches over the steps: diffusers' own, fitted to a transformer with motion blocks, or refused with the reason.

A first-block cache decides at the first block whether the rest is computed. Motion blocks between the blocks follow
that decision: what they add is in the cached residual already.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    HookRegistry,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.hooks._helpers import (
    AttentionProcessorMetadata,
    AttentionProcessorRegistry,
    TransformerBlockMetadata,
    TransformerBlockRegistry,
)
from diffusers.hooks.first_block_cache import _FBC_BLOCK_HOOK, _FBC_LEADER_BLOCK_HOOK, FBCBlockHook
from diffusers.hooks.mag_cache import _MAG_CACHE_BLOCK_HOOK, _MAG_CACHE_LEADER_BLOCK_HOOK, MagCacheBlockHook
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from dianjing.dit.attention import DiTAttnProcessor
from dianjing.dit.blocks import DiTBlock, MotionBlock
from dianjing.errors import DianjingError, Message

SUPPORTED_CACHES = (FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig)
UNSUPPORTED_CACHES = {
    FasterCacheConfig: Message("cache_reason_attention"),
    SeaCacheConfig: Message("cache_reason_other_model"),
    TextKVCacheConfig: Message("cache_reason_text_precomputed"),
}
ATTENTION_PATTERN = r"blocks\.\d+\.attn[12]"
IMAGE_BLOCKS, MOTION_BLOCKS = ("^blocks",), ("^motion_blocks",)


def register_blocks() -> None:
    """Tell diffusers' caches and guiders what the blocks of `DiT` return, and its attention where it is skipped."""
    for cls in (DiTBlock, MotionBlock):
        TransformerBlockRegistry.register(cls, TransformerBlockMetadata(return_hidden_states_index=0))
    skipped = AttentionProcessorMetadata(skip_processor_output_fn=_return_hidden_states)
    AttentionProcessorRegistry.register(DiTAttnProcessor, skipped)


def _return_hidden_states(attention: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


class StepCacheMixin(CacheMixin):
    """`CacheMixin` of a transformer with `blocks` and `motion_blocks`."""

    config: Any
    blocks: nn.ModuleList
    motion_blocks: nn.ModuleList | None
    motion_conditioner: Any

    def enable_cache(self, config: Any) -> None:
        """Switch on a diffusers cache over the steps, which trades a little quality for speed.

        Raises: DianjingError for a cache that cannot work with this transformer.
        """
        self._check_cache(config)
        if isinstance(config, TaylorSeerCacheConfig) and config.cache_identifiers is None:
            # the default identifiers do not match the names attn1 and attn2, so nothing would be cached
            config = replace(config, cache_identifiers=[ATTENTION_PATTERN])
        if isinstance(config, PyramidAttentionBroadcastConfig):
            config = _name_temporal_attention(config)
        super().enable_cache(config)
        if isinstance(config, FirstBlockCacheConfig):
            state = self._get_hook(self.blocks[0], _FBC_LEADER_BLOCK_HOOK).state_manager
            self._hook_motion_blocks(_FBC_BLOCK_HOOK, lambda: FBCBlockHook(state))
        elif isinstance(config, MagCacheConfig):
            state = self._get_hook(self.blocks[0], _MAG_CACHE_LEADER_BLOCK_HOOK).state_manager
            self._hook_motion_blocks(_MAG_CACHE_BLOCK_HOOK, lambda: MagCacheBlockHook(state, config=config))

    def reset_cache(self) -> None:
        """Forget what caches hold: at the start of a run, and when its prompts or its guidance change."""
        HookRegistry.check_if_exists_or_initialize(self).invalidate_child_registries_cache()
        self._reset_stateful_cache()

    @contextmanager
    def without_cache(self) -> Iterator[None]:
        """Switch the cache off within a context: for single predictions, and for frames that move between windows."""
        config = self._cache_config
        if config is None:
            yield
            return
        self.disable_cache()
        try:
            yield
        finally:
            self.enable_cache(config)

    def _check_cache(self, config: Any) -> None:
        supported = [cls.__name__ for cls in SUPPORTED_CACHES]
        name = type(config).__name__
        if self.is_cache_enabled:
            raise DianjingError("cache_enabled_already", cache=name, current=type(self._cache_config).__name__)
        reason = UNSUPPORTED_CACHES.get(type(config))
        has_warp_guidance = self.motion_conditioner is not None and self.motion_conditioner.warp_guidance is not None
        if isinstance(config, TaylorSeerCacheConfig) and config.use_lite_mode and has_warp_guidance:
            reason = Message("cache_reason_lite")
        if reason is None and not isinstance(config, SUPPORTED_CACHES):
            reason = Message("cache_reason_unknown")
        if reason is not None:
            raise DianjingError("cache_unsupported", cache=name, reason=reason, supported=supported)

    def _hook_motion_blocks(self, name: str, make_hook: Any) -> None:
        """Hook the motion blocks before the last block, after which the residual of all blocks is taken."""
        for index, block in enumerate(self.motion_blocks or ()):
            if (index + 1) * self.config.motion_block_interval < len(self.blocks):
                HookRegistry.check_if_exists_or_initialize(block).register_hook(make_hook(), name)
        HookRegistry.check_if_exists_or_initialize(self).invalidate_child_registries_cache()

    @staticmethod
    def _get_hook(module: nn.Module, name: str) -> Any:
        return HookRegistry.check_if_exists_or_initialize(module).get_hook(name)


def _name_temporal_attention(config: PyramidAttentionBroadcastConfig) -> PyramidAttentionBroadcastConfig:
    """Let "spatial" mean the attention of images and "temporal" that of motion blocks, unless the user named layers."""
    default = PyramidAttentionBroadcastConfig()
    names = {
        "spatial_attention_block_identifiers": IMAGE_BLOCKS,
        "temporal_attention_block_identifiers": MOTION_BLOCKS,
        "cross_attention_block_identifiers": (*IMAGE_BLOCKS, *MOTION_BLOCKS),
    }
    return replace(config, **{name: v for name, v in names.items() if getattr(config, name) == getattr(default, name)})
