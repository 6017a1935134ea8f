"""The run file of a segmenter."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from dianjing.train.config.base import BaseConfig, OptimizerConfig, RunConfig
from dianjing.train.config.data import DataConfig


class SegmenterModelConfig(BaseConfig):
    """The architecture of diffusers' UNet2DModel."""

    start_from: Path | None = None  # an exported segmenter/ with the same shapes; None: from scratch
    block_px: int = Field(default=2, gt=0)  # side of the square of pixels that is one position of the network
    block_out_channels: tuple[int, ...] = (16, 32, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8


class SegmenterObjectiveConfig(BaseConfig):
    """The images that are trained on: rendered ones, or reconstructed by an autoencoder."""

    vae: Path | None = None  # folder of a diffusers AutoencoderKL; None: all images are rendered ones
    reconstructed_share: float = Field(default=0.5, ge=0, le=1)  # of the images, by vae: those look like generated ones
    latent_noise: float = Field(default=0.0, ge=0)  # largest std of noise on the latents of these


class SegmenterRunConfig(BaseConfig):
    """The run file of task "segmenter"."""

    task: Literal["segmenter"]
    run: RunConfig
    data: DataConfig
    optimizer: OptimizerConfig
    model: SegmenterModelConfig = SegmenterModelConfig()
    objective: SegmenterObjectiveConfig = SegmenterObjectiveConfig()
