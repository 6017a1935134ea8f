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

from dianjing.dit.transformer import DiT
from dianjing.weights.manifest import (
    Component,
    WeightsError,
    read_components,
    read_config_json,
    read_tensor_shapes,
    summarize_names,
)

DIANJING_CLASSES = {"DiT": DiT, "HunyuanDiT2DModel": DiT}


# names that older releases of the libraries wrote, and that they rename when they load
LEGACY_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


LEGACY_ATTENTION_PATTERN = re.compile(rf"(?<=\.)({'|'.join(LEGACY_ATTENTION_NAMES)})(?=\.(weight|bias)$)")


IGNORED_EXTRA_PATTERN = re.compile(r"(^|\.)position_ids$")  # a buffer that older releases saved


def validate_model(folder: Path, *, variant: str | None = None) -> None:
    """Raise WeightsError unless every tensor is there, has its shape and is finite."""
    for component in read_components(folder, variant):
        if component.files:
            check_names_and_shapes(component)
            check_finite(component)


def check_names_and_shapes(component: Component) -> None:
    """Compare the files' headers with the class that the folder names, built without memory."""
    model = _build_on_meta_device(component)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {}
    for file in component.files:
        for name, shape in read_tensor_shapes(file).items():
            found[_convert_legacy_name(name, wanted)] = shape
    where = f"the weights of {component.name} ({component.folder})"
    wrong = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        raise WeightsError(f"{where} do not fit its config.json: {summarize_names(wrong, 3)}")
    missing = _find_missing(model, found)
    if missing:
        raise WeightsError(f"{where} lack {len(missing)} tensors: {summarize_names(missing)}")
    extra = [name for name in found if name not in wanted and not IGNORED_EXTRA_PATTERN.search(name)]
    if extra:
        raise WeightsError(
            f"{where} hold {len(extra)} tensors that {component.class_name} does not have: "
            f"{summarize_names(extra)}; the config.json beside them may be another model's"
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
            f"{summarize_names(bad)}; the training that made them diverged or the file is damaged"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # isfinite is not written for every 8-bit format
    return bool(torch.isfinite(tensor).all())


def _get_network_class(component: Component) -> Any:
    if component.class_name in DIANJING_CLASSES:
        return DIANJING_CLASSES[component.class_name]
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


def _build_on_meta_device(component: Component) -> nn.Module:
    config = read_config_json(component.folder / "config.json")
    cls = _get_network_class(component)
    try:
        with torch.device("meta"):
            if issubclass(cls, ModelMixin):
                return cls.from_config(config)
            return cls(cls.config_class.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{component.folder / 'config.json'} does not describe a {component.class_name}: {error}"
        ) from None


def _convert_legacy_name(name: str, expected_shapes: dict) -> str:
    renamed = LEGACY_ATTENTION_PATTERN.sub(lambda match: LEGACY_ATTENTION_NAMES[match[0]], name)
    return renamed if name not in expected_shapes and renamed in expected_shapes else name


def _find_missing(model: nn.Module, stored_shapes: dict) -> list[str]:
    """Names that are not in the files; of tied weights any one name is enough."""
    tensors = model.state_dict(keep_vars=True)
    present = {id(tensors[name]) for name in stored_shapes if name in tensors}
    return [name for name, tensor in tensors.items() if id(tensor) not in present]
