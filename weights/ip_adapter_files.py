"""Files of IP-Adapters and of their image towers: in folders, and on the Hub."""

from os import PathLike
from pathlib import Path
from typing import Any

from dianjing.weights.manifest import WeightsError, check_weight_files, read_tensor_shapes
from dianjing.weights.resolve import HUB_ID_PATTERN

IP_ADAPTER_NAMES = ("ipa.safetensors", "ipa.pt")
IMAGE_ENCODER_NAME = "clip_img_encoder.pt"
DEFAULT_ENCODER_FOLDER = "image_encoder"  # of diffusers


def find_ip_adapter(
    source: str | PathLike, *, subfolder: str = "", weight_name: str | None = None, **options: Any
) -> Path:
    """Find the weights of an IP-Adapter: a file, or the file of a folder or of a Hub id.

    options: those of `hf_hub_download`.
    Raises: WeightsError if there is none.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        names = (weight_name,) if weight_name else IP_ADAPTER_NAMES
        found = next((path / subfolder / name for name in names if (path / subfolder / name).is_file()), None)
        if found is None:
            raise WeightsError("ip_adapter_file_missing", path=str(path / subfolder), names=list(names))
        return found
    if not HUB_ID_PATTERN.fullmatch(str(source)):
        raise WeightsError("ip_adapter_not_found", path=str(source))
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        file = hf_hub_download(str(source), weight_name or IP_ADAPTER_NAMES[-1], subfolder=subfolder or None, **options)
    except LocalEntryNotFoundError:
        raise WeightsError("model_not_local", repository=str(source), endpoint=constants.ENDPOINT) from None
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise WeightsError("download_failed", repository=str(source), reason=reason) from None
    return Path(file)


def check_ip_adapter_path(source: str | PathLike) -> None:
    """Check that there is an IP-Adapter at a path, or that it has the form of a Hub id.

    Raises: WeightsError also for a safetensors file that is damaged or cut off.
    """
    if Path(source).exists():
        _check_header(find_ip_adapter(source))
    elif not HUB_ID_PATTERN.fullmatch(str(source)):
        raise WeightsError("ip_adapter_not_found", path=str(source))


def find_image_encoder(name: str | PathLike, *, weights: Path | None) -> Path | None:
    """Find an image tower: the path itself, or in the folder of the weights; None if the default is not there.

    Raises: WeightsError for another name that does not exist, and for safetensors that are damaged or cut off.
    """
    candidates = [Path(name)] if str(name) != DEFAULT_ENCODER_FOLDER or Path(name).is_dir() else []
    if weights is not None:
        folders = (weights.parent, weights.parent / IMAGE_ENCODER_NAME.partition(".")[0], weights.parent.parent)
        candidates += [folder / each for folder in folders for each in (name, IMAGE_ENCODER_NAME)]
    found = next((path for path in candidates if path.exists()), None)
    if found is None and str(name) != DEFAULT_ENCODER_FOLDER:
        raise WeightsError("image_encoder_not_found", path=str(name))
    if found is not None and found.is_dir():
        check_weight_files(found)
    elif found is not None:
        _check_header(found)
    return found


def _check_header(file: Path) -> None:
    if file.suffix == ".safetensors":
        read_tensor_shapes(file)
