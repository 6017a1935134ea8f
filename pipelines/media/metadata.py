"""A picture becomes a file: whole or not at all, with its settings and its label inside.

Settings are iTXt chunks (`prompt`, `seed`, `settings`, `model`, `version`). The label is the implicit
one of China's GB 45438-2025: a JSON `AIGC` in XMP.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GenerationMetadata:
    """What made a picture: enough to make it again."""

    prompt: str
    seed: int
    settings: dict[str, object]
    model: str
    version: str


def get_sampling_metadata(pipe: Any) -> dict[str, object]:
    """What a pipeline's last call was done with, as the pipeline tells it: the defaults are the model's own."""
    return {
        "num_inference_steps": pipe.num_timesteps,
        "guidance_scale": pipe.guidance_scale,
        "scheduler": type(pipe.scheduler).__name__,
        "device": str(pipe.device.type),
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }


def serialize_metadata(metadata: GenerationMetadata) -> dict[str, str]:
    """What a file holds of a record, key by key."""
    return {
        "prompt": metadata.prompt,
        "seed": str(metadata.seed),
        "settings": json.dumps(metadata.settings, ensure_ascii=False, sort_keys=True),
        "model": metadata.model,
        "version": metadata.version,
    }


def parse_metadata(texts: Mapping[str, str]) -> GenerationMetadata:
    """The inverse of `to_texts`. Raises KeyError, ValueError or TypeError."""
    return GenerationMetadata(
        prompt=texts["prompt"],
        seed=int(texts["seed"]),
        settings=dict(json.loads(texts["settings"])),
        model=texts["model"],
        version=texts["version"],
    )
