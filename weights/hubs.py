"""Model hubs: downloads from the Hugging Face Hub, from a mirror of it, or from ModelScope.

Mirrors are set as `HF_ENDPOINT`, which huggingface_hub reads when it is imported.
"""

import os
from pathlib import Path
from typing import Any, Literal, get_args

from dianjing.errors import DianjingError
from dianjing.weights.manifest import WeightsError

ModelSource = Literal["huggingface", "modelscope"]
MODEL_SOURCES: tuple[ModelSource, ...] = get_args(ModelSource)
SOURCE_VARIABLE = "DIANJING_SOURCE"
# what a pipeline loads, chat templates of text encoders included; never a pickle, never code
ALLOW_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
VARIANT_PATTERNS = ["*.fp16.safetensors", "*.bf16.safetensors", "*.fp16-*.safetensors", "*.bf16-*.safetensors"]


def get_model_source(source: str | None = None) -> ModelSource:
    """Return the hub to download from: the one given, else that of DIANJING_SOURCE, else the Hugging Face Hub.

    Raises: DianjingError for an unknown one.
    """
    name = source or os.environ.get(SOURCE_VARIABLE) or MODEL_SOURCES[0]
    for known in MODEL_SOURCES:
        if name == known:
            return known
    raise DianjingError("model_source_unknown", source=name, allowed=MODEL_SOURCES)


def download_from_huggingface(repository: str, *, variant: str | None, local_files_only: bool, **options: Any) -> Path:
    """Return the folder of a repository of the Hugging Face Hub, downloaded where it is not cached.

    options: revision, cache_dir, token and force_download, as `huggingface_hub.snapshot_download` takes them.

    Raises: WeightsError if it cannot be downloaded.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository,
            allow_patterns=ALLOW_PATTERNS,
            ignore_patterns=None if variant else VARIANT_PATTERNS,
            local_files_only=local_files_only,
            **options,
        )
    except LocalEntryNotFoundError:
        raise WeightsError("model_not_local", repository=repository, endpoint=constants.ENDPOINT) from None
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError("download_failed", repository=repository, reason=_get_first_line(error)) from None
    return Path(folder)


def download_from_modelscope(
    repository: str,
    *,
    revision: str | None,
    variant: str | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    """Return the folder of a ModelScope repository, downloaded where it is not cached.

    Raises: DianjingError without the package modelscope; WeightsError if it cannot be downloaded.
    """
    try:
        from modelscope.hub.errors import HubError
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError:
        raise DianjingError("modelscope_not_installed") from None
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=ALLOW_PATTERNS,
            ignore_patterns=None if variant else VARIANT_PATTERNS,
            token=token if isinstance(token, str) else None,
        )
    except (HubError, OSError, ValueError) as error:  # ValueError: not cached, with local_files_only
        raise WeightsError("download_failed", repository=repository, reason=_get_first_line(error)) from None
    return Path(folder)


def _get_first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
