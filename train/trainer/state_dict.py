"""State dicts of a model and its optimizer by stable names, complete on the main process however they are sharded."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from dianjing.errors import DianjingError
from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import Checkpoint, Tensors

# one per parameter group, of schedule-free optimizers and of Prodigy
GROUP_COUNTERS = {"k", "weight_sum", "lr_max", "d", "d_max", "d_numerator"}
FULL_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)
# not strict: some weights have had no gradient yet
PARTIAL_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
TRAINABLE_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


def get_full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor, on all processes; any other tensor is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def get_model_state(model: nn.Module) -> Tensors:
    """The trainable weights by their names in the task; sharded ones on the main process alone."""
    return _copy_to_cpu(get_model_state_dict(model, options=TRAINABLE_OPTIONS))


def get_optimizer_state(model: nn.Module, optimizer: Any) -> Tensors:
    """Optimizer state of weights as "weight/kind", and counters of groups as "/group/counter"; on the main process."""
    state = _collect_optimizer_state(model, optimizer, FULL_OPTIONS).get("state", {})
    tensors = {f"{name}/{kind}": value for name, moments in state.items() for kind, value in _flatten(moments).items()}
    if state:
        for index, group in enumerate(optimizer.param_groups):
            tensors |= {
                f"/{index}/{name}": torch.tensor(group[name], dtype=torch.float64)
                for name in GROUP_COUNTERS & group.keys()
            }
    return _copy_to_cpu(tensors)


def load_model_state(model: nn.Module, checkpoint: Checkpoint, group: str) -> None:
    """Load the trainable weights. Raises: DianjingError if the checkpoint holds other weights than those."""
    tensors = checkpoint.load_tensors(group)
    expected = get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True)).keys()
    if different := sorted(tensors.keys() ^ expected):
        raise DianjingError(
            "checkpoint_of_another_model", path=checkpoint.path, count=len(different), name=different[0]
        )
    set_model_state_dict(model, tensors, options=TRAINABLE_OPTIONS)


def load_optimizer_state(model: nn.Module, optimizer: Any, tensors: Tensors) -> None:
    """Load the state of an optimizer. Raises: DianjingError if it is the state of another kind of optimizer."""
    template = _collect_optimizer_state(model, optimizer)
    state: dict[str, Any] = dict(template["state"])
    for name, empty in template["state"].items():
        prefix = f"{name}/"
        moments = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not moments:  # the weight never had a gradient
            del state[name]
            continue
        if moments.keys() != _flatten(empty).keys():
            raise DianjingError("checkpoint_of_another_optimizer")
        state[name] = _fill_like(empty, moments)
    _restore_optimizer_state(model, optimizer, {"state": state, "param_groups": template["param_groups"]})
    for index, group in enumerate(optimizer.param_groups):
        for name in GROUP_COUNTERS & group.keys():
            value = tensors[f"/{index}/{name}"].item()
            group[name] = int(value) if name == "k" else value


def _collect_optimizer_state(
    model: nn.Module, optimizer: Any, options: StateDictOptions | None = None
) -> dict[str, Any]:
    if distributed.is_zero_partitioned(optimizer):
        return distributed.get_zero_optimizer_state(model, optimizer)
    return get_optimizer_state_dict(model, optimizer, options=options)


def _restore_optimizer_state(model: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    if distributed.is_zero_partitioned(optimizer):
        distributed.load_zero_optimizer_state(model, optimizer, state)
        return
    set_optimizer_state_dict(model, optimizer, state, options=PARTIAL_OPTIONS)
    for name, weight in model.named_parameters():
        if name not in state["state"]:  # torch makes moments of zeros that have already made a step
            optimizer.state.pop(weight, None)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}; bitsandbytes nests some moments."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _fill_like(template: Mapping[str, Any], values: Tensors, prefix: str = "") -> dict[str, Any]:
    """A tree like the template with other values; integers stay integers."""
    filled: dict[str, Any] = {}
    for name, value in template.items():
        if isinstance(value, Mapping):
            filled[name] = _fill_like(value, values, f"{prefix}{name}/")
        else:
            tensor = values[prefix + name]
            filled[name] = int(tensor) if isinstance(value, int) else tensor
    return filled


def _copy_to_cpu(state: dict[str, Tensor]) -> Tensors:
    """Copies on the CPU that later steps do not change."""
    return {name: torch.as_tensor(value).detach().cpu().clone().contiguous() for name, value in state.items()}
