"""What a click asks of a film: what should move, and how the model is told.

B batch, F frames, R regions, M tokens of a motion phrase, N image tokens, D width, T text width; latents are B C F Y X.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.embeddings import SINUSOID_DIM, sinusoid
from dianjing.dit.first_frame import FirstFrameTrust, Shown
from dianjing.dit.motion_field import MotionField, corners
from dianjing.dit.moving import Moved, Path, move

STRENGTH_SCALE = 1000.0  # picture sides a second to the range of a timestep
Encode = Callable[[Tensor], Tensor]  # pictures (N, 3, H, W), from -1 to 1, to latents
SPAN = 9  # points along a side that ways are told for
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

    def ways(self, click: Click, sizes: Tensor, num_frames: int, *, at: Tensor) -> Tensor:
        """What a click asks of regions of these sizes (B, R, 4), as `MotionField` says it at points (S, 2):
        (B, R, F, S, 2).
        """
        assert self.field is not None
        said = (click.phrases, click.phrases_mask, click.strengths)
        return self.field(*said, sizes, num_frames=num_frames, at=at)

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
        at = corners(SPAN, device=picture.device)
        ways = self.ways(click, path.sizes(), num_frames, at=at).unflatten(3, (SPAN, SPAN))
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
