"""What a model and its optimizer know, whole on the main process however it is spread over many, by stable names."""

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

from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import Checkpoint, Tensors

GROUP_COUNTERS = {"k", "weight_sum", "lr_max"}  # of a schedule-free optimizer: a group's, not a weight's
FULL_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)
PARTIAL_OPTIONS = StateDictOptions(
    full_state_dict=True, cpu_offload=True, strict=False
)  # some weights have had no gradient yet
TRAINABLE_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


def get_full_tensor(tensor: Tensor) -> Tensor:
    """Of a sharded one all shards together; every process takes part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def get_model_state(model: nn.Module) -> Tensors:
    """The trained ones, under their names in the task; sharded ones on the main process alone."""
    return _copy_to_cpu(get_model_state_dict(model, options=TRAINABLE_OPTIONS))


def get_optimizer_state(model: nn.Module, optimizer: Any) -> Tensors:
    """What the optimizer keeps of each weight, as "weight/kind", and counts, as "/group/count"; on the main process."""
    found = _collect_optimizer_state(model, optimizer, FULL_OPTIONS).get("state", {})
    moments = {f"{name}/{kind}": value for name, kept in found.items() for kind, value in _flatten(kept).items()}
    if found:
        for index, group in enumerate(optimizer.param_groups):
            moments |= {
                f"/{index}/{name}": torch.tensor(group[name], dtype=torch.float64)
                for name in GROUP_COUNTERS & group.keys()
            }
    return _copy_to_cpu(moments)


def load_model_state(model: nn.Module, checkpoint: Checkpoint, group: str) -> None:
    """Raises ValueError where it holds other weights than are trained."""
    tensors = checkpoint.load_tensors(group)
    own = get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True)).keys()
    if strange := sorted(tensors.keys() ^ own):
        raise ValueError(
            f"{checkpoint.path} is of another model: {len(strange)} names differ, such as {strange[0]}; "
            "start in another run.folder"
        )
    set_model_state_dict(model, tensors, options=TRAINABLE_OPTIONS)


def load_optimizer_state(model: nn.Module, optimizer: Any, moments: Tensors) -> None:
    """Raises ValueError where another kind of optimizer kept them."""
    fresh = _collect_optimizer_state(model, optimizer)
    state: dict[str, Any] = dict(fresh["state"])
    for name, own in fresh["state"].items():
        kept = {key.removeprefix(f"{name}/"): value for key, value in moments.items() if key.startswith(f"{name}/")}
        if not kept:  # it never had a gradient
            del state[name]
            continue
        if kept.keys() != _flatten(own).keys():
            raise ValueError(
                "the checkpoint is of another optimizer.kind; go on with that one, or in another run.folder"
            )
        state[name] = _fill_like(own, kept)
    _restore_optimizer_state(model, optimizer, {"state": state, "param_groups": fresh["param_groups"]})
    for index, group in enumerate(optimizer.param_groups):
        for name in GROUP_COUNTERS & group.keys():
            value = moments[f"/{index}/{name}"].item()
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
    else:
        set_optimizer_state_dict(model, optimizer, state, options=PARTIAL_OPTIONS)
        for name, weight in model.named_parameters():
            if name not in state["state"]:  # torch makes moments of zeros, one step old
                optimizer.state.pop(weight, None)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}; bitsandbytes keeps some moments a level down."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _fill_like(template: Mapping[str, Any], values: Tensors, prefix: str = "") -> dict[str, Any]:
    """The same tree with other values; what is a whole number stays one."""
    filled: dict[str, Any] = {}
    for name, value in template.items():
        if isinstance(value, Mapping):
            filled[name] = _fill_like(value, values, f"{prefix}{name}/")
        else:
            found = values[prefix + name]
            filled[name] = int(found) if isinstance(value, int) else found
    return filled


def _copy_to_cpu(state: dict[str, Tensor]) -> Tensors:
    """Copies that later steps do not change."""
    return {name: torch.as_tensor(value).detach().cpu().clone().contiguous() for name, value in state.items()}
