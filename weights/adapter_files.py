"""Files of LoRA adapters: found, and checked by their headers, before anything is loaded. Torch is not imported."""

from os import PathLike
from pathlib import Path

from dianjing.errors import DianjingError
from dianjing.weights.manifest import PICKLE_SUFFIXES, read_tensor_shapes, summarize_names
from dianjing.weights.resolve import HUB_ID_PATTERN

PEFT_WEIGHTS_NAME = "adapter_model.safetensors"
LORA_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"  # of diffusers
PREFERRED_NAMES = (PEFT_WEIGHTS_NAME, LORA_WEIGHTS_NAME)
OTHER_CONTENT = ("scheduler", "optimizer", "checkpoint")  # in names of files that hold no adapter


def check_adapter_path(
    source: str | PathLike, *, subfolder: str | None = None, weight_name: str | None = None
) -> Path | None:
    """Find the weights of an adapter, and check that they are a whole safetensors file.

    source: a file, a folder that holds one, or a Hub id. Returns the file; None for the form of a Hub id.
    Raises: DianjingError for a path that is no adapter, a pickle, and a file that is damaged or cut off.
    """
    for name in (weight_name, source):
        if name is not None and str(name).endswith(PICKLE_SUFFIXES):
            raise DianjingError("adapter_is_pickle", path=name)
    file = find_adapter_file(source, subfolder=subfolder, weight_name=weight_name)
    if file is not None:
        read_tensor_shapes(file)
        return file
    if Path(source).exists():
        folder = Path(source) / (subfolder or "")
        pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise DianjingError("weights_only_as_pickle", folder=folder, names=summarize_names(pickles))
        raise DianjingError("adapter_folder_empty", path=folder, name=weight_name or "*.safetensors")
    if not HUB_ID_PATTERN.fullmatch(str(source)):
        raise DianjingError("adapter_not_found", path=source)
    return None


def find_adapter_file(
    source: str | PathLike, *, subfolder: str | None = None, weight_name: str | None = None
) -> Path | None:
    """Find the weights of a local adapter: the file itself, or that of a folder; None if there is none.

    Of several files in a folder, the names of PEFT and diffusers come first.
    """
    path = Path(source)
    if path.is_file():
        return path
    folder = path / (subfolder or "")
    if weight_name is not None:
        return folder / weight_name if (folder / weight_name).is_file() else None
    named = [folder / name for name in PREFERRED_NAMES if (folder / name).is_file()]
    others = [file for file in sorted(folder.glob("*.safetensors")) if not any(s in file.name for s in OTHER_CONTENT)]
    return next(iter([*named, *others]), None)
