"""Resolving: from what a user names, a registry name, a folder or a hub id, to a folder on this machine."""

import re
from os import PathLike
from pathlib import Path

from dianjing.weights import registry
from dianjing.weights.hubs import download_from_huggingface, download_from_modelscope, get_model_source
from dianjing.weights.manifest import WeightsError

HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(
    name_or_path: str | PathLike,
    *,
    source: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return the folder of a model, downloaded if it is neither bundled nor local nor cached.

    source: "huggingface" or "modelscope"; None is what the environment variable DIANJING_SOURCE says, by default
    "huggingface". Registry names stand for the repository that the source has; a hub id is one of the source.

    Raises: WeightsError for a model that does not exist or cannot be downloaded; DianjingError for an unknown source.
    """
    folder = resolve_local_model(name_or_path)
    if folder is not None:
        return folder
    name, model_info = str(name_or_path), registry.get_model_info(str(name_or_path))
    if get_model_source(source) == "modelscope":
        repository = name if model_info is None else model_info.modelscope_repository
        if repository is None:
            raise WeightsError("model_not_on_modelscope", name=name)
        return download_from_modelscope(
            repository,
            revision=revision,
            variant=variant,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
    repository, pinned = (name, None) if model_info is None else (model_info.repository, model_info.revision)
    assert repository is not None  # bundles are local
    return download_from_huggingface(
        repository,
        variant=variant,
        local_files_only=local_files_only,
        revision=revision or pinned,
        cache_dir=cache_dir,
        token=token,
        force_download=force_download,
    )


def resolve_local_model(name_or_path: str | PathLike) -> Path | None:
    """Return the folder of a bundled or local model, or None for one that a hub has; uses no network.

    Raises: WeightsError for anything else.
    """
    name = str(name_or_path)
    model_info = registry.get_model_info(name)
    if model_info is not None:
        folder = model_info.bundled_folder
        if folder is not None and not (folder / "model_index.json").is_file():
            raise WeightsError("bundle_missing", name=name, folder=str(folder))
        return folder
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise WeightsError("model_is_a_file", path=name)
    if HUB_ID_PATTERN.fullmatch(name):
        return None
    known, suggestion = [each.name for each in registry.MODELS], registry.suggest_model_name(name)
    if suggestion is not None:
        raise WeightsError("model_name_misspelt", name=name, suggestion=suggestion, known=known)
    raise WeightsError("model_unknown", name=name, known=known)
