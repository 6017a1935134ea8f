"""Adapters: LoRA for a transformer and its text encoders, with diffusers' methods and without their silent cases.

Adapters of a layer that are fused hide those that are not (`peft.tuners.lora.Linear.forward`), so that the two are
never mixed here: what changes while adapters are fused is fused again. A transformer that `torch.compile` wrapped is
adapted as the module it wraps.
"""

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor

from dianjing.errors import DianjingError
from dianjing.pipelines.adapter_saving import LoRALayers, SaveFunction, save_adapter
from dianjing.pipelines.adapter_state import AdapterState, Fusion
from dianjing.pipelines.schedulers import has_equal_process, load_adapter_scheduler
from dianjing.weights.adapter_files import is_usable_name
from dianjing.weights.adapter_sampling import AdapterSampling, read_adapter_sampling
from dianjing.weights.adapters import Adapter, AdapterSource, fetch_adapters
from dianjing.weights.product_adapters import add_product_adapter, check_product_adapter, read_product_adapter
from dianjing.weights.text_encoder_adapters import add_text_encoder_adapter, fit_adapters
from dianjing.weights.trigger_words import read_trigger_words

MAX_ADAPTER_WEIGHT = 1000.0


class LoRAMixin(AdapterState):
    """LoRA for a pipeline; arguments are those of diffusers' methods."""

    scheduler: Any
    trained_scheduler: SchedulerMixin | None
    _scheduler_before_adapter: tuple[str, Any, SchedulerMixin | None] | None = None
    _trigger_words: Mapping[str, tuple[str, ...]] = {}  # by name of the adapter
    _adapter_sampling: Mapping[str, AdapterSampling] = {}  # by name of the adapter

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: AdapterSource,
        *,
        weight_name: str | None = None,
        return_lora_metadata: bool = False,
        **options: Any,
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the tensors of an adapter under diffusers' names, and with them its settings if `return_lora_metadata`.

        pretrained_model_name_or_path_or_dict: a folder, a .safetensors file, a Hub id, or the tensors themselves.
        Names of tensors and settings begin with that of the component.
        Raises: DianjingError for an adapter that cannot be read.
        """
        adapters = fetch_adapters(pretrained_model_name_or_path_or_dict, weight_name=weight_name, **options)
        parts = adapters.items()
        tensors = ((component, {**adapter.state, **adapter.word_embeddings}) for component, adapter in parts)
        state = {f"{component}.{key}": each for component, named in tensors for key, each in named.items()}
        if not return_lora_metadata:
            return state
        settings = [(component, adapter.metadata or adapter.config) for component, adapter in parts]
        return state, {f"{component}.{key}": value for component, each in settings for key, value in each.items()}

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: AdapterSource,
        adapter_name: str | None = None,
        *,
        hotswap: bool = False,
        **options: Any,
    ) -> None:
        """Add an adapter, given as for `lora_state_dict`, or a folder of LoHa or LoKr by PEFT, and activate it alone.

        Its parts for text encoders act on these. Where adapters are fused, it is fused too. An adapter that was trained
        for another prediction or noise schedule, or for few steps, brings its scheduler, which stays until it is
        unloaded; one for few steps also brings the steps and the guidance scale of calls that give none.
        Raises: DianjingError for an adapter that does not fit, before anything changes.
        """
        source = pretrained_model_name_or_path_or_dict
        models = self._get_adapted_models()
        product = read_product_adapter(source)
        loaded = self._get_adapter_names()
        self._refuse_mixed_methods("LORA" if product is None else product.method, hotswap=hotswap)
        if adapter_name is None:
            adapter_name = next(f"default_{i}" for i in range(len(loaded) + 1) if f"default_{i}" not in loaded)
        if not is_usable_name(adapter_name) or (adapter_name in loaded and not hotswap):
            raise DianjingError("adapter_name_unusable", name=adapter_name, loaded=loaded or ["-"])
        scheduler = None if isinstance(source, Mapping) else load_adapter_scheduler(source)
        sampling = None if isinstance(source, Mapping) else read_adapter_sampling(source)
        adapters: dict[str, Adapter] = {}
        if product is not None:
            check_product_adapter(product, models["transformer"])
        else:
            adapters = fit_adapters(fetch_adapters(source, **options), models, source)
        with warnings.catch_warnings(), self._unfused():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # of every second adapter
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # T5's second is not read
            if product is not None:
                add_product_adapter(models["transformer"], product, adapter_name)
            for component, adapter in adapters.items():
                self._add_adapter(models[component], adapter, adapter_name, hotswap=hotswap)
            self._set_active_names([adapter_name])
        if not isinstance(source, Mapping):
            self._trigger_words = {**self._trigger_words, adapter_name: read_trigger_words(source)}
        others = {name: each for name, each in self._adapter_sampling.items() if name != adapter_name}
        self._adapter_sampling = others if sampling is None else {**others, adapter_name: sampling}
        is_equal = scheduler is None or has_equal_process(scheduler, self.trained_scheduler)
        if scheduler is not None and (sampling is not None or not is_equal):
            self._scheduler_before_adapter = (adapter_name, self.scheduler, self.trained_scheduler)
            self.scheduler = scheduler
            self.trained_scheduler = self.trained_scheduler if is_equal else scheduler

    def _add_adapter(self, model: Any, adapter: Adapter, name: str, *, hotswap: bool) -> None:
        """Add a checked adapter to one component."""
        if not hasattr(model, "load_lora_adapter"):  # a text encoder
            add_text_encoder_adapter(model, adapter, name)
            return
        targets = sorted({key.partition(".lora_")[0] for key in adapter.state})
        model.load_lora_adapter(
            adapter.state,
            prefix=None,
            adapter_name=name,
            metadata={**adapter.config, "target_modules": targets},
            hotswap=hotswap,
            _pipeline=self,
        )

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | PathLike,
        transformer_lora_layers: LoRALayers | None = None,
        text_encoder_lora_layers: LoRALayers | None = None,
        text_encoder_2_lora_layers: LoRALayers | None = None,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: SaveFunction | None = None,
        safe_serialization: bool = True,
        transformer_lora_adapter_metadata: dict | None = None,
        text_encoder_lora_adapter_metadata: dict | None = None,
        text_encoder_2_lora_adapter_metadata: dict | None = None,
    ) -> None:
        """Write the tensors of an adapter, from `peft.get_peft_model_state_dict`, to one safetensors file.

        ..._lora_adapter_metadata: the settings of `peft.LoraConfig` as a dictionary; the scale is 1 without. Pickles
        are not written, whatever `safe_serialization` is. Processes other than the main one write nothing.
        Raises: DianjingError for no layers, and for settings that a save_function would lose.
        """
        if not is_main_process:
            return
        layers = {
            cls.transformer_name: (transformer_lora_layers, transformer_lora_adapter_metadata),
            cls.text_encoder_name: (text_encoder_lora_layers, text_encoder_lora_adapter_metadata),
            f"{cls.text_encoder_name}_2": (text_encoder_2_lora_layers, text_encoder_2_lora_adapter_metadata),
        }
        save_adapter(
            save_directory,
            {component: each for component, (each, _) in layers.items()},
            {component: settings for component, (_, settings) in layers.items()},
            weight_name=weight_name,
            save_function=save_function,
            safe_serialization=safe_serialization,
        )

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        """Activate adapters by name, each with a weight (1 by default), and deactivate the others.

        Where adapters are fused, these take their place in the weights. Raises: DianjingError for a name that is not
        loaded.
        """
        self._check_adapter_names(adapter_names)
        weights = adapter_weights if isinstance(adapter_weights, list) else [adapter_weights]
        for weight in weights:
            if isinstance(weight, float | int) and not abs(weight) <= MAX_ADAPTER_WEIGHT:
                limit = f"{MAX_ADAPTER_WEIGHT:g}"
                raise DianjingError(
                    "number_out_of_range", name="adapter_weights", value=str(weight), low=f"-{limit}", high=limit
                )
        with self._unfused(), self._uncompiled():
            super().set_adapters(adapter_names, adapter_weights)
            self._set_active_names([adapter_names] if isinstance(adapter_names, str) else adapter_names)

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **options: Any,
    ) -> None:
        """Merge adapters, the active ones by default, into the weights, so that they cost nothing per step.

        Raises: DianjingError for a name that is not loaded, and if active adapters were left out: they would not act.
        """
        self._check_adapter_names(adapter_names)
        if adapter_names is not None:
            left_out = set(self._get_active_names()) - set(adapter_names) - self._get_fused_names()
            if left_out:
                raise DianjingError("fused_partly", names=list(adapter_names), left_out=sorted(left_out))
        names = self._order_names(self._get_active_names() if adapter_names is None else adapter_names)
        for layer in self._iterate_adapter_layers(components):
            if not layer.merged:
                layer._scaling_before_fusing = dict(layer.scaling)
                layer.scaling.update(
                    {name: layer.scaling[name] * lora_scale for name in names if name in layer.scaling}
                )
        with self._uncompiled():
            super().fuse_lora(
                components=components or list(self._get_adapted_models()),
                safe_fusing=safe_fusing,
                adapter_names=names,
                **options,
            )
        unwrap_module(self.transformer)._lora_fusion = Fusion(components, lora_scale)

    def unfuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Take fused adapters out of the weights; they act again as they did before `fuse_lora`."""
        with warnings.catch_warnings(), self._uncompiled():
            warnings.filterwarnings("ignore", message="Already unmerged")  # of layers that only others change
            super().unfuse_lora(components=components or list(self._get_adapted_models()), **options)
        for layer in self._iterate_adapter_layers(components):
            layer.scaling.update(layer.__dict__.pop("_scaling_before_fusing", {}))
        if not self._get_fused_names():
            unwrap_module(self.transformer)._lora_fusion = None

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Remove adapters by name; those that were active beside them, and no others, stay active.

        Fused ones leave the weights. Raises: DianjingError for a name that is not loaded.
        """
        self._check_adapter_names(adapter_names)
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        with self._unfused():
            remaining = [name for name in self._get_active_names() if name not in names]
            self._set_active_names(remaining)  # in place of an active one that it deletes, PEFT would activate another
            with self._uncompiled():
                super().delete_adapters(names)
        if not self._get_adapter_names():
            self.unload_lora_weights()
        self._restore_scheduler(names)

    def unload_lora_weights(self) -> None:
        """Remove all adapters; fused ones stay in the weights for good."""
        if self._get_fused_names():
            unwrap_module(self.transformer)._has_permanent_adapters = True
        with self._uncompiled():
            super().unload_lora_weights()
        self._merged_adapters: set[str] = set()
        unwrap_module(self.transformer)._lora_fusion = None
        self._restore_scheduler(None)

    def disable_lora(self) -> None:
        """Deactivate all adapters; fused ones leave the weights."""
        with self._unfused(), self._uncompiled():
            super().disable_lora()

    def enable_lora(self) -> None:
        """Activate again what `disable_lora` deactivated."""
        with self._uncompiled():
            super().enable_lora()

    def get_active_adapters(self) -> list[str]:
        """Names of the adapters that act on the transformer."""
        return self._get_active_names()

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Names of all adapters, by component."""
        models = self._get_adapted_models().items()
        names = {component: list(getattr(model, "peft_config", {})) for component, model in models}
        return {component: each for component, each in names.items() if each}

    def enable_lora_hotswap(self, **options: Any) -> None:
        """Prepare for adapters that replace each other without a new compilation, as in diffusers."""
        with self._uncompiled():
            super().enable_lora_hotswap(**options)

    def list_trigger_words(self) -> list[str]:
        """List the words that the active adapters gave a meaning to."""
        if not self._trigger_words:  # a pipeline for its text encoders alone has no transformer to ask
            return []
        return [word for name in self._get_active_names() for word in self._trigger_words.get(name, ())]

    def get_adapter_sampling(self) -> AdapterSampling | None:
        """Return the steps and the guidance scale that an active adapter was distilled for; None without one."""
        if not self._adapter_sampling:
            return None
        names = [*self._get_active_names(), *self._get_fused_names()]
        return next((self._adapter_sampling[name] for name in names if name in self._adapter_sampling), None)

    def _restore_scheduler(self, removed: Sequence[str] | None) -> None:
        """Put back the scheduler from before an adapter that brought its own, if that is among those removed."""
        if self._scheduler_before_adapter is None:
            return
        name, scheduler, trained_scheduler = self._scheduler_before_adapter
        if removed is None or name in removed:
            self.scheduler, self.trained_scheduler = scheduler, trained_scheduler
            self._scheduler_before_adapter = None
