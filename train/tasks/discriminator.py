"""The adversarial losses of an autoencoder: a discriminator of patches, trained beside the decoder.

B batch; pixels are (B, 3, H, W) on [-1, 1].
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Features = list[Tensor]


class PatchDiscriminator(nn.Module):
    """A convolutional network that classifies patches as real or decoded (Isola et al. 2017, arXiv 1611.07004).

    widths: channels of the levels; each halves the image.
    """

    def __init__(self, widths: tuple[int, ...], *, num_groups: int = 8) -> None:
        super().__init__()
        channels = (3, *widths)
        self.levels = nn.ModuleList()
        for index, (in_channels, width) in enumerate(pairwise(channels)):
            conv = nn.Conv2d(in_channels, width, kernel_size=4, stride=2, padding=1)
            norm = nn.GroupNorm(num_groups, width) if index else nn.Identity()
            self.levels.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.2)))
        self.out = nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1)

    def forward(self, pixels: Tensor) -> Features:
        """The features of every level, and at the end the logits of patches (B, 1, H / 2^levels, W / 2^levels)."""
        features: Features = []
        for level in self.levels:
            pixels = level(pixels)
            features.append(pixels)
        return [*features, self.out(pixels)]


def adversarial_losses(discriminator: PatchDiscriminator, decoded: Tensor, real: Tensor) -> dict[str, Tensor]:
    """The loss of the discriminator, and both losses of the decoder; neither has gradients for the other's weights.

    "discriminator" and "adversarial" are hinge losses (Lim and Ye 2017, arXiv 1705.02894), "features" the mean L1
    distance of all features, a perceptual loss on a network that knows the data (Wang et al. 2018, arXiv 1711.11585).
    """
    logits_real, logits_decoded = discriminator(real)[-1], discriminator(decoded.detach())[-1]
    frozen = {name: weights.detach() for name, weights in discriminator.named_parameters()}
    *features_decoded, logits = functional_call(discriminator, frozen, (decoded,))
    *features_real, _ = functional_call(discriminator, frozen, (real,))
    distances = [F.l1_loss(a, b.detach()) for a, b in zip(features_decoded, features_real, strict=True)]
    return {
        "discriminator": F.relu(1 - logits_real).mean() + F.relu(1 + logits_decoded).mean(),
        "adversarial": -logits.mean(),
        "features": sum(distances) / len(distances),
    }
