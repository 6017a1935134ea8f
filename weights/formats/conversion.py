"""Conversion of Hunyuan-DiT weights between Tencent's files, diffusers' folders and ComfyUI's single files.

Tensors are streamed one by one into a temporary place beside the result; the result is read back, and only then gets
its name.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError

from dianjing.weights.formats.lazy_tensors import (
    PT_SUFFIXES,
    LazyTensor,
    LazyTensors,
    open_checkpoint,
    write_pt,
    write_safetensors,
)
from dianjing.weights.formats.model_content import SINGLE_FILE_PREFIXES, ModelContent, read_model_content
from dianjing.weights.formats.tencent_names import convert_to_tencent
from dianjing.weights.formats.transformer_config import SAMPLE_SIZE
from dianjing.weights.manifest import Component, WeightsError, read_components, summarize_names
from dianjing.weights.validate import check_finite, check_names_and_shapes

STORAGE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
FP8_WEIGHT_PATTERN = re.compile(r"blocks?\.\d+\.(?!.*norm).*\.weight")  # projections; all else is kept in bfloat16
SPIECE_NAME = "text_encoders.mt5xl.spiece_model"
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index*.json", *(f"*{suffix}" for suffix in PT_SUFFIXES))

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

ProgressListener = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """The format and components of a source, and the result."""

    source_kind: str
    source_format: str
    components: tuple[str, ...]
    num_tensors: int
    num_bytes: int
    path: Path


def convert_model(
    source: str | PathLike,
    out: str | PathLike,
    *,
    dtype: str | None = None,
    base: Path | None = None,
    sample_size: int = SAMPLE_SIZE,
    on_start: Callable[[ModelContent], None] = lambda content: None,
    on_bytes: ProgressListener = lambda count: None,
) -> ConversionReport:
    """Convert a checkpoint or a model folder; the name of `out` says to what.

    out: a `.pt` file for Tencent's transformer or ControlNet, a `.safetensors` file for ComfyUI, else a folder in
    diffusers' arrangement. dtype: a key of STORAGE_DTYPES; None keeps each tensor's own. base: a pipeline folder whose
    other components (tokenizers, scheduler, configurations) complete a result that the source cannot. sample_size: side
    of the trained latents, for sources without a configuration.

    Raises: DianjingError for a source that cannot be converted, a result that exists, or a disk without room.
    """
    source, out = Path(source), Path(out)
    check_conversion_paths(source, out, dtype=dtype)
    content = read_model_content(source, sample_size=sample_size)
    if dtype is not None:
        content = replace(content, components=_cast_components(content, dtype))
    on_start(content)
    rest = base or content.folder
    others = _count_other_bytes(rest, content) if rest is not None and not out.suffix else 0
    check_room(out, content.num_bytes + others)
    with temporary_result(out) as temporary:
        if out.suffix in PT_SUFFIXES or out.suffix == ".safetensors":
            tensors = _gather_file_tensors(content, out)
            _write(temporary, tensors, on_bytes)
            _check_file(temporary, tensors)
        else:
            _write_folder(temporary, content, base=base, on_bytes=on_bytes)
            _check_folder(temporary, content)
    num_tensors = sum(len(tensors) for tensors in content.components.values())
    return ConversionReport(
        source_kind=content.kind,
        source_format=content.format,
        components=tuple(content.components),
        num_tensors=num_tensors,
        num_bytes=content.num_bytes,
        path=out,
    )


def check_conversion_paths(source: Path, out: Path, *, dtype: str | None = None) -> None:
    """Raises: DianjingError for a result that exists or lies inside the source, or an unknown dtype."""
    if dtype is not None and dtype not in STORAGE_DTYPES:
        raise WeightsError("convert_dtype_unknown", dtype=dtype, allowed=list(STORAGE_DTYPES))
    if not source.exists():
        raise WeightsError("convert_source_missing", path=str(source))
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise WeightsError("convert_onto_itself", path=str(out))
    if out.exists():
        raise WeightsError("convert_result_exists", path=str(out))


def _cast_components(content: ModelContent, dtype: str) -> dict[str, LazyTensors]:
    return {
        component: {name: _cast(name, tensor, dtype) for name, tensor in tensors.items()}
        for component, tensors in content.components.items()
    }


def _cast(name: str, tensor: LazyTensor, dtype: str) -> LazyTensor:
    if not tensor.dtype.is_floating_point:
        return tensor
    if dtype == "fp8" and not (FP8_WEIGHT_PATTERN.search(name) and len(tensor.shape) == 2):
        return tensor.to(torch.bfloat16)
    return tensor.to(STORAGE_DTYPES[dtype])


def check_room(out: Path, num_bytes: int) -> None:
    """Raise DianjingError if the disk that `out` will lie on has less room than num_bytes."""
    existing = next(folder for folder in (out.absolute().parent, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise WeightsError("convert_no_room", path=str(out), needed=_format_bytes(num_bytes), free=_format_bytes(free))


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _count_other_bytes(folder: Path, content: ModelContent) -> int:
    replaced = set(content.components)
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if path.relative_to(folder).parts[0] not in replaced)


@contextmanager
def temporary_result(out: Path) -> Iterator[Path]:
    """A path beside the result that gets the result's name at the end, and is removed after an error.

    So are the folders that were made for it.
    """
    folders = [folder for folder in out.absolute().parents if not folder.exists()]
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid4().hex[:8]}{out.suffix}")
    try:
        yield temporary
        temporary.rename(out)
    except OSError as error:
        if error.filename is None or error.errno in DISK_FULL:  # of a copy, the name would be that of its source
            error.filename = str(out)
        raise
    except SafetensorError as error:  # has the error of the system as a text, and no file
        if "os error 28" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from None
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        for folder in folders if not out.exists() else ():
            folder.rmdir()


def _write(path: Path, tensors: LazyTensors, on_bytes: ProgressListener) -> None:
    def report(tensor: LazyTensor) -> LazyTensor:
        def read() -> torch.Tensor:
            on_bytes(tensor.num_bytes)
            return tensor.read()

        return replace(tensor, read=read)

    watched = {name: report(tensor) for name, tensor in tensors.items()}
    (write_pt if path.suffix in PT_SUFFIXES else write_safetensors)(path, watched)


def _gather_file_tensors(content: ModelContent, out: Path) -> LazyTensors:
    """All tensors of a result that is one file, under the names of its format."""
    names = set(content.components)
    network = next(iter(names & {"transformer", "controlnet"}), None)
    if network is None:
        raise WeightsError("convert_without_transformer", components=sorted(names))
    try:
        tensors = convert_to_tencent(content.components[network])
    except KeyError as error:
        raise WeightsError("convert_not_hunyuan", name=str(error.args[0])) from None
    if out.suffix in PT_SUFFIXES or content.kind == "component":
        return tensors
    missing = sorted(set(SINGLE_FILE_PREFIXES) - names)
    if missing:
        raise WeightsError("convert_components_missing", names=missing)
    gathered: LazyTensors = {}
    for component, prefix in SINGLE_FILE_PREFIXES.items():
        part = tensors if component == "transformer" else content.components[component]
        gathered |= {prefix + name: tensor for name, tensor in part.items()}
    spiece = None if content.folder is None else content.folder / "tokenizer_2" / "spiece.model"
    if spiece is not None and spiece.is_file():  # ComfyUI reads the vocabulary of mT5 from the file
        gathered[SPIECE_NAME] = LazyTensor.from_tensor(
            torch.frombuffer(bytearray(spiece.read_bytes()), dtype=torch.uint8)
        )
    return gathered


def _check_file(path: Path, tensors: LazyTensors) -> None:
    """Read a file back and compare every tensor. Raises: WeightsError also for numbers that are not finite."""
    written = open_checkpoint(path)
    wrong, not_finite = [], []
    for name, tensor in tensors.items():
        expected = tensor.read()
        if name not in written or not torch.equal(_to_bytes(written[name].read()), _to_bytes(expected)):
            wrong.append(name)
        if expected.is_floating_point() and not torch.isfinite(expected.float()).all():
            not_finite.append(name)
    if not_finite:
        raise WeightsError("convert_not_finite", names=summarize_names(not_finite))
    if wrong or len(written) != len(tensors):
        raise WeightsError("convert_result_differs", path=str(path), names=summarize_names(wrong))


def _to_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _write_folder(folder: Path, content: ModelContent, *, base: Path | None, on_bytes: ProgressListener) -> None:
    rest = base or content.folder
    if content.kind == "single file" and base is None:
        raise WeightsError("convert_needs_base", components=sorted(set(SINGLE_FILE_PREFIXES) - {"transformer"}))
    if content.kind == "component" and base is None:
        (network,) = content.components
        folder.mkdir()
        _write_component(folder, content.components[network], content.configs[network], on_bytes)
        return
    assert rest is not None
    names = {each.name for each in read_components(rest)}
    strangers = sorted(set(content.components) - names)
    if strangers:
        raise WeightsError("convert_base_lacks", folder=str(rest), names=strangers)

    _copy_folder(rest, folder, without_weights=set(content.components))
    for name, tensors in content.components.items():
        _write_component(folder / name, tensors, content.configs.get(name), on_bytes)
    if (folder / "SHA256SUMS").is_file():  # those of the base
        (folder / "SHA256SUMS").unlink()


def _copy_folder(source: Path, out: Path, *, without_weights: set[str]) -> None:
    """Copy a pipeline's folder without the weights of some components; the first error ends it.

    `shutil.copytree` would go on with the next file, and hide that the disk is full in a list of texts.
    """
    for folder, _, names in os.walk(source, followlinks=True):
        place = Path(folder).relative_to(source)
        patterns = WEIGHT_PATTERNS if str(place) in without_weights else ()
        (out / place).mkdir()
        for name in names:
            if not any(Path(name).match(pattern) for pattern in patterns):
                shutil.copy2(Path(folder, name), out / place / name)


def _write_component(
    folder: Path, tensors: LazyTensors, config: dict[str, Any] | None, on_bytes: ProgressListener
) -> None:
    if config is None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    else:
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    stem = "diffusion_pytorch_model" if "_class_name" in config else "model"
    _write(folder / f"{stem}.safetensors", tensors, on_bytes)


def _check_folder(folder: Path, content: ModelContent) -> None:
    """Compare what was written with the classes that will load it. Raises: WeightsError."""
    if (folder / "model_index.json").is_file():
        written = [each for each in read_components(folder) if each.name in content.components]
    else:
        ((name, config),) = content.configs.items()
        library, class_name = "diffusers", config["_class_name"]
        files = tuple(folder.glob("*.safetensors"))
        written = [Component(name=name, library=library, class_name=class_name, folder=folder, files=files)]
    for component in written:
        check_names_and_shapes(component)
        check_finite(component)
