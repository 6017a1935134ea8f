"""Loading ControlNets that a pipeline is given by path."""

from os import PathLike
from typing import Any

import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiT2DMultiControlNetModel

from dianjing.weights.controlnet_files import check_controlnet_path


def load_controlnet(name_or_path: str | PathLike, *, dtype: torch.dtype) -> HunyuanDiT2DControlNetModel:
    """Load a ControlNet from a folder, such as the export of a run, or from a Hub id.

    Raises: DianjingError for a path that does not exist, or that holds no ControlNet of Hunyuan-DiT.
    """
    check_controlnet_path(name_or_path)
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
    loaded = {path: load_controlnet(path, dtype=dtype) for path in controlnet if isinstance(path, str | PathLike)}
    nets = [loaded[net] if isinstance(net, str | PathLike) else net for net in controlnet]
    return {**options, "controlnet": HunyuanDiT2DMultiControlNetModel(nets)}
