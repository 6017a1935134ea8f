"""Checkpoints read and written tensor by tensor, so that memory holds one tensor at a time.

A `.pt` file is memory-mapped and read as weights alone: nothing in it is executed.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dianjing.weights.manifest import WeightsError, read_tensor_shapes

PT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
CHECKPOINT_SUFFIXES = (*PT_SUFFIXES, ".safetensors")
# names of dtypes in the header of the safetensors format
SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES = {name: dtype for dtype, name in SAFETENSORS_DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class LazyTensor:
    """A tensor whose shape and dtype are known, and that is read when it is needed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> "LazyTensor":
        return cls(shape=tuple(tensor.shape), dtype=tensor.dtype, read=lambda: tensor)

    def take_rows(self, start: int, stop: int) -> "LazyTensor":
        """The rows from `start` to before `stop`."""
        shape = (stop - start, *self.shape[1:])
        return LazyTensor(shape=shape, dtype=self.dtype, read=lambda: self.read()[start:stop])

    def to(self, dtype: torch.dtype) -> "LazyTensor":
        return LazyTensor(shape=self.shape, dtype=dtype, read=lambda: self.read().to(dtype))

    @staticmethod
    def concatenate(parts: "list[LazyTensor]") -> "LazyTensor":
        """The parts one below the other, in the dtype of the first."""
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return LazyTensor(shape=shape, dtype=parts[0].dtype, read=lambda: torch.cat([part.read() for part in parts]))


LazyTensors = dict[str, LazyTensor]


def open_checkpoint(path: Path) -> LazyTensors:
    """Open a safetensors or `.pt` file; of a trainer's dictionaries, the averaged weights or else the module's.

    Tensors in dictionaries inside the state dict are named as in safetensors: "image_proj.proj.weight".

    Raises: WeightsError for a file that is damaged, or that needs more than weights to be read.
    """
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pt(path)


def _open_safetensors(path: Path) -> LazyTensors:
    read_tensor_shapes(path)  # checks the header and the size of the file
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                shape, dtype = tuple(part.get_shape()), TORCH_DTYPES[part.get_dtype()]
                tensors[name] = LazyTensor(shape=shape, dtype=dtype, read=_make_reader(path, name))
    except (SafetensorError, KeyError) as error:
        raise WeightsError("checkpoint_unreadable", path=str(path), reason=str(error)) from None
    return tensors


def _make_reader(path: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    return read


def _open_pt(path: Path) -> LazyTensors:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise WeightsError("checkpoint_needs_code", path=str(path), name=found[1] if found else "?") from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError("checkpoint_unreadable", path=str(path), reason=str(error).split("\n")[0][:200]) from None
    for key in ("ema", "module", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = flatten_tensors(content) if isinstance(content, dict) else {}
    if not tensors:
        raise WeightsError("checkpoint_without_tensors", path=str(path))
    return tensors


def flatten_tensors(content: Mapping[Any, Any]) -> LazyTensors:
    """Collect the tensors of a state dict and of the dictionaries in it, whose names are joined by dots."""
    tensors = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            tensors[str(name)] = LazyTensor.from_tensor(value)
        elif isinstance(value, Mapping):
            tensors |= {f"{name}.{rest}": tensor for rest, tensor in flatten_tensors(value).items()}
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write tensors one by one. Raises: WeightsError for a dtype that the format does not have."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in SAFETENSORS_DTYPES:
            raise WeightsError("checkpoint_dtype_unknown", name=name, dtype=str(tensor.dtype))
        end = offset + tensor.num_bytes
        dtype = SAFETENSORS_DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors.values():
            # a scalar has no last dimension to be seen as bytes
            file.write(tensor.read().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_pt(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write a bare state dict as `torch.save` does; all tensors are in memory meanwhile. Raises: OSError."""
    state = {name: tensor.read().clone() for name, tensor in tensors.items()}
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what torch makes of a full disk, when it ends the archive
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
