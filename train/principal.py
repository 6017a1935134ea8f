"""An encoder that needs no training: the principal components of patches, written into an AutoencoderKL.

C latent channels, p px along a patch (the autoencoder's factor), M patches.

Its residual blocks start at zero, so that only the shortcuts are left. Downsampling gathers the pixels of a patch into
channels and then projects them. A last GroupNorm and SiLU stand in the way; constant channels hold the norm's
deviation still, and every component x passes the SiLU twice: silu(x) - silu(-x) = x.
"""

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

AMPLITUDE = 0.01  # of a component beside the constants: the norm is then linear to one part in thousands


def principal_components(pixels: Tensor, *, patch_px: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (3, p, p), components (count, 3, p, p) and their deviations (count,) of pictures (N, 3, H, W)."""
    patches = nn.functional.unfold(pixels.double(), patch_px, stride=patch_px)
    patches = patches.transpose(1, 2).flatten(0, 1)  # (M, 3 p p)
    mean = patches.mean(dim=0)
    variances, vectors = torch.linalg.eigh((patches - mean).T.cov(correction=0))
    strongest = vectors.flip(1)[:, :count].T.reshape(count, 3, patch_px, patch_px)
    return mean.view(3, patch_px, patch_px), strongest, variances.flip(0)[:count].clamp_min(1e-12).sqrt()


@torch.no_grad()
def make_principal(vae: AutoencoderKL, pixels: Tensor, *, whitening: float, log_variance: float) -> None:
    """Set the encoder of `vae` to the principal components of the patches of `pixels`, and freeze it.

    whitening: 0 leaves the components' deviations as they are, 1 makes them equal.

    Raises ValueError where the channels are too few.
    """
    encoder, count = vae.encoder, vae.config.latent_channels
    widths = vae.config.block_out_channels
    mean, components, deviations = principal_components(pixels, patch_px=2 ** (len(widths) - 1), count=count)
    for module in vae.modules():  # the decoder too learns sooner so
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D) and module.conv_shortcut is not None:
            _zero(module.conv_shortcut)
            nn.init.dirac_(module.conv_shortcut.weight)
        elif isinstance(module, Attention):
            _zero(module.to_out[0])
    pairs, constants = _places(count, width=widths[-1], groups=vae.config.norm_num_groups)
    _gather(encoder, widths)
    _project(encoder, (components, (mean * components).sum(dim=(1, 2, 3)), deviations), pairs, constants)
    norm, out = encoder.conv_norm_out, encoder.conv_out
    size = widths[-1] // vae.config.norm_num_groups
    nn.init.zeros_(norm.bias)
    nn.init.zeros_(norm.weight)
    norm.weight[[channel for pair in pairs for channel in pair]] = (2 / size) ** 0.5 / AMPLITUDE
    _zero(out)
    for k, (plus, minus) in enumerate(pairs):
        scale = deviations[k] ** (1 - whitening)
        out.weight[k, plus, 1, 1], out.weight[k, minus, 1, 1] = scale, -scale
    out.bias[count:] = log_variance
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


def _places(count: int, *, width: int, groups: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Channels (plus, minus) of each component, and of the constants: every group that is used has two of these."""
    size = width // groups
    in_group = (size - 2) // 2
    used = -(-count // in_group) if in_group else groups + 1
    if used > groups:
        raise ValueError(
            f"{count} principal components do not fit {width} channels in {groups} groups: the last norm holds "
            f"{max(0, in_group) * groups}; widen block_out_channels or lower norm_num_groups"
        )
    pairs = [
        (group * size + 2 + 2 * place, group * size + 3 + 2 * place)
        for group in range(used)
        for place in range(in_group)
    ]
    return pairs[:count], [(group * size, group * size + 1) for group in range(used)]


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


def _project(
    encoder: nn.Module,
    found: tuple[Tensor, Tensor, Tensor],
    pairs: list[tuple[int, int]],
    constants: list[tuple[int, int]],
) -> None:
    """The last downsampling: each component to its two channels, and the constants."""
    last = len(encoder.down_blocks) - 2
    down, step = encoder.down_blocks[last].downsamplers[0].conv, 2**last
    _zero(down)
    for component, offset, deviation, places in zip(*found, pairs, strict=True):
        for channel, sign in zip(places, (AMPLITUDE, -AMPLITUDE), strict=True):
            for source, (colour, y, x) in enumerate(_pixels_of(levels=last)):
                taps = component[colour, y : y + step + 1 : step, x : x + step + 1 : step]
                down.weight[channel, source, :2, :2] = sign * taps / deviation
            down.bias[channel] = -sign * offset / deviation
    for plus, minus in constants:
        down.bias[plus], down.bias[minus] = 1, -1
