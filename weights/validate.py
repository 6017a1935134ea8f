"""Validation: a model folder is checked tensor by tensor before a pipeline loads it.

The libraries load safetensors files with missing, unknown or NaN tensors silently; here each is named.
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
from dianjing.errors import DianjingError, Message
from dianjing.weights.manifest import (
    Component,
    WeightsError,
    read_components,
    read_config_json,
    read_tensor_shapes,
    summarize_names,
)

DIANJING_CLASSES = {"DiT": DiT, "HunyuanDiT2DModel": DiT}
MAX_LISTED_SHAPES = 3
# names that older releases of the libraries wrote, and that they rename when they load
LEGACY_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
LEGACY_ATTENTION_PATTERN = re.compile(rf"(?<=\.)({'|'.join(LEGACY_ATTENTION_NAMES)})(?=\.(weight|bias)$)")
IGNORED_EXTRA_PATTERN = re.compile(r"(^|\.)position_ids$")  # a buffer that older releases saved

Fingerprint = tuple[tuple[Path, int, int], ...]  # path, size and time of change of each file
_valid_components: set[tuple[str, Fingerprint]] = set()


def validate_model(folder: Path, *, variant: str | None = None) -> None:
    """Check that every tensor is there, has its shape and is finite.

    Components that this process has checked are not read again as long as their files are unchanged.

    Raises: WeightsError that names what is wrong.
    """
    for component in read_components(folder, variant):
        validate_component(component)


def validate_component(component: Component) -> None:
    """Check the tensors of one network as `validate_model` does those of all."""
    key = (component.class_name, _get_fingerprint(component))
    if component.files and key not in _valid_components:
        check_names_and_shapes(component)
        check_finite(component)
        _valid_components.add(key)


def _get_fingerprint(component: Component) -> Fingerprint:
    paths = [component.folder / "config.json", *component.files]
    stats = [(path.resolve(), path.stat()) for path in paths if path.is_file()]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def check_names_and_shapes(component: Component) -> None:
    """Compare the headers of a component's files with the class that the folder names, built on the meta device.

    Raises: WeightsError for tensors that are missing, unknown or of another shape.
    """
    model = _build_on_meta_device(component)
    expected_shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored_shapes = {}
    for file in component.files:
        for name, shape in read_tensor_shapes(file).items():
            stored_shapes[_convert_legacy_name(name, expected_shapes)] = shape
    place = {"component": component.name, "folder": str(component.folder)}
    mismatched = [name for name, shape in expected_shapes.items() if stored_shapes.get(name, shape) != shape]
    if mismatched:
        shapes = [
            Message(
                "tensor_shape_differs", name=name, stored=str(stored_shapes[name]), expected=str(expected_shapes[name])
            )
            for name in mismatched
        ]
        raise WeightsError("tensor_shapes_mismatch", **place, shapes=summarize_names(shapes, MAX_LISTED_SHAPES))
    missing = _find_missing(model, stored_shapes)
    if missing:
        raise WeightsError("tensors_missing", **place, count=len(missing), names=summarize_names(missing))
    extra = [name for name in stored_shapes if name not in expected_shapes and not IGNORED_EXTRA_PATTERN.search(name)]
    if extra:
        raise WeightsError(
            "tensors_unknown", **place, count=len(extra), names=summarize_names(extra), class_name=component.class_name
        )


def check_finite(component: Component) -> None:
    """Check that no tensor holds NaN or infinity. Raises: WeightsError that names those that do."""
    not_finite = []
    for path in component.files:
        try:
            with safe_open(path, framework="pt") as file:
                not_finite += [name for name in file.keys() if not _is_finite(file.get_tensor(name))]  # noqa: SIM118
        except SafetensorError as error:
            raise WeightsError("weights_unreadable", path=str(path), reason=str(error)) from None
    if not_finite:
        raise WeightsError(
            "tensors_not_finite",
            component=component.name,
            folder=str(component.folder),
            names=summarize_names(not_finite),
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # isfinite is not implemented for every 8-bit format
    return bool(torch.isfinite(tensor).all())


def _get_network_class(component: Component) -> Any:
    """Return the class of a network by library and name. Raises: WeightsError for one that does not exist."""
    if component.class_name in DIANJING_CLASSES:
        return DIANJING_CLASSES[component.class_name]
    libraries = {
        "diffusers": diffusers,
        "transformers": transformers,
        "stable_diffusion": diffusers.pipelines.stable_diffusion,  # where its index says the safety checker is
    }
    cls = getattr(libraries.get(component.library), component.class_name, None)
    if inspect.isclass(cls) and issubclass(cls, nn.Module):
        return cls
    raise WeightsError(
        "network_class_unknown",
        folder=str(component.folder),
        class_name=component.class_name,
        library=component.library,
    )


def _build_on_meta_device(component: Component) -> nn.Module:
    """Build a network without memory. Raises: WeightsError for a configuration that cannot work."""
    path = component.folder / "config.json"
    config = read_config_json(path)
    cls = _get_network_class(component)
    try:
        with torch.device("meta"):
            if issubclass(cls, ModelMixin):
                return cls.from_config(config)
            return cls(cls.config_class.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = error.message if isinstance(error, DianjingError) else str(error)
        raise WeightsError(
            "config_impossible", path=str(path), class_name=component.class_name, reason=reason
        ) from None


def _convert_legacy_name(name: str, expected_shapes: dict) -> str:
    """Rename a tensor as the libraries do when they load weights of an older release."""
    renamed = LEGACY_ATTENTION_PATTERN.sub(lambda match: LEGACY_ATTENTION_NAMES[match[0]], name)
    return renamed if name not in expected_shapes and renamed in expected_shapes else name


def _find_missing(model: nn.Module, stored_shapes: dict) -> list[str]:
    """Return names that are not in the files; of tied weights any one name is enough."""
    tensors = model.state_dict(keep_vars=True)
    present = {id(tensors[name]) for name in stored_shapes if name in tensors}
    return [name for name, tensor in tensors.items() if id(tensor) not in present]
