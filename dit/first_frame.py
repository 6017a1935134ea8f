"""What a frame takes over from the first one: that frame, moved as the clicks ask.

B batch, F frames, N image tokens, D width; latents are B C F Y X.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.moving import Moved

NUM_TIMESTEPS = 1000
KINDS = 4  # of places, see `kinds_of`
POINTS = 17  # of timesteps, between which lines are drawn
LEAST_NOISE = 0.02
CERTAIN_SCALE, TRUST_SCALE = 100.0, 0.1  # what all clips have in common is learnt before what single tokens say


class Shown(NamedTuple):
    """The first frame moved as the clicks ask; what kind of place each one is, (B, F, KINDS, Y, X); whether it is given
    at all, (B,) 0 or 1.
    """

    moved: Moved
    kinds: Tensor
    given: Tensor

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Shown":
        """The same with a change to every tensor."""
        return Shown(self.moved.apply(change), change(self.kinds), change(self.given))

    def first(self, num_frames: int) -> "Shown":
        return self._replace(moved=self.moved.first(num_frames), kinds=self.kinds[:, :num_frames])


def show(first_frame: Tensor, moved: Moved) -> Shown:
    """A first frame (B, C, Y, X), zeros where it is not given, and what it was moved to."""
    return Shown(moved, kinds_of(moved.covered), first_frame.flatten(1).any(dim=1).to(first_frame.dtype))


def kinds_of(covered: Tensor) -> Tensor:
    """What regions (B, F, R, Y, X), 0 to 1, make of each place, (B, F, KINDS, Y, X): it stays as it is, something has
    moved there, something has moved away from there; or nothing is asked in the whole clip, and nobody knows.
    """
    now = covered.amax(dim=2)
    before = now[:, :1] * (1 - now)
    asked = (covered.flatten(1).amax(dim=1) > 0).to(covered).view(-1, 1, 1, 1)
    return torch.stack([asked * (1 - now - before), now, before, (1 - asked).expand_as(now)], dim=2)


class FirstFrameTrust(nn.Module):
    """Mends a prediction with the first frame, moved as the clicks ask: how far it goes there is learnt.

    A patch that moves by a part of itself would have to be drawn anew by blocks that know whole patches; here it is
    taken over. The moved frame and what the blocks predict are compared as clean latents, and the kind of place, the
    timestep and the tokens say how far the one is trusted. Starts as nothing.

    clean (timesteps, 2): how much of noisy latents and of a prediction makes clean latents (`know_noise`).
    certain (KINDS, POINTS): how far each kind of place follows the moved frame, from the first timestep to the last.
    Source: a warped first frame as guidance, Motion-I2V (arXiv 2401.15977), Sec. 3.3.
    """

    clean: Tensor

    def __init__(self, width: int, *, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.trust = nn.Linear(width, patch_size**2 * channels)
        self.certain = nn.Parameter(torch.empty(KINDS, POINTS))
        self.register_buffer("clean", torch.zeros(NUM_TIMESTEPS, 2))
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        for weight in (self.certain, self.trust.weight, self.trust.bias):
            weight.zero_()

    def know_noise(self, clean: Tensor) -> None:
        """Take over what a noise schedule says (timesteps, 2); weights hold it from then on.

        Raises: ValueError for another number of timesteps.
        """
        if clean.shape != self.clean.shape:
            raise ValueError(
                f"clean latents of shape {tuple(clean.shape)} are for {len(clean)} timesteps; {NUM_TIMESTEPS} are known"
            )
        self.clean.copy_(clean)

    def mix(self, timesteps: Tensor) -> Tensor:
        """(T,) -> (T, 2 + KINDS): `clean` of each, and how far each kind of place follows the moved frame."""
        share = timesteps.float().clamp(0, NUM_TIMESTEPS - 1) / (NUM_TIMESTEPS - 1) * (POINTS - 1)
        before = share.long().clamp(max=POINTS - 2)
        low, high = self.certain.T[before].float(), self.certain.T[before + 1].float()
        certain = CERTAIN_SCALE * torch.lerp(low, high, (share - before).unsqueeze(-1))
        clean = self.clean[timesteps.round().long().clamp(0, NUM_TIMESTEPS - 1)].float()
        # in full where the clean latents are the moved frame's: see forward
        return torch.cat([clean, certain / (-clean[:, 1:]).clamp_min(LEAST_NOISE)], dim=-1)

    def forward(self, predicted: Tensor, latents: Tensor, tokens: Tensor, shown: Shown, mix: Tensor) -> Tensor:
        """A prediction from latents, both (B, C, F, Y, X), mended; tokens (B F, N, D) are those it was made of.

        mix (B or 1, 2 + KINDS): `self.mix` of the step. From the prediction p of v to that of clean latents x it is
        -(x - x(p)) / s, with the share s of noise: so far goes what is certain, and the tokens say what to change.
        """
        batch, channels, frames, height, width = latents.shape
        patch = self.patch_size
        grid = {"f": frames, "y": height // patch, "x": width // patch, "p": patch, "q": patch}
        trust = rearrange(TRUST_SCALE * self.trust(tokens), "(b f) (y x) (p q c) -> b c f (y p) (x q)", **grid)
        of_noisy, of_predicted = mix[:, :2].to(latents.dtype).view(-1, 2, 1, 1, 1, 1).unbind(1)
        certain = torch.einsum("bfkyx,bk->bfyx", shown.kinds, mix[:, 2:].expand(batch, -1).to(shown.kinds))
        drawn = of_noisy * latents + of_predicted * predicted[:, :channels]
        missing = (trust + certain.unsqueeze(1)) * (shown.moved.frames.transpose(1, 2) - drawn)
        missing = F.pad(missing, (0,) * 7 + (predicted.shape[1] - channels,))  # a variance is not known
        return predicted - shown.given.view(batch, 1, 1, 1, 1) * missing
