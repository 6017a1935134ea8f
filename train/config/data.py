"""Data."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from dianjing.train.config.base import BaseConfig


class StageConfig(BaseConfig):
    """A stretch of the curriculum: kinds of scene with their shares, up to a fraction of the run."""

    scene_weights: dict[str, float]  # scene type -> share
    grid_px: tuple[PositiveInt, ...] = (1,)  # grids for positions and sizes; each scene takes one
    coloured_share: float | None = Field(default=None, ge=0, le=1)  # of mentions; None: 0.6 of colourable objects
    sized_share: float = Field(default=0.4, ge=0, le=1)  # of single objects: those asked for as big or small
    canonical_share: float = Field(default=0.0, ge=0, le=1)  # of scenes: those with canonical sizes and positions
    min_amplitude: float = Field(default=0.3, gt=0, lt=1)  # of motions in clips; the maximum is 1
    until_fraction: float | None = Field(default=None, gt=0, lt=1)  # of the run; None: to the end


class BucketConfig(BaseConfig):
    """Steps whose samples are alike: pictures, clips with captions, or clips with clicks."""

    kind: Literal["image", "clip", "controlled"] = "image"
    num_frames: int = Field(default=1, gt=0)
    batch_size: int | None = Field(default=None, gt=0)  # None: the run's, which no bucket may exceed
    sampling_weight: float = Field(default=1.0, gt=0)  # of the steps, against the other buckets

    @model_validator(mode="after")
    def _check_frames(self) -> "BucketConfig":
        if (self.num_frames == 1) != (self.kind == "image"):
            raise ValueError(f"a {self.kind} of {self.num_frames} frames; a picture has 1, a clip or click more")
        return self


class DatasetConfig(BaseConfig):
    """One data set of pictures: a folder, a table, a saved data set, or shards of tar."""

    path: Path
    repeats: float = Field(default=1.0, gt=0)  # how often each picture takes part in an epoch
    image_column: str = "image"  # columns of a table
    text_zh_column: str = "text_zh"
    text_en_column: str = "text_en"


class DataConfig(BaseConfig):
    size_px: int = Field(default=128, gt=0)
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    buckets: tuple[BucketConfig, ...] = (BucketConfig(),)
    fps: float = Field(default=8.0, gt=0)  # of clips
    num_workers: int = Field(default=0, ge=0)
    prefetch_factor: int = Field(default=2, gt=0)  # micro-batches in flight per worker


class FinetuneDataConfig(BaseConfig):
    datasets_file: Path  # the data set file
    size_px: int = Field(gt=0)  # of a square; other shapes have about as many pixels
    max_aspect_ratio: float = Field(default=2.0, ge=1)
    min_side_px: int = Field(default=16, gt=0)  # pictures with a smaller side are left out
    max_rejected_fraction: float = Field(default=0.1, ge=0, le=1)  # share of pictures that may be left out
    num_frames: tuple[Annotated[int, Field(gt=1)], ...] = ()  # lengths of clips; none: films are left out
    fps: float = Field(default=8.0, gt=0)  # that films are read at
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1
    )  # share of pictures that are measured on, never trained on
    cache_folder: Path = Path("~/.cache/dianjing/encoded")  # latents and text states; runs may share it
    num_workers: int = Field(default=0, ge=0)
    prefetch_factor: int = Field(default=2, gt=0)
