"""Files of LoRA adapters: found, and checked by their headers, before anything is loaded. Torch is not imported."""

from os import PathLike
from pathlib import Path

from dianjing.errors import DianjingError
from dianjing.weights.manifest import PICKLE_SUFFIXES, read_tensor_shapes, summarize_names
from dianjing.weights.resolve import HUB_ID_PATTERN

PEFT_WEIGHTS_NAME = "adapter_model.safetensors"
LORA_WEIGHTS_NAME = "pytorch_lora_weights.safetensors"  # of diffusers
PREFERRED_NAMES = (PEFT_WEIGHTS_NAME, LORA_WEIGHTS_NAME)
# of torch's ModuleDict and ParameterDict, in which PEFT keeps adapters by name; smart_apply is by transformers
ATTRIBUTES = """
    add_module apply bfloat16 buffers call_super_init children clear compile copy cpu cuda double
    dump_patches eval extra_repr float forward fromkeys get get_buffer get_extra_state get_parameter
    get_submodule half ipu items keys load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters pop popitem register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook
    requires_grad_ set_extra_state set_submodule setdefault share_memory smart_apply state_dict
    T_destination to to_empty train training type update values xpu zero_grad
"""
RESERVED_NAMES = frozenset(ATTRIBUTES.split())
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


def is_usable_name(name: str) -> bool:
    """Tell whether PEFT can hold an adapter of a name: none that is empty, has a dot or is an attribute of torch's."""
    return name != "" and "." not in name and not name.startswith("_") and name not in RESERVED_NAMES
