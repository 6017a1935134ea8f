"""Stages of gpu_once: their shares of the time, their run files, and what is set beside these."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.train.config.text_to_image import TransformerConfig

RECIPES = Path(__file__).parent
MIN_SIZE_PX = 32
MIN_STAGE_S = 1.0  # of a stage whose time is over: it still writes weights, after a step or two
# time of a stage that is reserved for its export and its pack: a fraction, within bounds in seconds
EXPORT_FRACTION, MIN_EXPORT_S, MAX_EXPORT_S = 0.15, 3.0, 10.0
MODEL_STAGES = ("text_to_image", "flow_field", "motion")  # each export contains what the stages before it trained


@dataclass(frozen=True, kw_only=True)
class GpuStage:
    """A stage: its share of the time, its run file, and the stage whose export it starts from.

    run_file: None for the evaluation, which trains nothing. size_divisor: its images are that many times smaller.
    tiny: names of the lists in gpu_once_tiny.json that apply to it.
    """

    name: str
    time_share: float
    run_file: str | None
    base: str | None = None
    size_divisor: int = 1
    tiny: tuple[str, ...] = ()


GPU_STAGES = (
    GpuStage(name="autoencoder", time_share=0.14, run_file="gpu_once_autoencoder.toml", tiny=("autoencoder",)),
    GpuStage(name="text_to_image", time_share=0.50, run_file="gpu_once_text_to_image.toml", tiny=("text_to_image",)),
    GpuStage(
        name="flow_field",
        time_share=0.09,
        run_file="gpu_once_flow_field.toml",
        base="text_to_image",
        size_divisor=4,
        tiny=("text_to_image", "clips"),
    ),
    GpuStage(
        name="motion",
        time_share=0.13,
        run_file="gpu_once_motion.toml",
        base="flow_field",
        tiny=("text_to_image", "clips"),
    ),
    GpuStage(name="segmenter", time_share=0.06, run_file="gpu_once_segmenter.toml", tiny=("segmenter",)),
    GpuStage(name="evaluation", time_share=0.08, run_file=None),
)


@dataclass(frozen=True, kw_only=True)
class GpuOnceSettings:
    """The settings of all stages.

    out: the folder of the pack. work: the folder of the runs. previous: a model folder to start from.
    """

    out: Path
    work: Path
    minutes: float
    size_px: int
    previous: Path | None
    is_tiny: bool

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() and not self.is_tiny else "cpu"

    def get_export(self, stage_name: str) -> Path:
        """Return the export of a stage's run."""
        return self.work / stage_name / "export"

    def get_bundle(self, stage_name: str) -> Path:
        """Return the model folder after a stage."""
        return self.work / "bundles" / stage_name


def allot_seconds(stages: Sequence[GpuStage], index: int, remaining_s: float) -> float:
    """Compute the time of a stage: its share of what remains, so that later stages get what earlier ones leave."""
    fraction = stages[index].time_share / sum(stage.time_share for stage in stages[index:])
    return max(MIN_STAGE_S, remaining_s * fraction)


def get_training_seconds(stage_s: float) -> float:
    """Compute how much of a stage's time it trains: at least half."""
    export_s = min(max(EXPORT_FRACTION * stage_s, MIN_EXPORT_S), MAX_EXPORT_S)
    return max(stage_s - export_s, stage_s / 2)


def make_overrides(stage: GpuStage, settings: GpuOnceSettings, stage_s: float) -> list[str]:
    """Make the settings beside the run file of a stage, in the form that `--set` takes."""
    values: dict[str, Any] = {
        "run.folder": settings.work / stage.name,
        "run.max_minutes": get_training_seconds(stage_s) / 60,
        "data.size_px": max(MIN_SIZE_PX, settings.size_px // stage.size_divisor),
        "data.num_workers": max(1, (os.cpu_count() or 1) - 2),
    }
    if stage.name in MODEL_STAGES:
        values["model.vae"] = settings.get_export("autoencoder") / "vae"
    if stage.base is not None:
        values["model.start_from"] = settings.get_export(stage.base)
    elif settings.previous is not None:
        values |= make_start_overrides(stage.name, settings.previous)
    overrides = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    if settings.is_tiny:
        tiny = json.loads((RECIPES / "gpu_once_tiny.json").read_text(encoding="utf-8"))
        overrides += [line for name in ("every", *stage.tiny) for line in tiny[name]]
    return overrides


def make_start_overrides(stage_name: str, previous: Path) -> dict[str, Any]:
    """Make the settings by which a stage starts from an earlier bundle, whose motion blocks are kept."""
    sources = {"autoencoder": previous / "vae", "text_to_image": previous, "segmenter": previous / SEGMENTER_FOLDER}
    is_model = stage_name == "text_to_image"
    config_path = (previous / "transformer" if is_model else sources[stage_name]) / "config.json"
    if not config_path.is_file():
        return {}
    config = json.loads(config_path.read_text(encoding="utf-8"))
    keys = sorted(TransformerConfig.model_fields.keys() & config.keys()) if is_model else []
    return {"model.start_from": sources[stage_name], **{f"model.transformer.{key}": config[key] for key in keys}}
