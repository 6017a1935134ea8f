"""The section [data] of run files, for generated samples and for data set files."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from dianjing.errors import DianjingError
from dianjing.train.config.base import BaseConfig


class StageConfig(BaseConfig):
    """A stage of the curriculum: types of scene with their weights, up to a fraction of the run."""

    scene_weights: dict[str, float]  # scene type -> share
    grid_px: tuple[PositiveInt, ...] = (1,)  # grids for positions and sizes; each scene takes one
    coloured_share: float | None = Field(default=None, ge=0, le=1)  # of mentions; None: 0.6 of colourable objects
    sized_share: float = Field(default=0.4, ge=0, le=1)  # of single objects: those asked for as big or small
    canonical_share: float = Field(default=0.0, ge=0, le=1)  # of scenes: those with canonical sizes and positions
    # of images: those for which two scenes are sampled, and the one is taken in which an object has less contrast
    low_contrast_share: float = Field(default=0.0, ge=0, le=1)
    min_amplitude: float = Field(default=0.3, gt=0, lt=1)  # of motions in clips; the maximum is 1
    until_fraction: float | None = Field(default=None, gt=0, lt=1)  # of the run; None: to the end


class BucketConfig(BaseConfig):
    """A bucket of generated samples: images, clips with captions, or clips with motion control."""

    kind: Literal["image", "clip", "controlled"] = "image"
    num_frames: int = Field(default=1, gt=0)
    batch_size: int | None = Field(default=None, gt=0)  # at most the run's; None: the run's
    sampling_weight: float = Field(default=1.0, gt=0)  # of its steps, relative to the other buckets

    @model_validator(mode="after")
    def _check_frames(self) -> "BucketConfig":
        if (self.num_frames == 1) != (self.kind == "image"):
            raise DianjingError("bucket_frame_count", kind=self.kind, num_frames=self.num_frames)
        return self


class DatasetConfig(BaseConfig):
    """A data set of images and videos: a folder, a table, a saved data set, or shards of tar."""

    path: Path
    repeats: float = Field(default=1.0, gt=0)  # how often each sample occurs in an epoch
    trigger_word: str | None = None  # put before every caption that does not contain it
    caption_prefix: str = ""  # put before every caption, before the trigger word
    caption_suffix: str = ""
    default_caption: str | None = None  # of samples that have none of their own
    caption_extension: str | None = None  # of caption files, read before .txt and .caption
    caption_dropout: float | None = Field(default=None, ge=0, le=1)  # of both encoders; None: that of the run
    size_px: int | None = Field(default=None, gt=0)  # None: that of the run
    fit: Literal["crop", "pad"] = "crop"  # pad: whole images on white, which the loss does not count
    flip: bool = False  # half of the samples are mirrored left to right
    # parts of an image that the loss counts. file: white in a mask next to it, if there is one; alpha: its own opacity
    loss_mask: Literal["file", "alpha", "none"] = "file"
    image_column: str = "image"  # columns of a table
    text_zh_column: str = "text_zh"
    text_en_column: str = "text_en"
    control_image_column: str = "control_image"  # of control images, for a ControlNet

    @field_validator("caption_extension")
    @classmethod
    def _add_dot(cls, extension: str | None) -> str | None:
        return f".{extension.lstrip('.')}" if extension else None


class DataConfig(BaseConfig):
    """The section [data] of runs that train from scratch on generated samples."""

    size_px: int = Field(default=128, gt=0)
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    buckets: tuple[BucketConfig, ...] = (BucketConfig(),)
    fps: float = Field(default=8.0, gt=0)  # of clips
    num_workers: int = Field(default=0, ge=0)
    prefetch_factor: int = Field(default=2, gt=0)  # micro-batches in flight per worker
    # data echoing (Choi et al. 2019, arXiv 1907.05550): successive steps that train on the same samples with new noise,
    # for devices that are faster than the workers
    echo_factor: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _check_echo(self) -> "DataConfig":
        if self.echo_factor > 1 and len(self.buckets) > 1:
            raise DianjingError("echo_with_several_buckets", echo_factor=self.echo_factor, count=len(self.buckets))
        return self

    @property
    def has_unused_weights(self) -> bool:
        """True if samples of several kinds are trained, so that a step may leave weights unused."""
        return len(self.buckets) > 1


class FinetuneDataConfig(BaseConfig):
    """The section [data] of fine-tuning runs."""

    datasets_file: Path  # the data set file
    size_px: int = Field(gt=0)  # side of a square; other shapes have about as many pixels
    max_aspect_ratio: float = Field(default=2.0, ge=1)
    min_side_px: int = Field(default=16, gt=0)  # images with a shorter side are rejected
    max_rejected_fraction: float = Field(default=0.1, ge=0, le=1)  # of the samples, before the run is refused
    num_frames: tuple[Annotated[int, Field(gt=1)], ...] = ()  # lengths of clips; empty: videos are rejected
    fps: float = Field(default=8.0, gt=0)  # frame rate that videos are resampled to
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)  # of the samples: evaluated, never trained on
    cache_folder: Path = Path("~/.cache/dianjing/encoded")  # latents and text-encoder states; runs may share it
    num_workers: int = Field(default=0, ge=0)
    prefetch_factor: int = Field(default=2, gt=0)

    @property
    def echo_factor(self) -> int:
        """Always 1: files are read as often as they are trained on."""
        return 1

    @property
    def has_unused_weights(self) -> bool:
        """True if videos may be trained as well as images, so that a step may leave weights unused."""
        return bool(self.num_frames)
