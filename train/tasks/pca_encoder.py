"""An encoder that needs no training: the principal components of patches, written into an AutoencoderKL.

C latent channels, p px along a patch (the autoencoder's factor), M patches, N images.

The residual blocks are set to zero, so that only their shortcuts remain. Downsampling gathers the pixels of a patch
into channels (space to depth), and the last one projects them. Before the output come a GroupNorm and a SiLU: constant
channels make the norm's standard deviation constant, and every component x passes the SiLU twice,
silu(x) - silu(-x) = x. An encoder for larger images with the latents of a given one averages pixels at first.
"""

from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from dianjing.errors import DianjingError
from dianjing.weights.image_sizes import get_scale_factor

COMPONENT_AMPLITUDE = 0.01  # of components relative to the constants: the norm is then linear to about 1e-3


class PrincipalComponents(NamedTuple):
    """The mean (3, p, p) of patches, their principal axes (C, 3, p, p), and standard deviations along these (C,)."""

    mean: Tensor
    axes: Tensor
    stds: Tensor


def compute_principal_components(pixels: Tensor, *, patch_px: int, count: int) -> PrincipalComponents:
    """The first `count` principal components of the patches of images (N, 3, H, W)."""
    patches = nn.functional.unfold(pixels.double(), patch_px, stride=patch_px)
    patches = patches.transpose(1, 2).flatten(0, 1)  # (M, 3 p p)
    mean = patches.mean(dim=0)
    variances, vectors = torch.linalg.eigh((patches - mean).T.cov(correction=0))
    axes = vectors.flip(1)[:, :count].T.reshape(count, 3, patch_px, patch_px)
    stds = variances.flip(0)[:count].clamp_min(1e-12).sqrt()
    return PrincipalComponents(mean.view(3, patch_px, patch_px), axes, stds)


def compute_residual_components(pixels: Tensor, axes: Tensor, *, count: int) -> PrincipalComponents:
    """The first `count` principal components of what the axes (C, 3, p, p) leave of the patches of images."""
    patch_px = axes.shape[-1]
    basis = torch.linalg.qr(axes.flatten(1).double().T)[0]  # (3 p p, C)
    patches = nn.functional.unfold(pixels.double(), patch_px, stride=patch_px)
    patches = patches - basis @ (basis.T @ patches)
    residual = nn.functional.fold(patches, pixels.shape[-2:], patch_px, stride=patch_px)
    return compute_principal_components(residual, patch_px=patch_px, count=count)


@torch.no_grad()
def init_pca(vae: AutoencoderKL, pixels: Tensor, *, whitening: float, log_variance: float) -> None:
    """Set the encoder of `vae` to the principal components of the patches of `pixels` (N, 3, H, W), and freeze it.

    `whitening` 0 keeps the standard deviations of the components, 1 makes them equal.
    Raises: DianjingError if the encoder has too few channels.
    """
    patch_px = get_scale_factor(vae.config)
    mean, axes, stds = compute_principal_components(pixels, patch_px=patch_px, count=vae.config.latent_channels)
    projection = Projection(axes, -(mean * axes).sum(dim=(1, 2, 3)), stds)
    _set_encoder(vae, projection, stds ** (1 - whitening), num_averaged=0, log_variance=log_variance)


@torch.no_grad()
def copy_pca_encoder(
    vae: AutoencoderKL, source: AutoencoderKL, pixels: Tensor, *, whitening: float, log_variance: float
) -> None:
    """Set the encoder of `vae` to the latents that `source`, made by `init_pca`, computes of reduced images.

    Every level that `vae` has more halves the image by averages. Every channel that it has more is a principal
    component of what the channels of `source` leave of the patches of `pixels` (N, 3, H, W), images for `vae`;
    `whitening` applies to these channels.
    Raises: DianjingError if `source` has another encoder, or levels or channels do not fit.
    """
    layer = fold_to_conv(source)
    num_levels_added = len(vae.config.block_out_channels) - len(source.config.block_out_channels)
    num_channels_added = vae.config.latent_channels - source.config.latent_channels
    if layer is None or num_levels_added < 0 or num_channels_added < 0:
        raise DianjingError("pca_source_unfit")
    block_px = 2 ** _count_averaged_levels(source.encoder)  # whose pixels have equal weights
    axes = layer.weight.unflatten(-1, (-1, block_px)).sum(-1).unflatten(-2, (-1, block_px)).sum(-2)
    num_averaged = num_levels_added + _count_averaged_levels(source.encoder)
    reduced = nn.functional.avg_pool2d(pixels.float(), 2**num_averaged)
    assert layer.bias is not None
    stds = nn.functional.conv2d(reduced, axes, layer.bias, stride=axes.shape[-1]).std(dim=(0, 2, 3))
    projection, scales = Projection(axes, layer.bias, stds), stds
    if num_channels_added:
        added = compute_residual_components(reduced, axes, count=num_channels_added)
        offsets = -(added.mean * added.axes).sum(dim=(1, 2, 3))
        pairs = zip(projection, (added.axes, offsets, added.stds), strict=True)
        projection = Projection(*(torch.cat([old, new.to(old)]) for old, new in pairs))
        scales = torch.cat([scales, added.stds.to(scales) ** (1 - whitening)])
    _set_encoder(vae, projection, scales, num_averaged=num_averaged, log_variance=log_variance)


@torch.no_grad()
def extend_decoder(vae: AutoencoderKL, source: AutoencoderKL) -> bool:
    """Start the decoder of `vae` from that of `source`, if every level that it has more is as wide as the last one.

    Each further level doubles the features before the last convolution; further channels of the latents have no effect
    at first. Returns whether the widths fit.
    """
    widths, source_widths = vae.config.block_out_channels, source.config.block_out_channels
    num_added = len(widths) - len(source_widths)
    if tuple(widths) != (source_widths[0],) * num_added + tuple(source_widths):
        return False
    channels = source.config.latent_channels
    projection, states = vae.post_quant_conv, source.decoder.state_dict()
    _zero_init(projection)
    nn.init.dirac_(projection.weight)
    projection.weight[:channels, :channels] = source.post_quant_conv.weight
    projection.bias[:channels] = source.post_quant_conv.bias
    first = nn.functional.pad(states["conv_in.weight"], (0, 0, 0, 0, 0, vae.config.latent_channels - channels))
    vae.decoder.load_state_dict(states | {"conv_in.weight": first}, strict=False)
    first_added = len(source_widths)
    for block in vae.decoder.up_blocks[first_added - 1 : -1]:
        upsampling = block.upsamplers[0].conv
        _zero_init(upsampling)
        nn.init.dirac_(upsampling.weight)
    for block in vae.decoder.up_blocks[first_added:]:
        for resnet in block.resnets:
            _zero_init(resnet.conv2)
    return True


class Projection(NamedTuple):
    """Components of patches, axes (C, 3, p, p) times pixels plus offsets (C,), and their standard deviations (C,)."""

    axes: Tensor
    offsets: Tensor
    stds: Tensor


def _set_encoder(
    vae: AutoencoderKL, projection: Projection, scales: Tensor, *, num_averaged: int, log_variance: float
) -> None:
    """Write a projection into the encoder, components of unit variance times `scales`, and freeze it."""
    widths, encoder = vae.config.block_out_channels, vae.encoder
    layout = _assign_channels(vae.config.latent_channels, widths=widths, num_groups=vae.config.norm_num_groups)
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            _zero_init(module.conv2)  # in the decoder as well, which speeds up its training
    _identity_shortcuts(encoder)
    _gather_pixels(encoder, widths, num_averaged=num_averaged)
    _set_projection(encoder, projection, layout, num_averaged=num_averaged)
    _set_output(encoder, scales, layout, group_size=widths[-1] // vae.config.norm_num_groups)
    encoder.conv_out.bias[vae.config.latent_channels :] = log_variance
    _zero_init(vae.quant_conv)
    nn.init.dirac_(vae.quant_conv.weight)
    encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)


@torch.no_grad()
def fold_to_conv(vae: AutoencoderKL) -> nn.Conv2d | None:
    """A single convolution equal to the mean of an encoder made by `init_pca`; None for any other encoder."""
    encoder = vae.encoder
    residuals = [module.conv2 for module in encoder.modules() if isinstance(module, ResnetBlock2D)]
    if any(layer.weight.any() or layer.bias.any() for layer in residuals):
        return None
    num_averaged = _count_averaged_levels(encoder)
    levels = len(encoder.down_blocks) - 2 - num_averaged
    down = encoder.down_blocks[-2].downsamplers[0].conv
    scale, plus = encoder.conv_out.weight[: vae.config.latent_channels, :, 1, 1].float().max(dim=1)
    scale = scale / COMPONENT_AMPLITUDE
    step, factor = 2**levels, 2 ** (len(encoder.down_blocks) - 1)
    weight = torch.zeros(len(scale), 3, 2 * step, 2 * step)
    for source, (colour, y, x) in enumerate(_list_channel_pixels(levels=levels)):
        taps = down.weight[plus, source, :2, :2].float() * scale[:, None, None]
        weight[:, colour, y : y + step + 1 : step, x : x + step + 1 : step] = taps
    block = torch.full((1, 1, 2**num_averaged, 2**num_averaged), 4.0**-num_averaged)
    layer = nn.Conv2d(3, len(scale), kernel_size=factor, stride=factor).requires_grad_(False)
    layer.weight.copy_(torch.kron(weight, block))
    assert layer.bias is not None
    layer.bias.copy_(down.bias[plus].float() * scale)
    return layer


def _count_averaged_levels(encoder: nn.Module) -> int:
    """The number of first levels that average pixels."""
    layers = [block.downsamplers[0].conv for block in encoder.down_blocks[:-2]]
    return sum(bool(layer.weight[0, 0, 0, 0] == 0.25) for layer in layers)


def _list_channel_pixels(*, levels: int) -> list[tuple[int, int, int]]:
    """(colour, y, x) of each channel after `levels` space-to-depth downsamplings."""
    offsets = [(0, 0)]
    for level in range(levels):
        offsets = [(y + dy * 2**level, x + dx * 2**level) for dy in (0, 1) for dx in (0, 1) for y, x in offsets]
    return [(colour, y, x) for y, x in offsets for colour in range(3)]


def _zero_init(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class ChannelLayout(NamedTuple):
    """Channels before the last norm: (positive, negative) of components, and of the constants of each used group."""

    pairs: list[tuple[int, int]]
    constants: list[tuple[int, int]]


def _assign_channels(count: int, *, widths: tuple[int, ...], num_groups: int) -> ChannelLayout:
    group_size = widths[-1] // num_groups
    per_group = max(0, (group_size - 2) // 2)
    capacity = per_group * (min(widths[-2:]) // group_size)
    if count > capacity:
        raise DianjingError(
            "pca_channels_too_few", count=count, widths=str(widths[-2:]), group_size=group_size, capacity=capacity
        )
    group_starts = [group * group_size for group in range(-(-count // per_group))]
    firsts = [start + 2 + 2 * index for start in group_starts for index in range(per_group)]
    pairs = [(first, first + 1) for first in firsts[:count]]
    return ChannelLayout(pairs, [(start, start + 1) for start in group_starts])


def _identity_shortcuts(encoder: nn.Module) -> None:
    """Make shortcuts the identity on their first channels, and attention zero."""
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D) and module.conv_shortcut is not None:
            _zero_init(module.conv_shortcut)
            nn.init.dirac_(module.conv_shortcut.weight)
        elif isinstance(module, Attention):
            _zero_init(module.to_out[0])


def _gather_pixels(encoder: nn.Module, widths: tuple[int, ...], *, num_averaged: int) -> None:
    """Average pixels over the first levels, then gather them into channels, up to the last downsampling."""
    _zero_init(encoder.conv_in)
    nn.init.dirac_(encoder.conv_in.weight[:3])
    for level, width in enumerate(widths[:-2]):
        down = encoder.down_blocks[level].downsamplers[0].conv
        _zero_init(down)
        if level < num_averaged:
            for channel in range(3):
                down.weight[channel, channel, :2, :2] = 0.25
            continue
        channels = 3 * 4 ** (level - num_averaged)
        if width < 4 * channels:
            raise DianjingError("pca_width_too_small", level=level, width=width, minimum=4 * channels)
        for tap, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            for channel in range(channels):
                down.weight[tap * channels + channel, channel, dy, dx] = 1


def _set_projection(encoder: nn.Module, projection: Projection, channels: ChannelLayout, *, num_averaged: int) -> None:
    """Make the last downsampling project each component to its two channels, and set the constants."""
    last = len(encoder.down_blocks) - 2
    down, levels = encoder.down_blocks[last].downsamplers[0].conv, last - num_averaged
    step = 2**levels
    _zero_init(down)
    for axis, offset, std, pair in zip(*projection, channels.pairs, strict=True):
        for channel, sign in zip(pair, (COMPONENT_AMPLITUDE, -COMPONENT_AMPLITUDE), strict=True):
            for source, (colour, y, x) in enumerate(_list_channel_pixels(levels=levels)):
                taps = axis[colour, y : y + step + 1 : step, x : x + step + 1 : step]
                down.weight[channel, source, :2, :2] = sign * taps / std
            down.bias[channel] = sign * offset / std
    for plus, minus in channels.constants:
        down.bias[plus], down.bias[minus] = 1, -1


def _set_output(encoder: nn.Module, scales: Tensor, channels: ChannelLayout, *, group_size: int) -> None:
    """Make the last norm and convolution compute silu(x) - silu(-x) of each component, times its scale."""
    norm, out = encoder.conv_norm_out, encoder.conv_out
    nn.init.zeros_(norm.bias)
    nn.init.zeros_(norm.weight)
    # the constants make the standard deviation of a group sqrt(2 / size); this scales components to 1
    norm.weight[[channel for pair in channels.pairs for channel in pair]] = (
        2 / group_size
    ) ** 0.5 / COMPONENT_AMPLITUDE
    _zero_init(out)
    for k, (plus, minus) in enumerate(channels.pairs):
        out.weight[k, plus, 1, 1], out.weight[k, minus, 1, 1] = scales[k], -scales[k]
