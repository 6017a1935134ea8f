"""An encoder that needs no training: the principal components of patches, written into an AutoencoderKL.

C latent channels, p px along a patch (the autoencoder's factor), M patches.

Its residual blocks start at zero, so that only the shortcuts are left. Downsampling gathers the pixels of a patch into
channels and then projects them. A last GroupNorm and SiLU stand in the way; constant channels hold the norm's
deviation still, and every component x passes the SiLU twice: silu(x) - silu(-x) = x.
"""

from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

AMPLITUDE = 0.01  # of a component beside the constants: the norm is then linear to one part in thousands


class Components(NamedTuple):
    """Of patches: their mean (3, p, p), strongest axes (C, 3, p, p) and the deviations along these (C,)."""

    mean: Tensor
    axes: Tensor
    deviations: Tensor


def principal_components(pixels: Tensor, *, patch_px: int, count: int) -> Components:
    """The `count` strongest principal components of the patches of pictures (N, 3, H, W)."""
    patches = nn.functional.unfold(pixels.double(), patch_px, stride=patch_px)
    patches = patches.transpose(1, 2).flatten(0, 1)  # (M, 3 p p)
    mean = patches.mean(dim=0)
    variances, vectors = torch.linalg.eigh((patches - mean).T.cov(correction=0))
    axes = vectors.flip(1)[:, :count].T.reshape(count, 3, patch_px, patch_px)
    deviations = variances.flip(0)[:count].clamp_min(1e-12).sqrt()
    return Components(mean.view(3, patch_px, patch_px), axes, deviations)


@torch.no_grad()
def make_principal(vae: AutoencoderKL, pixels: Tensor, *, whitening: float, log_variance: float) -> None:
    """Set the encoder of `vae` to the principal components of the patches of `pixels`, and freeze it.

    whitening: 0 leaves the components' deviations as they are, 1 makes them equal.

    Raises ValueError where the channels are too few.
    """
    widths, encoder = vae.config.block_out_channels, vae.encoder
    patch_px = 2 ** (len(widths) - 1)
    found = principal_components(pixels, patch_px=patch_px, count=vae.config.latent_channels)
    places = _places(vae.config.latent_channels, widths=widths, groups=vae.config.norm_num_groups)
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)  # the decoder too learns sooner so
    _straighten(encoder)
    _gather(encoder, widths)
    _project(encoder, found, places)
    _read_out(encoder, found.deviations ** (1 - whitening), places, size=widths[-1] // vae.config.norm_num_groups)
    encoder.conv_out.bias[vae.config.latent_channels :] = log_variance
    _zero(vae.quant_conv)
    nn.init.dirac_(vae.quant_conv.weight)
    encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)


@torch.no_grad()
def as_convolution(vae: AutoencoderKL) -> nn.Conv2d | None:
    """The latents' mean of an encoder made by `make_principal`, as the one layer that it is; None for any other."""
    encoder = vae.encoder
    residuals = [module.conv2 for module in encoder.modules() if isinstance(module, ResnetBlock2D)]
    if any(layer.weight.any() or layer.bias.any() for layer in residuals):
        return None
    count, factor = vae.config.latent_channels, 2 ** (len(encoder.down_blocks) - 1)
    down = encoder.down_blocks[-2].downsamplers[0].conv
    scale, plus = encoder.conv_out.weight[:count, :, 1, 1].float().max(dim=1)
    scale = scale / AMPLITUDE
    layer = nn.Conv2d(3, count, kernel_size=factor, stride=factor).requires_grad_(False)
    step = factor // 2
    for source, (colour, y, x) in enumerate(_pixels_of(levels=len(encoder.down_blocks) - 2)):
        taps = down.weight[plus, source, :2, :2].float() * scale[:, None, None]
        layer.weight[:, colour, y : y + step + 1 : step, x : x + step + 1 : step] = taps
    layer.bias.copy_(down.bias[plus].float() * scale)
    return layer


def _pixels_of(*, levels: int) -> list[tuple[int, int, int]]:
    """(colour, y, x) of each channel after `levels` downsamplings that gather."""
    places = [(0, 0)]
    for level in range(levels):
        places = [(y + dy * 2**level, x + dx * 2**level) for dy in (0, 1) for dx in (0, 1) for y, x in places]
    return [(colour, y, x) for y, x in places for colour in range(3)]


def _zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class Places(NamedTuple):
    """Channels before the last norm: (plus, minus) of each component, and of the constants of each group in use."""

    pairs: list[tuple[int, int]]
    constants: list[tuple[int, int]]


def _places(count: int, *, widths: tuple[int, ...], groups: int) -> Places:
    size = widths[-1] // groups
    in_group = max(0, (size - 2) // 2)
    room = in_group * (min(widths[-2:]) // size)
    if count > room:
        raise ValueError(
            f"{count} principal components do not fit block_out_channels {widths[-2:]} in groups of {size}, which hold "
            f"{room}; widen the last two or lower norm_num_groups"
        )
    used = range(-(-count // in_group))
    firsts = [group * size + 2 + 2 * place for group in used for place in range(in_group)]
    return Places([(first, first + 1) for first in firsts[:count]], [(g * size, g * size + 1) for g in used])


def _straighten(encoder: nn.Module) -> None:
    """Shortcuts that hand the channels on, attention that adds nothing."""
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D) and module.conv_shortcut is not None:
            _zero(module.conv_shortcut)
            nn.init.dirac_(module.conv_shortcut.weight)
        elif isinstance(module, Attention):
            _zero(module.to_out[0])


def _gather(encoder: nn.Module, widths: tuple[int, ...]) -> None:
    """Pixels to channels, up to the last downsampling."""
    _zero(encoder.conv_in)
    nn.init.dirac_(encoder.conv_in.weight[:3])
    for level, width in enumerate(widths[:-2]):
        channels = 3 * 4**level
        if width < 4 * channels:
            raise ValueError(f"block_out_channels[{level}] is {width}; principal components need {4 * channels}")
        down = encoder.down_blocks[level].downsamplers[0].conv
        _zero(down)
        for tap, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            for channel in range(channels):
                down.weight[tap * channels + channel, channel, dy, dx] = 1


def _project(encoder: nn.Module, found: Components, places: Places) -> None:
    """The last downsampling: each component to its two channels, and the constants."""
    last = len(encoder.down_blocks) - 2
    down, step = encoder.down_blocks[last].downsamplers[0].conv, 2**last
    _zero(down)
    offsets = (found.mean * found.axes).sum(dim=(1, 2, 3))
    for axis, offset, deviation, pair in zip(found.axes, offsets, found.deviations, places.pairs, strict=True):
        for channel, sign in zip(pair, (AMPLITUDE, -AMPLITUDE), strict=True):
            for source, (colour, y, x) in enumerate(_pixels_of(levels=last)):
                taps = axis[colour, y : y + step + 1 : step, x : x + step + 1 : step]
                down.weight[channel, source, :2, :2] = sign * taps / deviation
            down.bias[channel] = -sign * offset / deviation
    for plus, minus in places.constants:
        down.bias[plus], down.bias[minus] = 1, -1


def _read_out(encoder: nn.Module, scales: Tensor, places: Places, *, size: int) -> None:
    """The last norm and convolution: silu(x) - silu(-x) of each component, times its scale."""
    norm, out = encoder.conv_norm_out, encoder.conv_out
    nn.init.zeros_(norm.bias)
    nn.init.zeros_(norm.weight)
    # the constants make the deviation of a group sqrt(2 / size); here components get a deviation of 1
    norm.weight[[channel for pair in places.pairs for channel in pair]] = (2 / size) ** 0.5 / AMPLITUDE
    _zero(out)
    for k, (plus, minus) in enumerate(places.pairs):
        out.weight[k, plus, 1, 1], out.weight[k, minus, 1, 1] = scales[k], -scales[k]
