"""Folders of ControlNets, checked by their JSON files alone: torch is not imported."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError
from dianjing.weights.manifest import check_weight_files
from dianjing.weights.resolve import HUB_ID_PATTERN

CONTROLNET_CLASS = "HunyuanDiT2DControlNetModel"
SHARED_SIZES = ("num_attention_heads", "attention_head_dim", "in_channels", "patch_size", "text_len", "text_len_t5")


def check_controlnet_path(name_or_path: str | PathLike) -> None:
    """Check that a path is the folder of a ControlNet, or else has the form of a Hub id.

    Raises: DianjingError also for weights that are damaged or cut off.
    """
    path = Path(name_or_path)
    if path.is_dir():
        if read_controlnet_config(path) is None or not check_weight_files(path):
            raise DianjingError("controlnet_folder_invalid", folder=path)
    elif path.exists() or not HUB_ID_PATTERN.fullmatch(str(name_or_path)):
        raise DianjingError("controlnet_not_found", path=name_or_path)


def check_controlnet_fits(folder: str | PathLike, model_folder: Path) -> None:
    """Check that a local ControlNet is for the transformer of a model's folder, by their configurations.

    Raises: DianjingError that names the first size that differs.
    """
    config = read_controlnet_config(Path(folder)) if Path(folder).is_dir() else None
    file = model_folder / "transformer" / "config.json"
    if config is None or not file.is_file():
        return
    transformer = json.loads(file.read_text(encoding="utf-8"))
    pairs = {name: (config.get(name), transformer.get(name)) for name in SHARED_SIZES}
    pairs["num_layers"] = (config.get("transformer_num_layers"), _round_up_to_even(transformer.get("num_layers")))
    for name, (actual, expected) in pairs.items():
        if None not in (actual, expected) and actual != expected:
            raise DianjingError(
                "controlnet_config_mismatch", folder=folder, name=name, actual=actual, expected=expected
            )


def _round_up_to_even(num_layers: Any) -> Any:
    """The layers that a ControlNet counts: it has half of them, less one, and a transformer half of an odd number."""
    return num_layers + num_layers % 2 if isinstance(num_layers, int) else None


def read_controlnet_config(folder: Path) -> dict[str, Any] | None:
    """Read the configuration of a ControlNet; None for a folder without one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and config.get("_class_name") == CONTROLNET_CLASS else None
