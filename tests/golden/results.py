"""Results of a golden case: arrays and JSON by names of this folder's own, stored, loaded and compared.

Names are those of the cases, never those of parameters, settings or stored keys of the package, which may be renamed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Results = dict[str, np.ndarray]
WHOLE_LIMIT = 6000  # numbers of one model that are kept one by one
PROJECTIONS = 2


def array(tensor: Tensor) -> np.ndarray:
    """A tensor as NumPy array; bfloat16 becomes float32, which holds it exactly."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy()


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """Pictures of one size as uint8 (B, H, W, 3)."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def text(content: Any) -> np.ndarray:
    """Anything JSON can hold, as an array of one string."""
    return np.array(json.dumps(content, ensure_ascii=False))


def contents(value: Any) -> Any:
    """The values of nested mappings, dataclasses and sequences as nested lists, in order and without their names."""
    if is_dataclass(value) and not isinstance(value, type):
        return [contents(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return [contents(each) for each in value.values()]
    if isinstance(value, list | tuple):
        return [contents(each) for each in value]
    return value


def weights(parameters: Iterable[Tensor]) -> np.ndarray:
    """The weights of a model in the order given: all numbers of a small one, else a summary in float64.

    The summary of each parameter is its sum, its sum of squares, and its products with PROJECTIONS random vectors.
    """
    flat = [parameter.detach().cpu().float().flatten() for parameter in parameters]
    if sum(each.numel() for each in flat) <= WHOLE_LIMIT:
        return torch.cat(flat).numpy()
    generator = torch.Generator().manual_seed(1)
    rows = []
    for each in flat:
        vectors = torch.randn(PROJECTIONS, each.numel(), generator=generator, dtype=torch.float64)
        values = each.double()
        rows.append(torch.stack([values.sum(), values.square().sum(), *(vectors * values).sum(dim=1)]))
    return torch.stack(rows).numpy()


def save(path: Path, results: Results) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **results)  # type: ignore[arg-type]


def load(path: Path) -> Results:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def differences(made: Results, golden: Results, *, exact: bool, tolerance: float) -> list[str]:
    """One line for each result that is not what it was: bit for bit where exact, else by `distance` <= tolerance.

    Text, shapes and dtypes are always compared exactly.
    """
    lines = [f"{name}: is in one of both only" for name in sorted(made.keys() ^ golden.keys())]
    for name in sorted(made.keys() & golden.keys()):
        new, old = made[name], golden[name]
        if new.dtype.kind == "U" or old.dtype.kind == "U":
            if str(new) != str(old):
                lines.append(f"{name}: {_first_difference(str(new), str(old))}")
        elif new.shape != old.shape or new.dtype != old.dtype:
            lines.append(f"{name}: {new.dtype} {new.shape}, was {old.dtype} {old.shape}")
        elif exact and new.tobytes() != old.tobytes():
            count = (new != old).sum()
            lines.append(f"{name}: {count} of {new.size} numbers differ, distance {distance(new, old):.2e}")
        elif not exact and not distance(new, old) <= tolerance:
            lines.append(f"{name}: distance {distance(new, old):.2e}, allowed {tolerance:.0e}")
    return lines


def distance(new: np.ndarray, old: np.ndarray) -> float:
    """Norm of the difference over the norm of the old; of masks and levels the mean difference over their range.

    NaN counts as a number of its own.
    """
    if new.dtype == bool:
        return float((new != old).mean())
    if new.dtype == np.uint8:
        return float(np.abs(new.astype(np.float64) - old.astype(np.float64)).mean() / 255)
    if (np.isnan(new) != np.isnan(old)).any():
        return float("inf")
    new, old = (np.nan_to_num(each.astype(np.float64)) for each in (new, old))
    return float(np.linalg.norm(new - old) / max(float(np.linalg.norm(old)), 1e-12))


def _first_difference(new: str, old: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(new, old, strict=False)) if a != b), min(len(new), len(old)))
    return f"...{new[max(0, at - 40) : at + 40]}..., was ...{old[max(0, at - 40) : at + 40]}..."
