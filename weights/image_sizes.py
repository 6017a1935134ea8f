"""Image sizes that follow from the configurations of a model: how many pixels a latent, a token and an image have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dianjing.weights.manifest import WeightsError, read_config_json


def get_scale_factor(vae_config: Mapping[str, Any]) -> int:
    """Return the number of pixels along the side of a latent of an AutoencoderKL."""
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def read_default_size_px(folder: Path) -> int:
    """Read the side of the square, in pixels, that the model in a folder was trained on."""
    vae, transformer = (read_config_json(folder / name / "config.json") for name in ("vae", "transformer"))
    return int(transformer["sample_size"]) * get_scale_factor(vae)


def read_size_multiple_px(folder: Path) -> int:
    """Read the number of pixels whose multiples are the sides that the model in a folder takes."""
    vae, transformer = (read_config_json(folder / name / "config.json") for name in ("vae", "transformer"))
    return int(transformer["patch_size"]) * get_scale_factor(vae)


def find_size_multiple_px(folder: Path | None, *, default: int) -> int:
    """Find what `read_size_multiple_px` reads; `default` without a folder, and for other models than a `DiT`."""
    try:
        return default if folder is None else read_size_multiple_px(folder)
    except (WeightsError, KeyError, TypeError):
        return default
