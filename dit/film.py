"""Time: what turns the picture model into one for film, and what a click asks of it.

B batch, F frames, R regions, M tokens of a motion phrase, L text tokens, P tokens of text and phrases, N image tokens,
D width, H heads, E head width, T text width; latents are B C F Y X.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.attention import EPS, Attention, KeyValue, LayerNorm
from dianjing.dit.embeddings import SINUSOID_DIM, sinusoid
from dianjing.dit.first_frame import FirstFrameTrust, Shown, show
from dianjing.dit.motion_field import MotionField, corners
from dianjing.dit.moving import Moved, Path, move, still
from dianjing.dit.offload import onloaded
from dianjing.dit.rope import THETA

STRENGTH_SCALE = 1000.0  # picture sides a second to the range of a timestep
Encode = Callable[[Tensor], Tensor]  # pictures (N, 3, H, W), from -1 to 1, to latents
SPAN = 9  # points along a side that ways are told for
FILM_THETA = 100.0  # of places in frames, which are few
ELAPSED_SCALE = 4.0  # frames since the first one to the same


@dataclass(frozen=True, kw_only=True)
class Click:
    """What should move, in a batch of clips: R regions of the first frame, each with a phrase and a strength.

    first_frame: its latents (B, C, Y, X), zeros where it is not given. masks: (B, R, Y, X) in latents, 1 inside.
    phrases: states (B, R, M, T) of the first text encoder, and phrases_mask (B, R, M), 1 for text: a row or region
    without text is not asked to move. strengths: float32 (B, R), a region's mean speed in picture sides a second.
    moved: latents of the first frame moved as is asked, where a model takes it (`ClickConditioner.with_moved`).
    Source: Follow-Your-Click (arXiv 2403.08268), Sec. 3.
    """

    first_frame: Tensor
    masks: Tensor
    phrases: Tensor
    phrases_mask: Tensor
    strengths: Tensor
    moved: Moved | None = None

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Click":
        """The same with a change to every tensor."""
        names = ("first_frame", "masks", "phrases", "phrases_mask", "strengths")
        parts = {name: change(getattr(self, name)) for name in names}
        return Click(**parts, moved=self.moved and self.moved.apply(change))


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

    def seen(self, conditioner: "ClickConditioner", click: Click) -> "Film":
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


class ClickConditioner(nn.Module):
    """Masks, first frame and the frames since to tokens, phrases of all regions to one row, strengths to the time.

    All but the phrases start at zero. With a motion field the first frame is also moved as is asked, and taken over.
    """

    def __init__(
        self, *, channels: int, max_regions: int, width: int, text_dim: int, patch_size: int, has_field: bool
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = nn.Conv2d(channels + max_regions, width, patch_size, stride=patch_size, bias=False)
        self.elapsed = nn.Linear(SINUSOID_DIM, width, bias=False)
        self.strength = nn.Linear(max_regions * SINUSOID_DIM, width, bias=False)
        self.strength_of_region = nn.Linear(SINUSOID_DIM, text_dim, bias=False)
        self.region = nn.Parameter(torch.empty(max_regions, text_dim))
        self.field: MotionField | None = None
        self.taking_over: FirstFrameTrust | None = None
        if has_field:
            self.field = MotionField(text_dim)
            self.see_moved = nn.Conv2d(channels + max_regions, width, patch_size, stride=patch_size, bias=False)
            self.taking_over = FirstFrameTrust(width, channels=channels, patch_size=patch_size)
        self.start_at_nothing()

    @torch.no_grad()
    def start_at_nothing(self) -> None:
        """Zeros, and random tokens."""
        self.patch.weight.zero_()
        self.elapsed.weight.zero_()
        self.strength.weight.zero_()
        self.strength_of_region.weight.zero_()
        self.region.normal_(std=self.region.shape[1] ** -0.5)
        if self.taking_over is not None and self.field is not None:
            self.see_moved.weight.zero_()
            self.field.start_at_nothing()
            self.taking_over.start_at_nothing()

    def ways(self, click: Click, num_frames: int, *, at: Tensor) -> Tensor:
        """What a click asks for, as `MotionField` says it at points (S, 2): (B, R, F, S, 2)."""
        assert self.field is not None
        said = (click.phrases, click.phrases_mask, click.strengths, click.masks)
        return self.field(*said, num_frames=num_frames, at=at)

    @torch.no_grad()
    def with_moved(
        self, click: Click, picture: Tensor, path: Path, *, num_frames: int, encode: Encode
    ) -> tuple[Click, Tensor]:
        """A click with its first frame moved as it asks: the picture (B, 3, H, W) itself is, in which the path began,
        and encoded anew, so that it is as sharp as it was; and its frames (B, F, 3, H, W) as pictures.

        A model that takes no moved frames gets the click as it is, and a picture that stands still.
        """
        if self.field is None:
            return click, picture.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)
        moved, _ = self._moved(click, picture, path, num_frames)
        first, rest = click.first_frame.unsqueeze(1), moved.frames[:, 1:]
        is_given = first.flatten(1).any(dim=1).view(-1, 1, 1, 1, 1)
        latents = encode(rest.flatten(0, 1)).unflatten(0, rest.shape[:2]) * is_given
        covered = F.adaptive_avg_pool2d(moved.covered.flatten(0, 1), (first.shape[-2], first.shape[-1]))
        frames = torch.cat([first, latents.to(first.dtype)], dim=1)
        covered = covered.unflatten(0, frames.shape[:2]).to(first.dtype)
        return replace(click, moved=Moved(frames, covered)), moved.frames

    @torch.no_grad()
    def go_on(self, click: Click, path: Path, *, num_frames: int) -> tuple[Path, Tensor]:
        """The path after so many frames of what is asked, and where regions are on the way: (B, F, R, H, W)."""
        if self.field is None:
            return path, path.covered.unsqueeze(1)
        moved, ways = self._moved(click, path.masks[:, :1], path, num_frames)
        return Path(path.masks, moved.covered[:, -1], ways[:, :, -1]), moved.covered

    def _moved(self, click: Click, picture: Tensor, path: Path, num_frames: int) -> tuple[Moved, Tensor]:
        """A picture moved, and the ways back to it (B, R, F, P, Q, 2); on the first frame all is where it is now."""
        ways = self.ways(click, num_frames, at=corners(SPAN, device=picture.device)).unflatten(3, (SPAN, SPAN))
        ways, asked = path.on(ways), click.phrases_mask.any(dim=-1)
        moved = move(picture, path.masks.to(picture.dtype), ways, asked)
        now = path.covered.to(picture.dtype) * asked[:, :, None, None]
        return Moved(moved.frames, torch.cat([now.unsqueeze(1), moved.covered[:, 1:]], dim=1)), ways

    def start(self, click: Click, num_frames: int, moved: Moved) -> Tensor:
        """(B, F, N, D): the mask is on the first frame, the first frame's latents are on all, and moved as asked.

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
        if self.field is not None:
            seen = self.see_moved(torch.cat(moved, dim=2).flatten(0, 1))
            tokens = tokens + rearrange(seen, "(b f) d y x -> b f (y x) d", f=num_frames)
        return tokens + is_shown[:, None, None, None] * self.elapsed(waves)[:, None]

    def finish(
        self, predicted: Tensor, latents: Tensor, tokens: Tensor, shown: Shown | None, mix: Tensor | None
    ) -> Tensor:  # fmt: skip
        """A prediction from latents, both (B, C, F, Y, X), with what is taken over from the first frame."""
        if self.taking_over is None or shown is None or mix is None:
            return predicted
        return self.taking_over(predicted, latents, tokens, shown, mix)

    def mix(self, timesteps: Tensor) -> Tensor | None:
        """`FirstFrameTrust.mix`; None without a motion field."""
        return None if self.taking_over is None else self.taking_over.mix(timesteps)

    def phrases(self, click: Click) -> tuple[Tensor, Tensor]:
        """Tokens (B, R M, T) and their mask (B, 1, 1, R M), to be added to scores."""
        speeds = self.strength_of_region(sinusoid(click.strengths.float() * STRENGTH_SCALE).to(click.phrases.dtype))
        states = (click.phrases + speeds.unsqueeze(2) + self.region[:, None]).flatten(1, 2)
        absent = click.phrases_mask.flatten(1) == 0
        mask = torch.zeros_like(absent, dtype=states.dtype).masked_fill(absent, -torch.inf)
        return states, mask[:, None, None]

    def time(self, click: Click) -> Tensor:
        """(B, D), to be added to the time embedding; regions without a phrase add nothing."""
        asked = click.phrases_mask.any(dim=-1, keepdim=True)  # (B, R, 1)
        waves = sinusoid(click.strengths.float() * STRENGTH_SCALE) * asked
        return self.strength(waves.flatten(1).to(self.strength.weight.dtype))


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
