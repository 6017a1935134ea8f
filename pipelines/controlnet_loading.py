"""Loading ControlNets that a pipeline is given by path."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiT2DMultiControlNetModel

from dianjing.errors import DianjingError
from dianjing.weights.resolve import HUB_ID_PATTERN


def load_controlnet(name_or_path: str | PathLike, *, dtype: torch.dtype) -> HunyuanDiT2DControlNetModel:
    """Load a ControlNet from a folder, such as the export of a run, or from a Hub id.

    Raises: DianjingError for a path that does not exist, or that holds no ControlNet of Hunyuan-DiT.
    """
    path = Path(name_or_path)
    if path.is_dir():
        _check_folder(path)
    elif path.exists() or not HUB_ID_PATTERN.fullmatch(str(name_or_path)):
        raise DianjingError("controlnet_not_found", path=name_or_path)
    return HunyuanDiT2DControlNetModel.from_pretrained(name_or_path, dtype=dtype, use_safetensors=True)


def replace_controlnet_path(options: dict[str, Any], *, dtype: torch.dtype) -> dict[str, Any]:
    """Replace a path in the option `controlnet`, or each path of a list, by the loaded model.

    Raises: DianjingError as `load_controlnet`.
    """
    controlnet = options.get("controlnet")
    if isinstance(controlnet, str | PathLike):
        return {**options, "controlnet": load_controlnet(controlnet, dtype=dtype)}
    if not isinstance(controlnet, list | tuple):
        return options
    nets = [load_controlnet(net, dtype=dtype) if isinstance(net, str | PathLike) else net for net in controlnet]
    return {**options, "controlnet": HunyuanDiT2DMultiControlNetModel(nets)}


def _check_folder(folder: Path) -> None:
    try:
        class_name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        class_name = None
    if class_name != HunyuanDiT2DControlNetModel.__name__ or not list(folder.glob("*.safetensors")):
        raise DianjingError("controlnet_folder_invalid", folder=folder)
