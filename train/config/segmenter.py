"""Segmenter."""

from typing import Literal

from dianjing.train.config.base import BaseConfig, OptimizerConfig, RunConfig
from dianjing.train.config.data import DataConfig


class SegmenterModelConfig(BaseConfig):
    """Shape of diffusers' UNet2DModel."""

    block_out_channels: tuple[int, ...] = (16, 32, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8


class SegmenterRunConfig(BaseConfig):
    task: Literal["segmenter"]
    run: RunConfig
    data: DataConfig
    optimizer: OptimizerConfig
    model: SegmenterModelConfig = SegmenterModelConfig()
