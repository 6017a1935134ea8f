"""Descriptions of models for their users: name, licence, and the sizes that they were trained for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from dianjing.weights import registry
from dianjing.weights.manifest import read_config_json
from dianjing.weights.registry import ModelInfo, Size

TRAINED_SIZES_KEY = "trained_sizes"  # in model_index.json: [[width, height], ...] in px


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """A model as its users see it.

    name: a registry name, a Hub id, or the name of a folder without its path. licence: None if neither the registry nor
    the folder's model card names one. trained_sizes: (width, height) in px, empty if unknown.
    """

    name: str
    licence: str | None = None
    trained_sizes: tuple[Size, ...] = ()


def describe_model(name_or_path: str, folder: Path | None = None) -> ModelDescription:
    """Describe a model by its registry entry, or else by its folder: `model_index.json` and the model card.

    folder: where the weights of a downloaded model lie; None for a local one.
    """
    is_folder = Path(name_or_path).is_dir() and registry.get_model_info(name_or_path) is None
    name = Path(name_or_path).resolve().name if is_folder else name_or_path
    folder = Path(name_or_path) if is_folder else folder
    model_info = _find_model_info(name_or_path, folder)
    if model_info is not None:
        return ModelDescription(name=name, licence=model_info.licence, trained_sizes=model_info.trained_sizes)
    if folder is None:
        return ModelDescription(name=name)
    return ModelDescription(name=name, licence=_read_licence(folder), trained_sizes=_read_trained_sizes(folder))


def _find_model_info(name_or_path: str, folder: Path | None) -> ModelInfo | None:
    """Find the registry entry of a name, of a repository, or of a bundle's own folder."""
    for model_info in registry.MODELS:
        bundle = model_info.bundled_folder
        if name_or_path in (model_info.name, model_info.repository, model_info.modelscope_repository):
            return model_info
        if bundle is not None and folder is not None and bundle.resolve() == folder.resolve():
            return model_info
    return None


def _read_licence(folder: Path) -> str | None:
    """Read the licence in the model card of a folder; `license_name` says which one "other" is."""
    try:
        card = ModelCard((folder / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError):
        return None
    licence = card.get("license_name") if card.get("license") in (None, "other") else card.get("license")
    return str(licence) if licence else None


def _read_trained_sizes(folder: Path) -> tuple[Size, ...]:
    sizes = read_config_json(folder / "model_index.json").get(TRAINED_SIZES_KEY)
    return tuple((each[0], each[1]) for each in sizes if _is_size(each)) if isinstance(sizes, list) else ()


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
