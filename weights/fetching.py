"""From what a user names to a folder on this machine: a registry name, a folder or a Hub id."""

import re
from pathlib import Path

from dianjing.weights import registry
from dianjing.weights.folder import WeightsError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# what a pipeline loads; never a pickle, never code
WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def find_folder(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the model folder, downloading it when it is neither embedded nor cached.

    Raises: WeightsError when there is no such model or it cannot be fetched.
    """
    entry = registry.find(str(name_or_path))
    if entry is not None and entry.folder is not None:
        if not (entry.folder / "model_index.json").is_file():
            raise WeightsError(
                f"the embedded bundle {entry.name!r} is missing from {entry.folder}; install the package again"
            )
        return entry.folder
    if entry is None and Path(name_or_path).is_dir():
        return Path(name_or_path)
    hub_id = entry.source if entry is not None else check_name(name_or_path)
    return _download(
        hub_id,
        revision=revision or (entry.revision if entry is not None else None),
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )


def check_name(name_or_path: str | Path) -> str:
    """Return a name that a registry entry, a folder or a Hub id can have; touch no network."""
    name = str(name_or_path)
    if registry.find(name) or Path(name).is_dir() or HUB_ID.fullmatch(name):
        return name
    if Path(name).exists():
        raise WeightsError(f"{name} is a file; give the model's folder, the one that holds model_index.json")
    raise WeightsError(
        f"there is no model {name!r}: it is no name, no folder here and no Hub id "
        f"(owner/name); {registry.suggestion(name)}"
    )


def _download(
    hub_id: str,
    *,
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            hub_id,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=WANTED_FILES,
        )
    except LocalEntryNotFoundError:
        raise WeightsError(
            f"{hub_id} is not on this machine and the Hub cannot be reached; connect to the "
            'network, copy the folder here and give its path, or use the embedded model "sticker"'
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{hub_id} cannot be fetched from the Hub: {reason}") from None
    return Path(folder)
