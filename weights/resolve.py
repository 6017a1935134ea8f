"""From what a user names to a folder on this machine: a registry name, a folder or a Hub id."""

import re
from os import PathLike
from pathlib import Path

from dianjing.weights import registry
from dianjing.weights.manifest import WeightsError

HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


# what a pipeline loads; never a pickle, never code
ALLOW_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]


VARIANT_PATTERNS = ["*.fp16.safetensors", "*.bf16.safetensors", "*.fp16-*.safetensors", "*.bf16-*.safetensors"]


def resolve_model(
    name_or_path: str | PathLike,
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return the model folder, downloading it when it is neither embedded nor cached.

    Raises: WeightsError when there is no such model or it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    folder = resolve_local_model(name_or_path)
    if folder is not None:
        return folder
    entry = registry.get_model_info(str(name_or_path))
    hub_id, pinned = (entry.source, entry.revision) if entry else (str(name_or_path), None)
    try:
        downloaded = snapshot_download(
            hub_id,
            revision=revision or pinned,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
            allow_patterns=ALLOW_PATTERNS,
            ignore_patterns=None if variant else VARIANT_PATTERNS,
        )
    except LocalEntryNotFoundError:
        raise WeightsError(
            f"{hub_id} is not on this machine and the Hub cannot be reached; connect to the network, copy the "
            'folder here and give its path, or use the embedded model "sticker"'
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{hub_id} cannot be fetched from the Hub: {reason}") from None
    return Path(downloaded)


def resolve_local_model(name_or_path: str | PathLike) -> Path | None:
    """The folder of an embedded or local model, None for one on the Hub; touches no network.

    Raises: WeightsError for what is none of these.
    """
    name = str(name_or_path)
    entry = registry.get_model_info(name)
    if entry is not None:
        if entry.bundled_folder is not None and not (entry.bundled_folder / "model_index.json").is_file():
            raise WeightsError(
                f"the embedded bundle {name!r} is missing from {entry.bundled_folder}; install the package again, or train it "
                "in a checkout: python -m dianjing.train.recipes.sticker"
            )
        return entry.bundled_folder
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise WeightsError(f"{name} is a file; give the model's folder, the one that holds model_index.json")
    if HUB_ID_PATTERN.fullmatch(name):
        return None
    raise WeightsError(
        f"there is no model {name!r}: it is no name, no folder here and no Hub id (owner/name); "
        f"{registry.suggest_model_names(name)}"
    )
