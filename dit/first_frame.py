"""What a frame takes over from the first one as it is: a look-up, latent by latent.

B batch, F frames, N image tokens, D width, H heads, E head width; latents are B C F Y X, S of them a frame.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.moving import Moved
from dianjing.dit.rope import rotate

HEAD_DIM = 32
FINEST = 2.0  # radians a latent: the fastest of a head's pairs
COARSEST = 0.05
NUM_TIMESTEPS = 1000
KINDS = 4  # of places, see `kinds`
POINTS = 17  # of timesteps, between which lines are drawn
LEAST_NOISE = 0.02
CERTAIN_SCALE, TRUST_SCALE = 100.0, 0.1  # what all clips have in common is learnt before what single tokens say
SHARPNESS = 2.0  # a head's first look: how much more its own place counts than those further away


class Shown(NamedTuple):
    """Of the first frame, every latent a place: keys, turned, and values (B, S, H, E); turns of places (S, E/2, 2);
    the same moved as the clicks ask, every frame; what kind of place each one is (B, F, KINDS, Y, X); whether it is
    given at all, (B,) 0 or 1.
    """

    key: Tensor
    value: Tensor
    turns: Tensor
    moved: Moved
    kinds: Tensor
    given: Tensor

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Shown":
        """The same with a change to every tensor that has rows."""
        moved, kinds, given = self.moved.apply(change), change(self.kinds), change(self.given)
        return Shown(change(self.key), change(self.value), self.turns, moved, kinds, given)

    def first(self, num_frames: int) -> "Shown":
        return self._replace(moved=self.moved.first(num_frames), kinds=self.kinds[:, :num_frames])


def kinds_of(covered: Tensor) -> Tensor:
    """What regions (B, F, R, Y, X), 0 to 1, make of each place, (B, F, KINDS, Y, X): it stays as it is, something has
    moved there, something has moved away from there; or nothing is asked in the whole clip, and nobody knows.
    """
    now = covered.amax(dim=2)
    before = now[:, :1] * (1 - now)
    asked = (covered.flatten(1).amax(dim=1) > 0).to(covered).view(-1, 1, 1, 1)
    return torch.stack([asked * (1 - now - before), now, before, (1 - asked).expand_as(now)], dim=2)


def place_rotation(rows: int, columns: int, *, device: torch.device | None = None) -> Tensor:
    """Rotation (rows x columns, E/2, 2) of places a latent apart: half of the pairs by column, half by row."""
    rates = torch.logspace(0, 1, HEAD_DIM // 4, base=COARSEST / FINEST, device=device) * FINEST
    y, x = (torch.arange(n, dtype=torch.float32, device=device) for n in (rows, columns))
    angles = torch.cat([torch.outer(x, rates).repeat(rows, 1), torch.outer(y, rates).repeat_interleave(columns, 0)], -1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


class FirstFrameAttention(nn.Module):
    """Mends a prediction with what is known from the first frame: itself, moved as the clicks ask, and what each latent
    finds in it by attention.

    A patch that moves by a part of itself would have to be drawn anew by blocks that know whole patches; here it is
    copied. The moved frame, what attention finds and what the blocks predict are compared as clean latents, and the
    tokens say how far the prediction goes to the first and to the second. Starts as nothing, that looks at its own
    place.
    Source: the copying of pointer networks (arXiv 1506.03134), in two dimensions.

    clean (timesteps, 2): how much of noisy latents and of a prediction makes clean latents (`know_noise`).
    certain (KINDS, POINTS): how far each kind of place follows the moved frame, from the first timestep to the last.
    """

    clean: Tensor

    def __init__(self, width: int, *, channels: int, max_regions: int, patch_size: int, heads: int) -> None:
        super().__init__()
        self.patch_size, inner, places = patch_size, heads * HEAD_DIM, patch_size**2
        self.to_q = nn.Linear(width, places * inner)
        self.to_k = nn.Conv2d(channels + max_regions, inner, 3, padding=1, padding_mode="replicate")
        self.to_v = nn.Conv2d(channels + max_regions, inner, 3, padding=1, padding_mode="replicate")
        self.to_hidden = nn.Linear(inner, inner)
        self.modulation = nn.Linear(width, 2 * places * inner)
        self.to_out = nn.Linear(inner, channels)
        self.trust = nn.Linear(width, 2 * places * channels)
        self.certain = nn.Parameter(torch.empty(KINDS, POINTS))
        self.register_buffer("clean", torch.zeros(NUM_TIMESTEPS, 2))
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        """Zeros at the end; queries and keys that agree most where they are of one place."""
        for layer in self.children():
            layer.reset_parameters()
        for layer in (self.to_q, self.to_k):
            layer.weight.mul_(0.1)
            assert layer.bias is not None
            layer.bias.zero_()
            layer.bias[::2] = SHARPNESS
        self.certain.zero_()
        self.trust.weight.zero_()
        self.trust.bias.zero_()

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

    def look(self, first_frame: Tensor, masks: Tensor, moved: Moved) -> Shown:
        """What is to be found in a first frame (B, C, Y, X) with masks (B, R, Y, X); zeros where it is not given."""
        turns = place_rotation(*first_frame.shape[-2:], device=first_frame.device)
        shown = torch.cat([first_frame, masks.to(first_frame.dtype)], dim=1)
        key, value = (
            rearrange(layer(shown), "b (h e) y x -> b (y x) h e", e=HEAD_DIM) for layer in (self.to_k, self.to_v)
        )
        given = first_frame.flatten(1).any(dim=1).to(key.dtype)
        key = rotate(key.float(), turns.unsqueeze(-3)).to(key.dtype)
        return Shown(key, value, turns, moved, kinds_of(moved.covered), given)

    def query(self, tokens: Tensor, shown: Shown, *, rows: int, columns: int) -> Tensor:
        """(B, F S, H, E) of tokens (B F, N, D): frames of rows x columns latents, in the order of their tokens."""
        patch, batch = self.patch_size, len(shown.key)
        turns = rearrange(shown.turns, "(y p x q) e c -> (y x p q) 1 e c", p=patch, q=patch, x=columns // patch)
        query = self.to_q(tokens).view(batch, -1, *shown.key.shape[2:])
        turns = turns.repeat(query.shape[1] // (rows * columns), 1, 1, 1)
        return rotate(query.float(), turns).to(shown.key.dtype)

    def forward(self, predicted: Tensor, latents: Tensor, tokens: Tensor, shown: Shown, mix: Tensor) -> Tensor:
        """A prediction from latents, both (B, C, F, Y, X), mended; tokens (B F, N, D) are those it was made of.

        mix (B or 1, 2 + KINDS): `self.mix` of the step. From the prediction p of v to that of clean latents x it is
        -(x - x(p)) / s, with the share s of noise: so far goes what is certain, and the tokens say what to change.
        """
        batch, channels, frames, height, width = latents.shape
        patch = self.patch_size
        grid = {"f": frames, "y": height // patch, "p": patch, "q": patch}
        query = self.query(tokens, shown, rows=height, columns=width)
        query, key, value = (part.transpose(1, 2) for part in (query, shown.key, shown.value))
        found = F.scaled_dot_product_attention(query, key, value)
        hidden = self.to_hidden(found.transpose(1, 2).flatten(2))
        scale, shift = self.modulation(tokens).view(*hidden.shape[:2], -1).chunk(2, dim=-1)
        hidden = F.gelu(torch.addcmul(shift, hidden, 1 + scale))
        found = rearrange(self.to_out(hidden), "b (f y x p q) c -> b c f (y p) (x q)", **grid)
        trust = TRUST_SCALE * self.trust(tokens)
        trust = rearrange(trust, "(b f) (y x) (k p q c) -> k b c f (y p) (x q)", k=2, **grid)
        of_noisy, of_predicted = mix[:, :2].to(latents.dtype).view(-1, 2, 1, 1, 1, 1).unbind(1)
        certain = torch.einsum("bfkyx,bk->bfyx", shown.kinds, mix[:, 2:].expand(batch, -1).to(shown.kinds))
        drawn = of_noisy * latents + of_predicted * predicted[:, :channels]
        missing = (trust[0] + certain.unsqueeze(1)) * (shown.moved.frames.transpose(1, 2) - drawn)
        missing = missing + trust[1] * (found - drawn)
        missing = F.pad(missing, (0,) * 7 + (predicted.shape[1] - channels,))  # a variance is not known
        return predicted - shown.given.view(batch, 1, 1, 1, 1) * missing
