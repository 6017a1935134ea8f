"""What a frame takes over from the first one: that frame, moved as the clicks ask.

B batch, F frames, N image tokens, D width; latents are B C F Y X.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.motion.warp import Warp

NUM_TRAIN_TIMESTEPS = 1000
NUM_REGION_CLASSES = 4  # of places, see `kinds_of`
NUM_KNOTS = 17  # of timesteps, between which lines are drawn
MIN_NOISE_LEVEL = 0.02
CLASS_GATE_SCALE, TOKEN_GATE_SCALE = 100.0, 0.1  # what all clips have in common is learnt before what single tokens say


class WarpedFirstFrame(NamedTuple):
    """The first frame moved as the clicks ask; what kind of place each one is, (B, F, KINDS, Y, X); whether it is given
    at all, (B,) 0 or 1.
    """

    warp: Warp
    region_classes: Tensor
    has_first_frame: Tensor

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "WarpedFirstFrame":
        """The same with a change to every tensor."""
        return WarpedFirstFrame(self.warp.map_tensors(fn), fn(self.region_classes), fn(self.has_first_frame))

    def truncate(self, num_frames: int) -> "WarpedFirstFrame":
        return self._replace(warp=self.warp.truncate(num_frames), region_classes=self.region_classes[:, :num_frames])


def make_warped_first_frame(first_frame: Tensor, warp: Warp) -> WarpedFirstFrame:
    """A first frame (B, C, Y, X), zeros where it is not given, and what it was moved to."""
    return WarpedFirstFrame(
        warp, classify_regions(warp.coverage), first_frame.flatten(1).any(dim=1).to(first_frame.dtype)
    )


def classify_regions(coverage: Tensor) -> Tensor:
    """What regions (B, F, R, Y, X), 0 to 1, make of each place, (B, F, KINDS, Y, X): it stays as it is, something has
    moved there, something has moved away from there; or nothing is asked in the whole clip, and nobody knows.
    """
    now = coverage.amax(dim=2)
    before = now[:, :1] * (1 - now)
    asked = (coverage.flatten(1).amax(dim=1) > 0).to(coverage).view(-1, 1, 1, 1)
    return torch.stack([asked * (1 - now - before), now, before, (1 - asked).expand_as(now)], dim=2)


class WarpGuidance(nn.Module):
    """Mends a prediction with the first frame, moved as the clicks ask: how far it goes there is learnt.

    A patch that moves by a part of itself would have to be drawn anew by blocks that know whole patches; here it is
    taken over. The moved frame and what the blocks predict are compared as clean latents, and the kind of place, the
    timestep and the tokens say how far the one is trusted. Starts as nothing.

    clean (timesteps, 2): how much of noisy latents and of a prediction makes clean latents (`know_noise`).
    certain (KINDS, POINTS): how far each kind of place follows the moved frame, from the first timestep to the last.
    Source: a warped first frame as guidance, Motion-I2V (arXiv 2401.15977), Sec. 3.3.
    """

    x0_coefficients: Tensor

    def __init__(self, width: int, *, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.token_gate = nn.Linear(width, patch_size**2 * channels)
        self.class_gate = nn.Parameter(torch.empty(NUM_REGION_CLASSES, NUM_KNOTS))
        self.register_buffer("x0_coefficients", torch.zeros(NUM_TRAIN_TIMESTEPS, 2))
        self.zero_init()

    @torch.no_grad()
    def zero_init(self) -> None:
        for weight in (self.class_gate, self.token_gate.weight, self.token_gate.bias):
            weight.zero_()

    def set_x0_coefficients(self, x0_coefficients: Tensor) -> None:
        """Take over what a noise schedule says (timesteps, 2); weights hold it from then on.

        Raises: ValueError for another number of timesteps.
        """
        if x0_coefficients.shape != self.x0_coefficients.shape:
            raise ValueError(
                f"clean latents of shape {tuple(x0_coefficients.shape)} are for {len(x0_coefficients)} timesteps; {NUM_TRAIN_TIMESTEPS} are known"
            )
        self.x0_coefficients.copy_(x0_coefficients)

    def compute_blend_coefficients(self, timesteps: Tensor) -> Tensor:
        """(T,) -> (T, 2 + KINDS): `clean` of each, and how far each kind of place follows the moved frame."""
        share = timesteps.float().clamp(0, NUM_TRAIN_TIMESTEPS - 1) / (NUM_TRAIN_TIMESTEPS - 1) * (NUM_KNOTS - 1)
        before = share.long().clamp(max=NUM_KNOTS - 2)
        low, high = self.class_gate.T[before].float(), self.class_gate.T[before + 1].float()
        certain = CLASS_GATE_SCALE * torch.lerp(low, high, (share - before).unsqueeze(-1))
        clean = self.x0_coefficients[timesteps.round().long().clamp(0, NUM_TRAIN_TIMESTEPS - 1)].float()
        # in full where the clean latents are the moved frame's: see forward
        return torch.cat([clean, certain / (-clean[:, 1:]).clamp_min(MIN_NOISE_LEVEL)], dim=-1)

    def forward(
        self,
        prediction: Tensor,
        latents: Tensor,
        tokens: Tensor,
        warped_first_frame: WarpedFirstFrame,
        blend_coefficients: Tensor,
    ) -> Tensor:
        """A prediction from latents, both (B, C, F, Y, X), mended; tokens (B F, N, D) are those it was made of.

        mix (B or 1, 2 + KINDS): `self.mix` of the step. From the prediction p of v to that of clean latents x it is
        -(x - x(p)) / s, with the share s of noise: so far goes what is certain, and the tokens say what to change.
        """
        batch, channels, frames, height, width = latents.shape
        patch = self.patch_size
        grid = {"f": frames, "y": height // patch, "x": width // patch, "p": patch, "q": patch}
        trust = rearrange(
            TOKEN_GATE_SCALE * self.token_gate(tokens), "(b f) (y x) (p q c) -> b c f (y p) (x q)", **grid
        )
        of_noisy, of_predicted = blend_coefficients[:, :2].to(latents.dtype).view(-1, 2, 1, 1, 1, 1).unbind(1)
        certain = torch.einsum(
            "bfkyx,bk->bfyx",
            warped_first_frame.region_classes,
            blend_coefficients[:, 2:].expand(batch, -1).to(warped_first_frame.region_classes),
        )
        drawn = of_noisy * latents + of_predicted * prediction[:, :channels]
        missing = (trust + certain.unsqueeze(1)) * (warped_first_frame.warp.frames.transpose(1, 2) - drawn)
        missing = F.pad(missing, (0,) * 7 + (prediction.shape[1] - channels,))  # a variance is not known
        return prediction - warped_first_frame.has_first_frame.view(batch, 1, 1, 1, 1) * missing
