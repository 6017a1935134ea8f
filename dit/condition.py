"""What the prompt, the picture's size and the schedule decide: computed once, used at every step.

S steps, B batch, N image tokens, L text tokens, D width, H heads, E head width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dianjing.dit.film import Film
from dianjing.dit.frozen import FrozenBlock


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Everything `DiT` needs besides the latents, for one batch of prompts and a whole schedule.

    Made by `DiT.condition`. `at` picks a step, `rows` picks or repeats prompts.
    """

    keys: tuple[Tensor, ...]  # of the text, one for each block: (B, L, H, E)
    values: tuple[Tensor, ...]
    mask: Tensor | None  # (L,), added to the scores: 0 for text, -inf for the filling; None without filling
    shifts: Tensor  # of the blocks: (S, depth, B, D)
    scale_shift: Tensor  # of the last norm: (S, B, 2D)
    rotation: Tensor  # (N, E/2, 2)
    size: tuple[int, int]  # height and width in latents
    frozen: tuple[FrozenBlock, ...] | None = None  # the blocks for a CPU in bfloat16, where that holds
    film: Film | None = None  # None for a picture
    mix: Tensor | None = None  # `ClickConditioner.mix` of the steps: (S, 2 + KINDS)

    @property
    def num_steps(self) -> int:
        return self.shifts.shape[0]

    @property
    def batch_size(self) -> int:
        return self.shifts.shape[2]

    def at(self, step: int) -> "Condition":
        """The same for one step only, as `DiT.forward` takes it; no copy is made."""
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the schedule of {self.num_steps} steps")
        of_step = slice(step, step + 1)
        mix = None if self.mix is None else self.mix[of_step]
        return replace(self, shifts=self.shifts[of_step], scale_shift=self.scale_shift[of_step], mix=mix)

    def frames(self, num_frames: int) -> "Condition":
        """The same for the first `num_frames` of those it was made for."""
        made_for = 1 if self.film is None else self.film.num_frames
        if num_frames > made_for:
            raise ValueError(f"{num_frames} frames of a condition for {made_for}")
        if self.film is None:
            return self
        return replace(self, film=self.film.first(num_frames))

    def rows(self, index: slice | list[int] | Tensor) -> "Condition":
        """The prompts at `index` of the batch: a slice to pick a part, [0, 0, 1, 1] for two pictures each."""
        if isinstance(index, list):
            index = torch.tensor(index, device=self.shifts.device)
        return replace(
            self,
            keys=tuple(key[index] for key in self.keys),
            values=tuple(value[index] for value in self.values),
            shifts=self.shifts[:, :, index],
            scale_shift=self.scale_shift[:, index],
            film=self.film and self.film.apply(lambda tensor: tensor[index]),
        )

    def to(self, *args, **kwargs) -> "Condition":
        """As `torch.Tensor.to`; the rotation stays in float32, and frozen blocks stay behind."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(*args, **kwargs)

        return Condition(
            keys=tuple(map(move, self.keys)),
            values=tuple(map(move, self.values)),
            mask=None if self.mask is None else move(self.mask),
            shifts=move(self.shifts),
            scale_shift=move(self.scale_shift),
            rotation=move(self.rotation).to(self.rotation.dtype),
            size=self.size,
            film=self.film and replace(self.film.apply(move), rotation=self.film.rotation.to(self.shifts.device)),
            mix=None if self.mix is None else move(self.mix),
        )
