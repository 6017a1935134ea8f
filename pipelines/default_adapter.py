"""The adapter that a model draws with by default: few steps without guidance, in place of its own many guided ones.

It is merged into the weights of the transformer while a call runs, so that it costs nothing per step, and the weights
themselves are put back after it, so that they never change. Adapters that a user loads act in the model's own steps, or
beside it where a call asks for few steps, and do not see it.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers.utils.torch_utils import unwrap_module
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.few_steps import should_use_few_steps
from dianjing.pipelines.schedulers import has_equal_process, load_adapter_scheduler
from dianjing.weights.adapter_sampling import SAMPLING_NAME, read_adapter_sampling
from dianjing.weights.adapters import Adapter, check_adapter_fits, fetch_adapters

MERGEABLE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOVING_HOOKS = ("group_offloading", "layerwise_casting")  # of diffusers, which replace weights while the model runs
UNTRAINED_SETTINGS = (  # of a call: what a default adapter was not trained for
    "num_inference_steps",
    "guidance_scale",
    "guider",
    "negative_prompt",
    "negative_prompt_embeds",
    "negative_prompt_embeds_2",
    "control_image",
    "ip_adapter_image",
    "ip_adapter_image_embeds",
)
NUM_SAMPLED_WEIGHTS = 64  # of a layer: by these a change is noticed that torch does not count, such as PEFT's fusing


class LowRankChange(NamedTuple):
    """The matrix scale B A that an adapter adds to the weight of a layer."""

    down: Tensor
    up: Tensor
    scale: float


class MergedWeight(NamedTuple):
    """The weight of a layer with an adapter; `version` and `sample` are of the weight that it was computed from."""

    original: Tensor
    version: int
    sample: Tensor
    merged: Tensor


class DefaultAdapter:
    """A LoRA in a model's folder, with the scheduler, the steps and the guidance scale of its calls.

    Its weights are read at its first call. Raises: DianjingError for a folder that is no such adapter.
    """

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        sampling, scheduler = read_adapter_sampling(folder), load_adapter_scheduler(folder)
        if sampling is None or scheduler is None:
            raise DianjingError("default_adapter_incomplete", folder=folder, names=[SAMPLING_NAME, "scheduler"])
        self.sampling, self.scheduler = sampling, scheduler
        self._changes: Mapping[str, LowRankChange] | None = None  # by module
        self._merged: dict[str, MergedWeight] = {}

    @contextmanager
    def merge(self, model: nn.Module) -> Iterator[None]:
        """Add the adapter to the weights of a model inside the block; after it they are bit for bit what they were."""
        model = unwrap_module(model)
        layers = self._get_layers(model)
        originals = {name: layer.weight.data for name, layer in layers.items()}
        try:
            for name, layer in layers.items():
                layer.weight.data = self._get_merged(name, layer.weight)
            yield
        finally:
            for name, layer in layers.items():
                layer.weight.data = originals[name]

    def can_merge(self, model: nn.Module) -> bool:
        """Return True if the weights of a model can be replaced for a call: not quantized, sharded or moved by hooks.

        Raises: DianjingError for a model that the adapter does not fit.
        """
        model = unwrap_module(model)
        if any(_is_replaced(module) for module in model.modules()):
            return False
        return all(map(_is_plain, self._get_layers(model).values()))

    def _get_layers(self, model: nn.Module) -> dict[str, Any]:
        """The layers that the adapter changes, by name; of a layer with adapters of a user, the one inside."""
        if self._changes is None:
            self._changes = self._read_changes(model)
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in self._changes}
        return {name: _get_base_layer(layer) for name, layer in layers.items()}

    def _read_changes(self, model: nn.Module) -> dict[str, LowRankChange]:
        """Read the weights of the adapter. Raises: DianjingError for one that cannot be merged, or does not fit."""
        adapters = fetch_adapters(self.folder)
        if adapters.keys() != {"transformer"}:
            raise DianjingError(
                "adapter_setting_unsupported", path=self.folder, name="components", value=", ".join(adapters)
            )
        adapter = adapters["transformer"]
        for name in ("use_dora", "lora_bias"):  # the first depends on the weights, the second changes biases
            if adapter.config.get(name):
                raise DianjingError("adapter_setting_unsupported", path=self.folder, name=name, value="True")
        check_adapter_fits(adapter, model, self.folder)
        return _to_changes(adapter)

    def _get_merged(self, name: str, weight: Tensor) -> Tensor:
        """Return the weight of a layer with the adapter; it is computed anew when the weight itself has changed."""
        original, sample = weight.data, weight.data.flatten()[:: max(1, weight.numel() // NUM_SAMPLED_WEIGHTS)]
        known = self._merged.get(name)
        if (
            known is not None
            and (known.original.data_ptr(), known.version) == (original.data_ptr(), weight._version)
            and torch.equal(known.sample, sample)
        ):
            return known.merged
        assert self._changes is not None, "layers are known"
        down, up, scale = self._changes[name]
        merged = torch.addmm(original.float(), up.to(weight.device), down.to(weight.device), alpha=scale)
        self._merged[name] = MergedWeight(original, weight._version, sample.clone(), merged.to(weight.dtype))
        return self._merged[name].merged


def _to_changes(adapter: Adapter) -> dict[str, LowRankChange]:
    """Convert an adapter to what it adds to the weights, in float32, with the scale of `peft.LoraConfig`."""
    config, state = adapter.config, adapter.state
    changes = {}
    for module in sorted({key.partition(".lora_")[0] for key in state}):
        down, up = (state[f"{module}.lora_{part}.weight"].float() for part in "AB")
        patterns = config.get("alpha_pattern") or {}
        alpha = patterns.get(get_pattern_key(patterns, module), config.get("lora_alpha", len(down)))
        rank = math.sqrt(len(down)) if config.get("use_rslora") else len(down)
        changes[module] = LowRankChange(down, up, alpha / rank)
    return changes


def _get_base_layer(layer: Any) -> Any:
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def _is_plain(layer: Any) -> bool:
    """Return True for a linear layer whose weight is a tensor of its own, in memory."""
    weight = layer.weight
    is_tensor = type(weight) is nn.Parameter and type(weight.data) is Tensor
    is_changeable = is_tensor and not weight.is_meta and not weight.is_inference()
    return type(layer) is nn.Linear and is_changeable and weight.dtype in MERGEABLE_DTYPES


def _is_replaced(module: nn.Module) -> bool:
    """Return True for a module that runs with other weights than those of its layers."""
    registry = module.__dict__.get("_diffusers_hook")
    is_moved = registry is not None and any(registry.get_hook(name) is not None for name in MOVING_HOOKS)
    return is_moved or module.__dict__.get("fused_projections", False)


class DefaultAdapterMixin:
    """A pipeline that may have a default adapter; set `default_adapter` to None to draw with the model alone."""

    scheduler: Any
    trained_scheduler: Any
    transformer: Any
    default_adapter: DefaultAdapter | None = None
    draws_in_few_steps: ClassVar[bool] = True  # by default; else where a call asks for it
    get_adapter_sampling: Any  # of `LoRAMixin`, as is the next one
    has_active_adapters: Any
    _generate: Any  # of `ImagePipelineBase`
    _merged_adapter: DefaultAdapter | None = None  # of the call that runs

    def _draw(self, *, slow: bool | None, **arguments: Any) -> Any:
        """Generate images of the arguments of `_generate`, by the default adapter or by the model alone.

        Raises: DianjingError for a call that asks for few steps where they cannot be.
        """
        adapter = self._choose_default_adapter(slow, **arguments)
        if adapter is not None:
            arguments |= vars(adapter.sampling)
        with self._use_default_adapter(adapter):
            return self._generate(**arguments)

    def _choose_default_adapter(
        self, slow: bool | None, *, guidance_rescale: float = 0.0, **arguments: Any
    ) -> DefaultAdapter | None:
        """Return the default adapter for a call that it draws by `should_use_few_steps`; None for the model alone.

        Raises: DianjingError for a call that asks for few steps, with settings or a model that rule them out.
        """
        settings = {name: arguments.get(name) for name in UNTRAINED_SETTINGS}
        settings["guidance_rescale"] = guidance_rescale or None
        has_adapters = self.has_active_adapters()
        if not should_use_few_steps(slow, settings, has_adapters=has_adapters, is_default=self.draws_in_few_steps):
            return None
        obstacle = self._find_obstacle()
        if obstacle is None:
            return self.default_adapter
        if slow is False:
            raise DianjingError("few_steps_impossible", reason=obstacle)
        return None

    def _find_obstacle(self) -> Message | None:
        """Find the reason why the default adapter cannot draw at present; None without one."""
        adapter = self.default_adapter
        if adapter is None:
            return Message("few_steps_not_there")
        if self._merged_adapter is not None:
            return Message("few_steps_running")
        if self.get_adapter_sampling() is not None:
            return Message("few_steps_of_adapter")
        is_chosen = self.scheduler is not self.trained_scheduler
        if is_chosen or not has_equal_process(adapter.scheduler, self.trained_scheduler):
            return Message("few_steps_other_scheduler", scheduler=type(self.scheduler).__name__)
        return None if adapter.can_merge(self.transformer) else Message("few_steps_not_merged")

    @contextmanager
    def _use_default_adapter(self, adapter: DefaultAdapter | None) -> Iterator[None]:
        """Sample with a default adapter and its scheduler inside the block; None leaves the model as it is."""
        if adapter is None:
            yield
            return
        own_scheduler, self.scheduler, self._merged_adapter = self.scheduler, adapter.scheduler, adapter
        try:
            with adapter.merge(self.transformer):
                yield
        finally:
            self.scheduler, self._merged_adapter = own_scheduler, None
