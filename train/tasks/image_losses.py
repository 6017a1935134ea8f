"""Distances of images, in which some pixels may count more than others.

B batch; images are (B, 3, H, W) on [-1, 1], weights of pixels (B, 1, H, W) with a mean of 1 in each image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW_PX = 7
SSIM_C1, SSIM_C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2


def weigh_objects(masks: Tensor, *, share: float, margin_px: int) -> Tensor:
    """Weights of pixels with which the objects of an image, however small, have `share` of its loss.

    masks: (B, H, W), true on objects; what is within `margin_px` of one belongs to it, since blurred edges are there.
    An image without objects, or without a background, has equal weights.
    """
    near = F.max_pool2d(masks[:, None].float(), 2 * margin_px + 1, stride=1, padding=margin_px)
    area = near.mean(dim=(1, 2, 3), keepdim=True)
    weights = torch.where(near > 0, share / area, (1 - share) / (1 - area))
    return torch.where((area > 0) & (area < 1), weights, 1.0)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of values (B, C, h, w); `weights` (B, 1, H, W) are averaged over the part of the image of each value."""
    if weights is None:
        return values.mean()
    height, width = values.shape[-2:]
    return (values * F.adaptive_avg_pool2d(weights, (height, width))).mean()


def edge_l1_loss(a: Tensor, b: Tensor, *, num_scales: int, weights: Tensor | None = None) -> Tensor:
    """Mean L1 distance of the x and y differences of two images (B, 3, H, W), over successively halved sizes."""
    difference, total = a - b, a.new_zeros(())
    for scale in range(num_scales):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        total = total + sum(weighted_mean(difference.diff(dim=axis).abs(), weights) for axis in (-1, -2))
    return total / num_scales


def ssim_loss(a: Tensor, b: Tensor, *, num_scales: int, weights: Tensor | None = None) -> Tensor:
    """1 minus the mean structural similarity of images (B, 3, H, W) on [-1, 1], over successively halved sizes.

    Differences count beside the contrast around them, so that pale objects matter as much as others. Windows are
    uniform, of 7 x 7 pixels, or as large as an image that is smaller, and inside the image (Wang et al. 2004, "Image
    quality assessment: from error visibility to structural similarity"; its constants, for a range of 2).
    """
    total = a.new_zeros(())
    for scale in range(num_scales):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        x, y = a + 1, b + 1  # on [0, 2]: the luminance term is for intensities
        window = min(SSIM_WINDOW_PX, *x.shape[-2:])
        mean_x, mean_y, *second_moments = (F.avg_pool2d(each, window, stride=1) for each in (x, y, x * x, y * y, x * y))
        variance_x, variance_y = second_moments[0] - mean_x.square(), second_moments[1] - mean_y.square()
        covariance = second_moments[2] - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
        structure = (2 * covariance + SSIM_C2) / (variance_x + variance_y + SSIM_C2)
        total = total + weighted_mean(1 - luminance * structure, weights)
    return total / num_scales


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean peak signal-to-noise ratio in dB of images (B, 3, H, W) on [-1, 1]."""
    error = (a - b).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return (10 * torch.log10(4 / error)).mean()
