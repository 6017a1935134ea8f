"""Generation metadata: prompt, seed, settings, model and version, enough to generate an image or a video again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    """Settings of a pipeline's last call: steps and guidance as it ran them, scheduler, device and dtype."""
    return {
        "num_inference_steps": pipe.num_timesteps,
        "guidance_scale": pipe.guidance_scale,
        "scheduler": type(pipe.scheduler).__name__,
        "device": str(pipe.device.type),
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }


def serialize_metadata(metadata: GenerationMetadata) -> dict[str, str]:
    """Convert metadata to the texts that files hold, by key."""
    return {
        "prompt": metadata.prompt,
        "seed": str(metadata.seed),
        "settings": json.dumps(metadata.settings, ensure_ascii=False, sort_keys=True),
        "model": metadata.model,
        "version": metadata.version,
    }


def parse_metadata(texts: Mapping[str, str]) -> GenerationMetadata:
    """Invert `serialize_metadata`.

    Raises: KeyError, ValueError or TypeError for texts that it did not write.
    """
    return GenerationMetadata(
        prompt=texts["prompt"],
        seed=int(texts["seed"]),
        settings=dict(json.loads(texts["settings"])),
        model=texts["model"],
        version=texts["version"],
    )
