"""Loading ControlNets that a pipeline is given by path."""

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiT2DMultiControlNetModel

from dianjing.errors import DianjingError
from dianjing.weights.controlnet_files import CONTROLNET_CLASS, check_controlnet_path
from dianjing.weights.manifest import Component, get_weight_files
from dianjing.weights.validate import validate_component


def load_controlnet(name_or_path: str | PathLike, *, dtype: torch.dtype) -> HunyuanDiT2DControlNetModel:
    """Load a ControlNet from a folder, such as the export of a run, or from a Hub id.

    Raises: DianjingError for a path that does not exist, or that holds no ControlNet of Hunyuan-DiT, and for weights
    that are damaged or cannot be downloaded.
    """
    check_controlnet_path(name_or_path)
    folder = Path(name_or_path)
    if folder.is_dir():
        files = get_weight_files(folder)
        validate_component(
            Component(name="controlnet", library="diffusers", class_name=CONTROLNET_CLASS, folder=folder, files=files)
        )
    try:
        return HunyuanDiT2DControlNetModel.from_pretrained(name_or_path, dtype=dtype, use_safetensors=True)
    except OSError as error:
        if folder.is_dir():
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise DianjingError("download_failed", repository=name_or_path, reason=reason) from None


def replace_controlnet_path(options: dict[str, Any], *, dtype: torch.dtype) -> dict[str, Any]:
    """Replace a path in the option `controlnet`, or each path of a list, by the loaded model.

    Raises: DianjingError as `load_controlnet`.
    """
    controlnet = options.get("controlnet")
    if isinstance(controlnet, str | PathLike):
        return {**options, "controlnet": load_controlnet(controlnet, dtype=dtype)}
    if not isinstance(controlnet, list | tuple):
        return options
    loaded = {path: load_controlnet(path, dtype=dtype) for path in controlnet if isinstance(path, str | PathLike)}
    nets = [loaded[net] if isinstance(net, str | PathLike) else net for net in controlnet]
    return {**options, "controlnet": HunyuanDiT2DMultiControlNetModel(nets)}
