"""What a model and its optimizer know, whole on the main process however it is spread over many, by stable names."""

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

from dianjing.train.checkpoints import Checkpoint, Tensors

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
TRAINED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


def whole(tensor: Tensor) -> Tensor:
    """Of a sharded one all shards together; every process takes part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def weights_of(model: nn.Module) -> Tensors:
    """The trained ones, under their names in the task; sharded ones on the main process alone."""
    return _apart(get_model_state_dict(model, options=TRAINED))


def moments_of(model: nn.Module, optimizer: Any) -> Tensors:
    """What the optimizer keeps of each weight, as "weight/kind"; on the main process alone."""
    found = get_optimizer_state_dict(model, optimizer, options=FULL).get("state", {})
    return _apart({f"{name}/{kind}": value for name, kept in found.items() for kind, value in kept.items()})


def take_weights(model: nn.Module, checkpoint: Checkpoint, name: str) -> None:
    """Raises ValueError where it holds other weights than are trained."""
    tensors = checkpoint.tensors(name)
    own = get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True)).keys()
    if strange := sorted(tensors.keys() ^ own):
        raise ValueError(
            f"{checkpoint.path} is of another model: {len(strange)} names differ, such as {strange[0]}; "
            "start in another run.folder"
        )
    set_model_state_dict(model, tensors, options=TRAINED)


def take_moments(model: nn.Module, optimizer: Any, moments: Tensors) -> None:
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    kept: dict[str, Tensors] = {}
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        kept.setdefault(name, {})[kind] = value
    state: Any = {"state": kept, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, state, options=FULL)


def _apart(state: dict[str, Tensor]) -> Tensors:
    """Copies that later steps do not change."""
    return {name: torch.as_tensor(value).detach().cpu().clone().contiguous() for name, value in state.items()}
