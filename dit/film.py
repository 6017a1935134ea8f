"""Time: what turns the picture model into one for film.

B batch, F frames, L text tokens, P tokens of text and phrases, N image tokens,
D width, H heads, E head width, T text width; latents are B C F Y X.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.attention import EPS, Attention, KeyValue, LayerNorm
from dianjing.dit.click import Click, ClickConditioner
from dianjing.dit.first_frame import Shown, show
from dianjing.dit.moving import still
from dianjing.dit.offload import onloaded
from dianjing.dit.rope import THETA

FILM_THETA = 100.0  # of places in frames, which are few


@dataclass(frozen=True, kw_only=True)
class Film:
    """What the frames of a clip share, computed once."""

    num_frames: int
    rotation: Tensor  # (F, N, E/2, 2) over time and places, or (F, 1, E/2, 2) over time alone
    start: Tensor | None = None  # (B, F, N, D), added to the tokens: masks and first frame
    said: tuple[KeyValue, ...]  # text and phrases, one for each motion block, (B, P, H, E)
    mask: Tensor | None = None  # (B or 1, 1, 1, P), added to the scores
    shown: Shown | None = None  # the first frame, moved

    def first(self, num_frames: int) -> "Film":
        start = None if self.start is None else self.start[:, :num_frames]
        shown = self.shown and self.shown.first(num_frames)
        return replace(self, num_frames=num_frames, rotation=self.rotation[:num_frames], start=start, shown=shown)

    def seen(self, conditioner: ClickConditioner, click: Click) -> "Film":
        """The same for other frames, those of a click with moved ones; text and phrases stay."""
        assert click.moved is not None
        num_frames = click.moved.frames.shape[1]
        start, shown = conditioner.start(click, num_frames, click.moved), show(click.first_frame, click.moved)
        return replace(self, num_frames=num_frames, rotation=self.rotation[:num_frames], start=start, shown=shown)

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Film":
        """The same with a change to every tensor that has rows; the rotation has none."""
        mask = self.mask if self.mask is None or len(self.mask) == 1 else change(self.mask)
        return replace(
            self,
            start=None if self.start is None else change(self.start),
            said=tuple(KeyValue(change(key), change(value)) for key, value in self.said),
            mask=mask,
            shown=self.shown and self.shown.apply(change),
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
    """After blocks of the picture model: attention over time, to text and motion phrases, feed-forward.

    Starts as nothing. Each place attends to itself in all frames, or, where the rotation has places, every place to
    every place in all frames: what moves is then seen where it was, for the price of longer rows. With text and
    feed-forward of its own, time can be learnt while the picture model stays as it is.
    Source: AnimateDiff (arXiv 2307.04725); the phrases' own attention: Follow-Your-Click, "motion-augmented module".
    """

    def __init__(self, width: int, *, heads: int, head_dim: int, text_dim: int, hidden_dim: int, activation: str):
        super().__init__()
        self.norm1 = LayerNorm(width, eps=EPS)
        self.attn1 = Attention(width, heads=heads, head_dim=head_dim)
        self.norm2 = LayerNorm(width, eps=EPS)
        self.attn2 = Attention(width, heads=heads, head_dim=head_dim, text_dim=text_dim)
        self.norm3 = LayerNorm(width, eps=EPS)
        self.ff = FeedForward(width, activation_fn=activation, inner_dim=hidden_dim)
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        """Random weights inside, zeros at the end of each part."""
        reset(self)
        for last in (self.attn1.to_out[0], self.attn2.to_out[0], self.ff.net[-1]):
            last.weight.zero_()
            last.bias.zero_()

    def forward(self, x: Tensor, num_frames: int, turns: Tensor, said: KeyValue, mask: Tensor | None = None) -> Tensor:
        """(B F, N, D) -> (B F, N, D); turns (F, N or 1, 1, E/2, 2) or complex."""
        tokens = x.shape[1]
        if turns.shape[1] == tokens > 1:
            x = rearrange(x, "(b f) n d -> b (f n) d", f=num_frames)
            turns = turns.flatten(0, 1)
            x = x + self.attn1(self.norm1(x), turns)
            x = self._obey(x, turns, said, mask)
            return rearrange(x, "b (f n) d -> (b f) n d", f=num_frames)
        x = rearrange(x, "(b f) n d -> (b n) f d", f=num_frames)
        turns = turns.squeeze(1)
        x = x + self.attn1(self.norm1(x), turns)
        x = rearrange(x, "(b n) f d -> b (n f) d", n=tokens)
        x = self._obey(x, turns.repeat(tokens, *(1,) * (turns.ndim - 1)), said, mask)
        return rearrange(x, "b (n f) d -> (b f) n d", f=num_frames)

    def _obey(self, x: Tensor, turns: Tensor, said: KeyValue, mask: Tensor | None) -> Tensor:
        """(B, F N, D) or (B, N F, D): what text and phrases ask for is done."""
        x = x + self.attn2(self.norm2(x), turns, mask, said)
        return x + self.ff(self.norm3(x))


def make_film(
    rotation: Tensor,
    blocks: Iterable[MotionBlock],
    conditioner: ClickConditioner | None,
    click: Click | None,
    *,
    text: Tensor,
    mask: Tensor | None,
) -> Film:
    """What frames turned by `rotation` (F, N or 1, E/2, 2) share, and what text and a click ask of them.

    text (B, L, T), and its mask (1, 1, 1, L), to be added to scores.
    """
    num_frames, start, shown = len(rotation), None, None
    if click is not None and conditioner is not None:
        phrases, asked = conditioner.phrases(click)
        if mask is None:
            mask = text.new_zeros(1, 1, 1, text.shape[1])
        mask = torch.cat([mask.expand(len(asked), -1, -1, -1), asked], dim=-1)
        text = torch.cat([text, phrases.to(text.dtype)], dim=1)
        moved = click.moved or still(click.first_frame, click.masks.shape[1], num_frames)
        start = conditioner.start(click, num_frames, moved)
        if conditioner.field is not None:
            shown = show(click.first_frame, moved)
    said = []
    for block in blocks:
        with onloaded(block):
            said.append(block.attn2.key_value(text))
    return Film(num_frames=num_frames, rotation=rotation, start=start, said=tuple(said), mask=mask, shown=shown)
