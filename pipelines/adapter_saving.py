"""Saving of LoRA adapters: the layers of several models in one safetensors file, as diffusers reads it."""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import logging
from torch import Tensor, nn

from dianjing.errors import DianjingError
from dianjing.weights.adapter_files import LORA_WEIGHTS_NAME
from dianjing.weights.formats.conversion import temporary_result

logger = logging.get_logger(__name__)

LoRALayers: TypeAlias = nn.Module | Mapping[str, Tensor]
SaveFunction = Callable[[dict[str, Tensor], str], Any]


def save_adapter(
    folder: str | PathLike,
    layers: Mapping[str, LoRALayers | None],
    settings: Mapping[str, Mapping[str, Any] | None],
    *,
    weight_name: str | None,
    save_function: SaveFunction | None,
    safe_serialization: bool,
) -> None:
    """Write the LoRA layers of each component, and the settings of its `peft.LoraConfig`, to one file.

    save_function: writes the tensors to a path in place of safetensors.
    Raises: DianjingError for no layers, a folder that is a file, a name that is not of safetensors, and settings that a
    save_function could not write.
    """
    nonempty = {component: each for component, each in layers.items() if each}
    metadata = {component: dict(each) for component, each in settings.items() if each and component in nonempty}
    name = weight_name or LORA_WEIGHTS_NAME
    if not nonempty:
        raise DianjingError("adapter_layers_missing", names=[f"{component}_lora_layers" for component in layers])
    if Path(folder).is_file():
        raise DianjingError("folder_is_file", path=folder)
    if not name.endswith(".safetensors"):
        raise DianjingError("adapter_name_suffix", name=name)
    if not safe_serialization:
        logger.warning("safe_serialization=False is ignored: pickles are neither written nor loaded")
    packed = {component: _copy_tensors(each) for component, each in nonempty.items()}
    if save_function is None:
        with temporary_result(Path(folder) / name) as temporary:
            LoraBaseMixin._save_lora_weights(folder, packed, metadata, weight_name=temporary.name)
        return
    if metadata:
        raise DianjingError("adapter_settings_unsaved", names=[f"{each}_lora_adapter_metadata" for each in metadata])
    Path(folder).mkdir(parents=True, exist_ok=True)
    named = {f"{component}.{key}": tensor for component, each in packed.items() for key, tensor in each.items()}
    save_function(named, str(Path(folder) / name))


def _copy_tensors(layers: LoRALayers) -> dict[str, Tensor]:
    """The tensors of LoRA layers with memory of their own, which safetensors needs."""
    tensors = layers.state_dict() if isinstance(layers, nn.Module) else layers
    return {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
