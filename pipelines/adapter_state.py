"""The state of a pipeline's adapters: which are loaded, active and fused, in its transformer and its text encoders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils.torch_utils import unwrap_module
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from dianjing.errors import DianjingError


class Fusion(NamedTuple):
    """Arguments of `fuse_lora`; components are None for all."""

    components: list[str] | None
    scale: float


class AdapterState(LoraBaseMixin):
    """Queries of adapters, and the context in which fused ones may change; a component may be None."""

    _lora_loadable_modules: ClassVar[list[str]] = ["transformer", "text_encoder", "text_encoder_2"]
    transformer_name: ClassVar[str] = "transformer"
    text_encoder_name: ClassVar[str] = "text_encoder"
    transformer: Any

    @contextmanager
    def _uncompiled(self) -> Iterator[None]:
        """Let diffusers' methods see the module that `torch.compile` wrapped, as they look at its class."""
        wrapped = self.transformer
        self.__dict__["transformer"] = unwrap_module(wrapped)
        try:
            yield
        finally:
            self.__dict__["transformer"] = wrapped

    @contextmanager
    def _unfused(self) -> Iterator[None]:
        """Take fused adapters out of the weights for a change, and fuse those that are active after it.

        PEFT's layers do not apply what is active beside what is fused.
        """
        fusion = self._fusion
        if fusion is None:
            yield
            return
        self.unfuse_lora(fusion.components)
        try:
            yield
        finally:
            if self._get_active_names():
                self.fuse_lora(fusion.components, lora_scale=fusion.scale)

    def _get_adapted_models(self) -> dict[str, nn.Module]:
        """The models that adapters may change, by component."""
        models = {name: unwrap_module(getattr(self, name, None)) for name in self._lora_loadable_modules}
        return {name: model for name, model in models.items() if model is not None}

    @property
    def _fusion(self) -> Fusion | None:
        """The last `fuse_lora`, until it is undone; all pipelines over one transformer share it."""
        return getattr(unwrap_module(self.transformer), "_lora_fusion", None)

    def _iterate_adapter_layers(self, components: Sequence[str] | None = None) -> Iterator[Any]:
        for name, model in self._get_adapted_models().items():
            for module in model.modules() if components is None or name in components else ():
                if isinstance(module, BaseTunerLayer):
                    yield module

    def _get_adapter_names(self) -> list[str]:
        names = (name for model in self._get_adapted_models().values() for name in getattr(model, "peft_config", {}))
        return list(dict.fromkeys(names))

    def _get_active_names(self) -> list[str]:
        layer = next(self._iterate_adapter_layers(), None)
        return [] if layer is None or layer.disable_adapters else list(layer.active_adapters)

    def _set_active_names(self, names: Sequence[str]) -> None:
        """Let all components have the same active adapters, whichever of them an adapter changes."""
        names = self._order_names(names)
        for layer in self._iterate_adapter_layers():
            layer.set_adapter(names)

    def has_active_adapters(self) -> bool:
        """Return True if adapters act, fused or not, with a strength other than 0, or stay in the weights for good."""
        if getattr(unwrap_module(self.transformer), "_has_permanent_adapters", False):
            return True
        for layer in self._iterate_adapter_layers() if self._get_adapter_names() else ():
            active = [] if layer.disable_adapters else layer.active_adapters
            if any(layer.scaling.get(name) for name in {*active, *layer.merged_adapters}):
                return True
        return False

    def _get_fused_names(self) -> set[str]:
        return {name for layer in self._iterate_adapter_layers() for name in layer.merged_adapters}

    def _order_names(self, names: Sequence[str]) -> list[str]:
        """Put DoRA adapters first: PEFT lets them scale the changes of those before them, also where it merges."""
        layers = list(self._iterate_adapter_layers())
        doras = [name for name in names if any(name in getattr(layer, "lora_magnitude_vector", {}) for layer in layers)]
        return [*doras, *(name for name in names if name not in doras)]

    def _check_adapter_names(self, names: str | Sequence[str] | None) -> None:
        """Raise DianjingError for a name that is not loaded, and for None, all active ones, if none is loaded."""
        loaded = self._get_adapter_names()
        requested = [names] if isinstance(names, str) else list(names or [])
        unknown = [name for name in requested if name not in loaded]
        if unknown or (names is None and not loaded):
            raise DianjingError("adapter_not_loaded", names=unknown or ["-"], loaded=loaded or ["-"])

    def _refuse_mixed_methods(self, method: str, *, hotswap: bool) -> None:
        """Raise DianjingError for adapters of several methods of PEFT in one model, and hot-swapping of another one."""
        configs = getattr(unwrap_module(self.transformer), "peft_config", {})
        others = sorted(name for name, config in configs.items() if config.peft_type != method)
        if others or (hotswap and method != "LORA"):
            raise DianjingError("adapter_methods_mixed", method=method, names=others or ["-"])
