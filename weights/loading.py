"""A model folder checked tensor by tensor before a pipeline takes it.

safetensors files load missing, surplus and NaN tensors without a word; here each has its name.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import nn

from dianjing.dit.model import DiT
from dianjing.weights.folder import (
    Component,
    WeightsError,
    read_components,
    read_config,
    read_header,
    several,
)

OUR_CLASSES = {"DiT": DiT, "HunyuanDiT2DModel": DiT}
# names that older releases of the libraries wrote, and that they rename when they load
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION = re.compile(rf"(?<=\.)({'|'.join(OLD_ATTENTION_NAMES)})(?=\.(weight|bias)$)")
HARMLESS_EXTRA = re.compile(r"(^|\.)position_ids$")  # a buffer that older releases saved


def check_folder(folder: Path, *, variant: str | None = None) -> None:
    """Raise WeightsError unless every tensor is there, has its shape and is finite."""
    for component in read_components(folder, variant):
        if component.files:
            check_names_and_shapes(component)
            check_finite(component)


def check_names_and_shapes(component: Component) -> None:
    """Compare the files' headers with the class that the folder names, built without memory."""
    model = _build_empty(component)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {}
    for file in component.files:
        for name, shape in read_header(file).items():
            found[_current_name(name, wanted)] = shape
    where = f"the weights of {component.name} ({component.folder})"
    wrong = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        raise WeightsError(f"{where} do not fit its config.json: {several(wrong, 3)}")
    missing = _missing(model, found)
    if missing:
        raise WeightsError(f"{where} lack {len(missing)} tensors: {several(missing)}")
    extra = [name for name in found if name not in wanted and not HARMLESS_EXTRA.search(name)]
    if extra:
        raise WeightsError(
            f"{where} hold {len(extra)} tensors that {component.class_name} does not have: "
            f"{several(extra)}; the config.json beside them may be another model's"
        )


def check_finite(component: Component) -> None:
    """Raise WeightsError that names the tensors with NaN or infinity."""
    bad = []
    for path in component.files:
        try:
            with safe_open(path, framework="pt") as file:
                bad += [name for name in file.keys() if not _is_finite(file.get_tensor(name))]  # noqa: SIM118
        except SafetensorError as error:
            raise WeightsError(f"{path} cannot be read ({error}); fetch it again") from None
    if bad:
        raise WeightsError(
            f"the weights of {component.name} ({component.folder}) hold NaN or infinity in "
            f"{several(bad)}; the training that made them diverged or the file is damaged"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # isfinite is not written for every 8-bit format
    return bool(torch.isfinite(tensor).all())


def _network_class(component: Component) -> Any:
    if component.class_name in OUR_CLASSES:
        return OUR_CLASSES[component.class_name]
    libraries = {
        "diffusers": diffusers,
        "transformers": transformers,
        "stable_diffusion": diffusers.pipelines.stable_diffusion,  # its name for its safety checker's home
    }
    cls = getattr(libraries.get(component.library), component.class_name, None)
    if inspect.isclass(cls) and issubclass(cls, nn.Module):
        return cls
    raise WeightsError(
        f"{component.folder} holds weights for {component.class_name}, which {component.library} does not have"
    )


def _build_empty(component: Component) -> nn.Module:
    config = read_config(component.folder / "config.json")
    cls = _network_class(component)
    try:
        with torch.device("meta"):
            if issubclass(cls, ModelMixin):
                return cls.from_config(config)
            return cls(cls.config_class.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{component.folder / 'config.json'} does not describe a {component.class_name}: {error}"
        ) from None


def _current_name(name: str, wanted: dict) -> str:
    renamed = OLD_ATTENTION.sub(lambda match: OLD_ATTENTION_NAMES[match[0]], name)
    return renamed if name not in wanted and renamed in wanted else name


def _missing(model: nn.Module, found: dict) -> list[str]:
    """Names that are not in the files; of tied weights any one name is enough."""
    tensors = model.state_dict(keep_vars=True)
    present = {id(tensors[name]) for name in found if name in tensors}
    return [name for name, tensor in tensors.items() if id(tensor) not in present]
