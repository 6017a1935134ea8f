"""Generation metadata: prompt, seed, settings, model and version, enough to generate an image or a video again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dianjing.pipelines.guiders import describe_guider

MAX_METADATA_CHARS = 1_000_000  # JSON of small values takes a hundred times the memory of its text
OFF_BY_DEFAULT = {"guidance_rescale": 0.0, "eta": 0.0, "guider": None, "default_adapter": None}  # recorded only if used


@dataclass(frozen=True, kw_only=True)
class GenerationMetadata:
    """Everything that an image or a video was generated from.

    settings: JSON values, such as the size, the number of steps, the guidance scale and the dtype.
    """

    prompt: str
    seed: int
    settings: dict[str, object]
    model: str
    version: str


def get_sampling_metadata(pipe: Any) -> dict[str, object]:
    """Settings of a pipeline's last call: the arguments that make it again, scheduler, device and dtype.

    A call with `default_adapter` is made again by one that gives neither steps nor a guidance scale.

    pipe: a pipeline with `sampling_params`, whose fields are arguments of its call.
    """
    from dianjing.pipelines.named_schedulers import describe_scheduler  # which needs torch, as nothing else here

    params = dict(vars(pipe.sampling_params))
    scheduler, default_adapter = pipe.scheduler, params.get("default_adapter")
    if default_adapter is not None:
        scheduler, params["default_adapter"] = default_adapter.scheduler, default_adapter.name
    if params["guider"] is not None:
        params["guider"] = describe_guider(params["guider"])
    return {
        **{name: value for name, value in params.items() if (name, value) not in OFF_BY_DEFAULT.items()},
        "scheduler": describe_scheduler(scheduler, pipe.trained_scheduler),
        "device": str(pipe.device.type),
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }


def compute_file_sha256(path: str | Path) -> str:
    """Compute the SHA-256 of a file, such as an adapter, that metadata names."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def compute_pixels_sha256(pixels: Any) -> str:
    """Compute the SHA-256 of uint8 pixels, row by row: of an input image (H, W, 3) in RGB, or a mask (H, W), 0 or 255.

    pixels: an array; it is the same for every file format that keeps the pixels.
    """
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def serialize_metadata(metadata: GenerationMetadata) -> dict[str, str]:
    """Convert metadata to the texts that files hold, by key."""
    return {
        "prompt": metadata.prompt,
        "seed": str(metadata.seed),
        "settings": json.dumps(metadata.settings, ensure_ascii=False, sort_keys=True),
        "model": metadata.model,
        "version": metadata.version,
    }


def parse_metadata_json(text: str | bytes) -> Any:
    """Parse JSON from the metadata of a file, which anybody may have written.

    Raises: ValueError for anything that is no JSON, that is too long or nested too deeply.
    """
    if len(text) > MAX_METADATA_CHARS:
        raise ValueError(f"metadata of {len(text)} characters")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("metadata nested too deeply") from None


def parse_metadata(texts: Mapping[str, str]) -> GenerationMetadata:
    """Invert `serialize_metadata`.

    Raises: KeyError, ValueError or TypeError for texts that it did not write.
    """
    return GenerationMetadata(
        prompt=texts["prompt"],
        seed=int(texts["seed"]),
        settings=dict(parse_metadata_json(texts["settings"])),
        model=texts["model"],
        version=texts["version"],
    )
