"""The run file of an autoencoder."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from dianjing.train.config.base import BaseConfig, OptimizerConfig, RunConfig
from dianjing.train.config.data import DataConfig


class AutoencoderModelConfig(BaseConfig):
    """The architecture of diffusers' AutoencoderKL; one level per entry of block_out_channels."""

    latent_channels: int = 8
    block_out_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers_per_block: int = 1
    norm_num_groups: int = 16
    encoder: Literal["learned", "pca"] = "learned"  # pca: fixed principal components; only the decoder is trained
    # Folder of an AutoencoderKL with encoder "pca", for images as large or smaller: its latents, followed by those of
    # further channels, and its scaling factor; its decoder too where widths fit.
    encoder_from: Path | None = None
    whitening: float = Field(default=0.5, ge=0, le=1)  # of principal components; 1: all get the same variance
    start_from: Path | None = None  # folder of an AutoencoderKL with the same shapes; None: from scratch


class AutoencoderObjectiveConfig(BaseConfig):
    """The weights of the loss terms."""

    l1: float = 1.0
    mse: float = 0.0  # speeds up learning flat colours
    edge_l1: float = 1.0
    edge_scales: int = Field(default=3, ge=1)  # of edge_l1 and ssim
    ssim: float = Field(default=0.0, ge=0)  # 1 - SSIM: objects count by their contrast to what is around them
    # Share of l1, mse, edge_l1 and ssim that the objects of an image have, small ones too; None: pixels count alike.
    object_share: float | None = Field(default=None, gt=0, lt=1)
    kl: float = 3e-4  # per latent number
    latent_noise: float = Field(default=0.0, ge=0)  # noise that the decoder learns to remove: its largest std
    latent_pairs: Path | None = None  # file of generated latents and their images, see recipes/generated_latents.py
    latent_pairs_share: float = Field(default=0.5, ge=0, le=1)  # of the samples of a run with latent_pairs
    adversarial: float = Field(default=0.0, ge=0)  # against a discriminator of patches, trained beside the decoder
    features: float = Field(default=0.0, ge=0)  # distance of the discriminator's features
    discriminator_widths: tuple[int, ...] = (32, 64, 128)

    @property
    def has_discriminator(self) -> bool:
        return self.adversarial > 0 or self.features > 0


class AutoencoderSamplesConfig(BaseConfig):
    """The images of the sample grid, and of the statistics of an export."""

    num_images: int = Field(default=16, gt=0)
    num_statistics_images: int = Field(default=512, gt=0)  # for the scaling factor


class AutoencoderRunConfig(BaseConfig):
    """The run file of task "autoencoder"."""

    task: Literal["autoencoder"]
    run: RunConfig
    data: DataConfig
    optimizer: OptimizerConfig
    model: AutoencoderModelConfig = AutoencoderModelConfig()
    objective: AutoencoderObjectiveConfig = AutoencoderObjectiveConfig()
    samples: AutoencoderSamplesConfig = AutoencoderSamplesConfig()
