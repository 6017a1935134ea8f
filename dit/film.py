"""Time: what turns the picture model into one for film, and what a click asks of it.

B batch, F frames, R regions, M tokens of a motion phrase, P phrase tokens in all, N image tokens, D width, H heads,
E head width, T text width; latents are B C F Y X.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.attention import EPS, Attention, KeyValue, LayerNorm
from dianjing.dit.embeddings import SINUSOID_DIM, sinusoid
from dianjing.dit.offload import onloaded
from dianjing.dit.rope import THETA

STRENGTH_SCALE = 1000.0  # picture sides a second to the range of a timestep
FILM_THETA = 100.0  # of places in frames, which are few
ELAPSED_SCALE = 4.0  # frames since the first one to the same


@dataclass(frozen=True, kw_only=True)
class Click:
    """What should move, in a batch of clips: R regions of the first frame, each with a phrase and a strength.

    first_frame: its latents (B, C, Y, X), zeros where it is not given. masks: (B, R, Y, X) in latents, 1 inside.
    phrases: states (B, R, M, T) of the first text encoder, and phrases_mask (B, R, M), 1 for text: a row or region
    without text is not asked to move. strengths: float32 (B, R), a region's mean speed in picture sides a second.
    Source: Follow-Your-Click (arXiv 2403.08268), Sec. 3.
    """

    first_frame: Tensor
    masks: Tensor
    phrases: Tensor
    phrases_mask: Tensor
    strengths: Tensor


@dataclass(frozen=True, kw_only=True)
class Film:
    """What the frames of a clip share, computed once."""

    num_frames: int
    rotation: Tensor  # (F, N, E/2, 2) over time and places, or (F, 1, E/2, 2) over time alone
    start: Tensor | None = None  # (B, F, N, D), added to the tokens: masks and first frame
    phrases: tuple[KeyValue, ...] | None = None  # one for each motion block, (B, P, H, E)
    mask: Tensor | None = None  # (B, 1, 1, P), added to the scores

    def first(self, num_frames: int) -> "Film":
        start = None if self.start is None else self.start[:, :num_frames]
        return replace(self, num_frames=num_frames, rotation=self.rotation[:num_frames], start=start)

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Film":
        """The same with a change to every tensor that has rows; the rotation has none."""
        phrases = self.phrases and tuple(KeyValue(change(key), change(value)) for key, value in self.phrases)
        return replace(
            self,
            start=None if self.start is None else change(self.start),
            phrases=phrases,
            mask=None if self.mask is None else change(self.mask),
        )


def frame_rotation(num_frames: int, *, head_dim: int, device: torch.device | None = None) -> Tensor:
    """Rotation (F, 1, E/2, 2) of frames 0, 1, ... Source: RoFormer (arXiv 2104.09864), Eq. 15."""
    frequencies = THETA ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.outer(torch.arange(num_frames, dtype=torch.float32, device=device), frequencies)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(1)


def film_rotation(
    num_frames: int, rows: int, columns: int, *, head_dim: int, device: torch.device | None = None
) -> Tensor:
    """Rotation (F, N, E/2, 2) of places in frames: a third of the pairs turn with the column, one with the row, and
    what is left with the frame.
    """
    across = head_dim // 6
    pairs = (head_dim // 2 - 2 * across, across, across)  # of frame, row and column
    steps = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (num_frames, rows, columns)), indexing="ij")
    angles = [
        step[..., None] * FILM_THETA ** (-torch.arange(count, dtype=torch.float32) / max(count, 1))
        for step, count in zip(steps, pairs, strict=True)
    ]
    turned = torch.cat(angles, dim=-1).flatten(1, 2).to(device)  # (F, N, E/2)
    return torch.stack([turned.cos(), turned.sin()], dim=-1)


def reset(module: nn.Module) -> None:
    """The random weights that torch gives the layers of a new module."""
    for layer in module.modules():
        if layer is not module and hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


class MotionBlock(nn.Module):
    """After a block of the picture model: attention over time, then to the motion phrases. Starts as nothing.

    Each place attends to itself in all frames, or, where the rotation has places, every place to every place in all
    frames: what moves is then seen where it was, for the price of longer rows.
    Source: AnimateDiff (arXiv 2307.04725); the phrases' own attention: Follow-Your-Click, "motion-augmented module".
    """

    def __init__(self, width: int, *, heads: int, head_dim: int, text_dim: int | None):
        super().__init__()
        self.norm1 = LayerNorm(width, eps=EPS)
        self.attn1 = Attention(width, heads=heads, head_dim=head_dim)
        if text_dim is not None:
            self.norm2 = LayerNorm(width, eps=EPS)
            self.attn2 = Attention(width, heads=heads, head_dim=head_dim, text_dim=text_dim)
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        """Random weights inside, zeros at the end of both attentions."""
        reset(self)
        for module in self.children():
            if isinstance(module, Attention):
                module.to_out[0].weight.zero_()
                module.to_out[0].bias.zero_()

    def forward(
        self, x: Tensor, num_frames: int, turns: Tensor, mask: Tensor | None = None, phrases: KeyValue | None = None
    ) -> Tensor:
        """(B F, N, D) -> (B F, N, D); turns (F, N or 1, 1, E/2, 2) or complex."""
        tokens = x.shape[1]
        if turns.shape[1] == tokens > 1:
            x = rearrange(x, "(b f) n d -> b (f n) d", f=num_frames)
            turns = turns.flatten(0, 1)
            x = x + self.attn1(self.norm1(x), turns)
            x = self._obey(x, turns, mask, phrases)
            return rearrange(x, "b (f n) d -> (b f) n d", f=num_frames)
        x = rearrange(x, "(b f) n d -> (b n) f d", f=num_frames)
        turns = turns.squeeze(1)
        x = x + self.attn1(self.norm1(x), turns)
        x = rearrange(x, "(b n) f d -> b (n f) d", n=tokens)
        x = self._obey(x, turns.repeat(tokens, *(1,) * (turns.ndim - 1)), mask, phrases)
        return rearrange(x, "b (n f) d -> (b f) n d", f=num_frames)

    def _obey(self, x: Tensor, turns: Tensor, mask: Tensor | None, phrases: KeyValue | None) -> Tensor:
        """(B, F N, D) or (B, N F, D): what the motion phrases ask for is added."""
        return x if phrases is None else x + self.attn2(self.norm2(x), turns, mask, phrases)


class ClickConditioner(nn.Module):
    """Masks, first frame and the frames since to tokens, phrases of all regions to one row, strengths to the time.

    All but the phrases start at zero.
    """

    def __init__(self, *, channels: int, max_regions: int, width: int, text_dim: int, patch_size: int):
        super().__init__()
        self.patch = nn.Conv2d(channels + max_regions, width, patch_size, stride=patch_size, bias=False)
        self.elapsed = nn.Linear(SINUSOID_DIM, width, bias=False)
        self.strength = nn.Linear(max_regions * SINUSOID_DIM, width, bias=False)
        self.region = nn.Parameter(torch.empty(max_regions, text_dim))
        self.nothing = nn.Parameter(torch.empty(text_dim))  # what is attended to where nothing is asked
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        """Zeros, and random tokens."""
        self.patch.weight.zero_()
        self.elapsed.weight.zero_()
        self.strength.weight.zero_()
        self.region.normal_(std=len(self.nothing) ** -0.5)
        self.nothing.normal_()

    def start(self, click: Click, num_frames: int) -> Tensor:
        """(B, F, N, D): the mask is on the first frame, the first frame's latents are on all.

        Where a first frame is shown, each frame also knows how long ago it was: attention over time alone sees who
        comes before whom, but not where a clip begins.
        """
        first = torch.cat([click.first_frame, click.masks.to(click.first_frame.dtype)], dim=1)
        later = torch.cat([click.first_frame, torch.zeros_like(click.masks, dtype=first.dtype)], dim=1)
        tokens = self.patch(torch.cat([first, later])).flatten(2).transpose(1, 2)  # (2 B, N, D)
        first, later = tokens.chunk(2)
        tokens = torch.cat([first.unsqueeze(1), later.unsqueeze(1).expand(-1, num_frames - 1, -1, -1)], dim=1)
        waves = sinusoid(torch.arange(num_frames, device=tokens.device) * ELAPSED_SCALE).to(tokens)
        is_shown = click.first_frame.flatten(1).any(dim=1)  # (B,)
        return tokens + is_shown[:, None, None, None] * self.elapsed(waves)[:, None]

    def phrases(self, click: Click) -> tuple[Tensor, Tensor]:
        """Text (B, P, T) and its mask (B, 1, 1, P), to be added to scores."""
        states = (click.phrases + self.region[:, None]).flatten(1, 2)  # (B, R M, T)
        nothing = self.nothing.to(states.dtype).expand(len(states), 1, -1)
        absent = click.phrases_mask.flatten(1) == 0
        mask = torch.zeros_like(absent, dtype=states.dtype).masked_fill(absent, -torch.inf)
        mask = torch.cat([mask.new_zeros(len(mask), 1), mask], dim=1)
        return torch.cat([nothing, states], dim=1), mask[:, None, None]

    def time(self, click: Click) -> Tensor:
        """(B, D), to be added to the time embedding; regions without a phrase add nothing."""
        asked = click.phrases_mask.any(dim=-1, keepdim=True)  # (B, R, 1)
        waves = sinusoid(click.strengths.float() * STRENGTH_SCALE) * asked
        return self.strength(waves.flatten(1).to(self.strength.weight.dtype))


def make_film(
    rotation: Tensor, blocks: Iterable[MotionBlock], conditioner: ClickConditioner | None, click: Click | None
) -> Film:
    """What frames turned by `rotation` (F, N or 1, E/2, 2) share, and what a click asks of them."""
    num_frames = len(rotation)
    if click is None or conditioner is None:
        return Film(num_frames=num_frames, rotation=rotation)
    text, mask = conditioner.phrases(click)
    phrases = []
    for block in blocks:
        with onloaded(block):
            phrases.append(block.attn2.key_value(text))
    start = conditioner.start(click, num_frames)
    return Film(num_frames=num_frames, rotation=rotation, start=start, phrases=tuple(phrases), mask=mask)
