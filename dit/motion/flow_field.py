"""What a click asks for, as motion: where in the first frame each place of each frame comes from.

B batch, R regions, F frames, H hidden width, S places of a frame (Y x X latents); places and ways in picture sides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dianjing.dit.embeddings import sinusoidal_embedding

HIDDEN_DIM = 256
FEATURE_DIM = 32  # numbers that stand for a time or a strength
FRAME_SCALE, STRENGTH_SCALE = 2.0, 20.0  # frames, and picture sides a second, to radians of the fastest wave
PHASE_SCALE = 0.2  # of ways in a region's own sizes; a way of one in an eighth of a second turns by about a radian
MIN_STD = 0.02
NUM_MOMENTS = 4  # of a region: middle and spread, (x, y) each
TAIL_MASS = 0.002  # of a mask, on each side of what is taken for its box


def cell_centers(rows: int, columns: int, *, device: torch.device | None = None) -> Tensor:
    """Middles of latents, (S, 2) as (x, y)."""
    y, x = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in (rows, columns))
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=-1)


def grid_points(size: int, *, device: torch.device | None = None) -> Tensor:
    """Points that span the picture to its borders, (side x side, 2) as (x, y)."""
    line = torch.linspace(0, 1, size, device=device)
    return torch.stack([line.repeat(size), line.repeat_interleave(size)], dim=-1)


def region_moments(masks: Tensor) -> Tensor:
    """Middle and spread of each mask (B, R, H, W): (B, R, 4); the picture's middle and nothing where it is empty.

    The middle is that of its box, about which things are seen to turn: the mean place of an umbrella is in its canopy.
    """
    masks = masks.float()
    size = torch.cat(
        [_axis_moments(masks.sum(dim=-2)), _axis_moments(masks.sum(dim=-1))], dim=-1
    )  # middle and spread of x, and of y
    return size[..., [0, 2, 1, 3]]


def _axis_moments(profile: Tensor) -> Tensor:
    """Middle and spread along one axis, of masks summed over the other one (B, R, N): (B, R, 2)."""
    count = profile.shape[-1]
    at = (torch.arange(count, dtype=torch.float32, device=profile.device) + 0.5) / count
    total = profile.sum(dim=-1, keepdim=True)
    shares = profile / total.clamp_min(1e-6)
    below = shares.cumsum(dim=-1)
    first, last = (below <= TAIL_MASS).sum(dim=-1), (below < 1 - TAIL_MASS).sum(dim=-1) + 1
    spread = (shares @ at.square() - (shares @ at).square()).clamp_min(0).sqrt()
    is_there = total.squeeze(-1) > 0
    return torch.stack([torch.where(is_there, (first + last) / 2 / count, 0.5), spread * is_there], dim=-1)


class FlowField(nn.Module):
    """A phrase, a strength and a mask to a way back for every place and frame: an affine map about the region's
    middle, told by its logarithm, in which a turn is as simple as a shift, and what bends. All of it grows with the
    strength, the logarithm as that is in the region's own sizes; what is learnt is the rest. Depends on no noise and no
    picture, so that it is learnt in minutes.

    Source: explicit motion before pixels, Motion-I2V (arXiv 2401.15977).
    """

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.text_proj = nn.Linear(text_dim, HIDDEN_DIM)
        self.time_proj = nn.Linear(2 * FEATURE_DIM + 1 + NUM_MOMENTS, HIDDEN_DIM, bias=False)
        self.strength_proj = nn.Linear(FEATURE_DIM + 1, HIDDEN_DIM, bias=False)
        self.trunk = nn.ModuleList(nn.Linear(HIDDEN_DIM, HIDDEN_DIM) for _ in range(3))
        self.affine = nn.Linear(HIDDEN_DIM, 6)
        self.offset_proj = nn.Linear(4, HIDDEN_DIM // 2)
        self.modulation = nn.Linear(HIDDEN_DIM, HIDDEN_DIM)
        self.residual = nn.Linear(HIDDEN_DIM // 2, 2)
        self.zero_init()

    @torch.no_grad()
    def zero_init(self) -> None:
        """Nothing moves."""
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
    ) -> Tensor:
        """Ways (B, R, F, S, 2) from each place of `at` (S, 2) back to its origin.

        phrases (B, R, M, T) with mask (B, R, M) and strengths (B, R), as in `Click`; `region_sizes` (B, R, 4).
        """
        dtype = self.text_proj.weight.dtype
        said = phrase_mask.to(dtype).unsqueeze(-1)
        words = self.text_proj((phrase_embeds.to(dtype) * said).sum(dim=2) / said.sum(dim=2).clamp_min(1))  # (B, R, H)
        moments, strengths = moments.float(), strengths.float()
        strong = torch.cat(
            [sinusoidal_embedding(strengths * STRENGTH_SCALE, FEATURE_DIM), strengths.unsqueeze(-1)], dim=-1
        )
        frames = torch.arange(num_frames, dtype=torch.float32, device=moments.device)
        own = strengths / moments[..., 2:].norm(dim=-1).clamp_min(MIN_STD)  # in its own sizes a second
        turned = own.unsqueeze(-1) * frames  # (B, R, F)
        late = torch.cat(
            [
                sinusoidal_embedding(frames * FRAME_SCALE, FEATURE_DIM).expand(*turned.shape, -1),
                sinusoidal_embedding(turned * PHASE_SCALE, FEATURE_DIM),
                turned.unsqueeze(-1) * PHASE_SCALE,
                moments.unsqueeze(2).expand(-1, -1, num_frames, -1),
            ],
            dim=-1,
        )
        x = F.silu((words + self.strength_proj(strong.to(dtype))).unsqueeze(2) + self.time_proj(late.to(dtype)))
        for layer in self.trunk:
            x = x + F.silu(layer(x))
        middle, spread = moments.unsqueeze(2).chunk(2, dim=-1)
        away = points - middle  # (B, R, S, 2)
        logarithm, shift = self.affine(x).float().split((4, 2), dim=-1)
        logarithm = logarithm.unflatten(-1, (2, 2)) * own[:, :, None, None, None]
        turn = torch.matrix_exp(logarithm) - torch.eye(2, device=x.device)
        straight = shift.unsqueeze(-2) * strengths[:, :, None, None, None] + torch.einsum(
            "brfij,brsj->brfsi", turn, away
        )
        relative = torch.cat([away, away / spread.clamp_min(MIN_STD)], dim=-1).clamp(-4, 4)
        scale, offset = self.modulation(x).unsqueeze(-2).chunk(2, dim=-1)
        bent = self.residual(F.silu(self.offset_proj(relative.to(dtype)).unsqueeze(2) * (1 + scale) + offset))
        return straight + bent.float() * strengths[:, :, None, None, None]
