"""Sampling settings of an adapter: the steps and the guidance scale that it was distilled for, in its folder."""

import json
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

from dianjing.weights.manifest import WeightsError, read_config_json

DEFAULT_ADAPTER_KEY = "_default_adapter"  # in model_index.json: the folder of the adapter inside the model's
SAMPLING_NAME = "sampling.json"  # beside the weights of the adapter and its scheduler
MAX_STEPS, MAX_GUIDANCE_SCALE = 1000, 100.0


@dataclass(frozen=True, kw_only=True)
class AdapterSampling:
    """Steps and guidance scale of a call that gives none, while the adapter is active."""

    num_inference_steps: int
    guidance_scale: float


def write_adapter_sampling(folder: Path, sampling: AdapterSampling) -> None:
    """Write the settings beside the weights of an adapter."""
    (folder / SAMPLING_NAME).write_text(json.dumps(asdict(sampling), indent=2) + "\n", encoding="utf-8")


def read_adapter_sampling(adapter: str | PathLike) -> AdapterSampling | None:
    """Read the settings in the folder of an adapter; None for an adapter without.

    Raises: WeightsError for a file with other values than a number of steps and a guidance scale.
    """
    path = Path(adapter) / SAMPLING_NAME
    if not path.is_file():
        return None
    values = read_config_json(path)
    steps, scale = values.get("num_inference_steps"), values.get("guidance_scale")
    if type(steps) is not int or not 1 <= steps <= MAX_STEPS:
        raise WeightsError("adapter_sampling_invalid", path=path, name="num_inference_steps", value=repr(steps))
    if type(scale) not in (int, float) or not 0 <= float(scale or 0) <= MAX_GUIDANCE_SCALE:
        raise WeightsError("adapter_sampling_invalid", path=path, name="guidance_scale", value=repr(scale))
    assert scale is not None, "a number"
    return AdapterSampling(num_inference_steps=steps, guidance_scale=float(scale))
