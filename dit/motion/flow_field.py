"""Flow field: predicts backward flow from a motion phrase, a strength and a region, whatever the pixels and the noise.

B batch, R regions, F frames, M tokens of a phrase, T text width, H hidden width, S points of a frame.
Points, flow and moments are (x, y) in fractions of the image's sides; a strength is a region's mean speed in image
sides per second.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dianjing.dit.embeddings import sinusoidal_embedding

HIDDEN_DIM = 256
FEATURE_DIM = 32  # sinusoidal features of a number: FEATURE_DIM / 2 frequencies, cosine and sine each
FRAME_SCALE = 2.0  # frame index to radians of the highest frequency
STRENGTH_SCALE = 20.0  # strength to radians of the highest frequency
PHASE_SCALE = 0.2  # relative speed x frame index to radians; a rotation by 1 radian in 1/8 s has a phase of about 1
MIN_STD = 0.02  # regions are taken to be at least this large
NUM_MOMENTS = 4  # of a region: center and standard deviation, (x, y) each
TAIL_MASS = 0.002  # share of a mask that may lie outside its box, on each side


def cell_centers(rows: int, columns: int, *, device: torch.device | None = None) -> Tensor:
    """Return the centers of a grid of cells, row by row: (S, 2)."""
    y, x = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in (rows, columns))
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=-1)


def grid_points(size: int, *, device: torch.device | None = None) -> Tensor:
    """Return size x size points from border to border of the image, row by row: (S, 2)."""
    line = torch.linspace(0, 1, size, device=device)
    return torch.stack([line.repeat(size), line.repeat_interleave(size)], dim=-1)


def region_moments(masks: Tensor) -> Tensor:
    """Compute the center and standard deviation of each mask (B, R, H, W): (B, R, 4).

    The center is the middle of the mask's box, about which objects appear to rotate: the centroid of an umbrella lies
    in its canopy. An empty mask has the image's center and a deviation of 0.
    """
    masks = masks.float()
    x_moments, y_moments = _axis_moments(masks.sum(dim=-2)), _axis_moments(masks.sum(dim=-1))
    return torch.cat([x_moments, y_moments], dim=-1)[..., [0, 2, 1, 3]]


def _axis_moments(profile: Tensor) -> Tensor:
    """Compute center and standard deviation along one axis, of masks summed over the other: (B, R, N) -> (B, R, 2)."""
    count = profile.shape[-1]
    positions = (torch.arange(count, dtype=torch.float32, device=profile.device) + 0.5) / count
    total = profile.sum(dim=-1, keepdim=True)
    density = profile / total.clamp_min(1e-6)
    cumulative = density.cumsum(dim=-1)
    first, last = (cumulative <= TAIL_MASS).sum(dim=-1), (cumulative < 1 - TAIL_MASS).sum(dim=-1) + 1
    std = (density @ positions.square() - (density @ positions).square()).clamp_min(0).sqrt()
    has_pixels = total.squeeze(-1) > 0
    return torch.stack([torch.where(has_pixels, (first + last) / 2 / count, 0.5), std * has_pixels], dim=-1)


class FlowField(nn.Module):
    """Predict backward flow: an affine map about each region's center plus a residual.

    The affine map is the matrix exponential of a learned generator, in which a rotation is as simple as a shift. All
    terms scale with the strength, the generator with the strength relative to the region's size; the network learns the
    rest. It sees neither noise nor image, so that it trains within minutes.

    Source: motion predicted before pixels, Motion-I2V (arXiv 2401.15977).
    """

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.text_proj = nn.Linear(text_dim, HIDDEN_DIM)
        self.time_proj = nn.Linear(2 * FEATURE_DIM + 1 + NUM_MOMENTS, HIDDEN_DIM, bias=False)
        self.strength_proj = nn.Linear(FEATURE_DIM + 1, HIDDEN_DIM, bias=False)
        self.trunk = nn.ModuleList(nn.Linear(HIDDEN_DIM, HIDDEN_DIM) for _ in range(3))
        self.affine = nn.Linear(HIDDEN_DIM, 6)  # generator (2 x 2) and shift (2)
        self.offset_proj = nn.Linear(4, HIDDEN_DIM // 2)
        self.modulation = nn.Linear(HIDDEN_DIM, HIDDEN_DIM)
        self.residual = nn.Linear(HIDDEN_DIM // 2, 2)
        self.zero_init()

    @torch.no_grad()
    def zero_init(self) -> None:
        """Reset the weights so that the flow is zero everywhere."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        for layer in (self.affine, self.residual):
            layer.weight.zero_()
            layer.bias.zero_()

    def forward(
        self,
        phrase_embeds: Tensor,
        phrase_mask: Tensor,
        strengths: Tensor,
        moments: Tensor,
        *,
        num_frames: int,
        points: Tensor,
        frame_step: float = 1.0,
    ) -> Tensor:
        """Predict the flow (B, R, F, S, 2) from each of `points` (S, 2) in each frame back to the first frame.

        phrase_embeds (B, R, M, T), phrase_mask (B, R, M) and strengths (B, R) are those of `MotionControl`; moments
        (B, R, 4) those of `region_moments`. frame_step: time from one frame to the next, in frames of the training
        data.
        """
        moments, strengths = moments.float(), strengths.float()
        relative_speed = strengths / moments[..., 2:].norm(dim=-1).clamp_min(MIN_STD)  # region sizes per second
        x = self._embed(phrase_embeds, phrase_mask, strengths, relative_speed, moments, num_frames, frame_step)
        for layer in self.trunk:
            x = x + F.silu(layer(x))  # (B, R, F, H)
        center, std = moments.unsqueeze(2).chunk(2, dim=-1)
        offset = points - center  # (B, R, S, 2)
        generator, shift = self.affine(x).float().split((4, 2), dim=-1)
        generator = generator.unflatten(-1, (2, 2)) * relative_speed[:, :, None, None, None]
        linear = torch.matrix_exp(generator) - torch.eye(2, device=x.device)
        speed = strengths[:, :, None, None, None]
        affine_flow = shift.unsqueeze(-2) * speed + torch.einsum("brfij,brsj->brfsi", linear, offset)
        features = torch.cat([offset, offset / std.clamp_min(MIN_STD)], dim=-1).clamp(-4, 4)
        hidden = self.offset_proj(features.to(x.dtype)).unsqueeze(2)
        mod_scale, mod_shift = self.modulation(x).unsqueeze(-2).chunk(2, dim=-1)
        residual = self.residual(F.silu(hidden * (1 + mod_scale) + mod_shift))
        return affine_flow + residual.float() * speed

    def _embed(
        self,
        phrase_embeds: Tensor,
        phrase_mask: Tensor,
        strengths: Tensor,
        relative_speed: Tensor,
        moments: Tensor,
        num_frames: int,
        frame_step: float,
    ) -> Tensor:
        """Embed mean phrase, strength, time and moments: (B, R, F, H)."""
        dtype = self.text_proj.weight.dtype
        weights = phrase_mask.to(dtype).unsqueeze(-1)
        phrase = self.text_proj((phrase_embeds.to(dtype) * weights).sum(dim=2) / weights.sum(dim=2).clamp_min(1))
        strength_features = torch.cat(
            [sinusoidal_embedding(strengths * STRENGTH_SCALE, FEATURE_DIM), strengths.unsqueeze(-1)], dim=-1
        )
        frames = frame_step * torch.arange(num_frames, dtype=torch.float32, device=moments.device)
        phase = relative_speed.unsqueeze(-1) * frames  # (B, R, F)
        time_features = torch.cat(
            [
                sinusoidal_embedding(frames * FRAME_SCALE, FEATURE_DIM).expand(*phase.shape, -1),
                sinusoidal_embedding(phase * PHASE_SCALE, FEATURE_DIM),
                phase.unsqueeze(-1) * PHASE_SCALE,
                moments.unsqueeze(2).expand(-1, -1, num_frames, -1),
            ],
            dim=-1,
        )
        x = phrase + self.strength_proj(strength_features.to(dtype))  # (B, R, H)
        return F.silu(x.unsqueeze(2) + self.time_proj(time_features.to(dtype)))
