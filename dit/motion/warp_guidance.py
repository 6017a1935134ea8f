"""Warp guidance: moves a prediction towards the first frame, warped by the flow field.

S timesteps, B batch, F frames, N image tokens, D width; latents are B C F Y X.
K region classes, in this order: static, entered (a region has moved there), vacated (a region has left), unknown (no
region of the clip moves).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dianjing.dit.motion.warp import Warp
from dianjing.errors import DianjingError

NUM_TRAIN_TIMESTEPS = 1000
NUM_REGION_CLASSES = 4
NUM_KNOTS = 17  # timesteps at which the gates of region classes are stored; linear in between
MIN_NOISE_LEVEL = 0.02  # smallest noise level divided by
CLASS_GATE_SCALE, TOKEN_GATE_SCALE = 100.0, 0.1  # gates shared by all clips are to train before gates of single tokens


class WarpedFirstFrame(NamedTuple):
    """The first frame as warp guidance takes it.

    warp: latents of the warped first frame, and coverage. region_classes: (B, F, K, Y, X), weights that sum to 1.
    has_first_frame: (B,), 0 where a clip has no first frame.
    """

    warp: Warp
    region_classes: Tensor
    has_first_frame: Tensor

    def map_tensors(self, fn: Callable[[Tensor], Tensor]) -> "WarpedFirstFrame":
        """Return a warped first frame with `fn` applied to every tensor."""
        return WarpedFirstFrame(self.warp.map_tensors(fn), fn(self.region_classes), fn(self.has_first_frame))

    def truncate(self, num_frames: int) -> "WarpedFirstFrame":
        """Return the first `num_frames` frames; tensors are views."""
        return self._replace(warp=self.warp.truncate(num_frames), region_classes=self.region_classes[:, :num_frames])


def make_warped_first_frame(first_frame: Tensor, warp: Warp) -> WarpedFirstFrame:
    """Combine first-frame latents (B, C, Y, X), zeros where there are none, with their warp."""
    has_first_frame = first_frame.flatten(1).any(dim=1).to(first_frame.dtype)
    return WarpedFirstFrame(warp, classify_regions(warp.coverage), has_first_frame)


def classify_regions(coverage: Tensor) -> Tensor:
    """Compute the weights (B, F, K, Y, X) of the region classes from coverage (B, F, R, Y, X), 0 to 1."""
    entered = coverage.amax(dim=2)
    vacated = entered[:, :1] * (1 - entered)
    is_active = (coverage.flatten(1).amax(dim=1) > 0).to(coverage).view(-1, 1, 1, 1)
    static, unknown = is_active * (1 - entered - vacated), (1 - is_active).expand_as(entered)
    return torch.stack([static, entered, vacated, unknown], dim=2)


class WarpGuidance(nn.Module):
    """Move a prediction so that its implied x0 approaches the warped first frame; zero-initialized.

    v' = v - g (x_warp - x0(v)) / sigma, with a gate g per region class plus a correction per token. Blocks know whole
    patches only and would have to generate anew a patch that moves by a fraction of its size; here it is copied.

    x0_coefficients: (NUM_TRAIN_TIMESTEPS, 2), x0 = c[0] latents + c[1] prediction; see `set_x0_coefficients`.
    class_gate: (K, NUM_KNOTS), from the first timestep to the last.
    Source: guidance by a warped first frame, Motion-I2V (arXiv 2401.15977), Sec. 3.3.
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
        """Close all gates, so that predictions pass unchanged."""
        for weight in (self.class_gate, self.token_gate.weight, self.token_gate.bias):
            weight.zero_()

    def set_x0_coefficients(self, x0_coefficients: Tensor) -> None:
        """Store the coefficients (NUM_TRAIN_TIMESTEPS, 2) of a noise schedule with the weights.

        Raises: DianjingError for another number of timesteps.
        """
        if x0_coefficients.shape != self.x0_coefficients.shape:
            raise DianjingError(
                "schedule_length_mismatch", num_timesteps=len(x0_coefficients), expected=NUM_TRAIN_TIMESTEPS
            )
        self.x0_coefficients.copy_(x0_coefficients)

    def compute_blend_coefficients(self, timesteps: Tensor) -> Tensor:
        """Compute the coefficients of steps: (S,) -> (S, 2 + K).

        The first two give x0, the others are the gates of the region classes divided by the noise level.
        """
        knot = timesteps.float().clamp(0, NUM_TRAIN_TIMESTEPS - 1) / (NUM_TRAIN_TIMESTEPS - 1) * (NUM_KNOTS - 1)
        lower_knot = knot.long().clamp(max=NUM_KNOTS - 2)
        low, high = self.class_gate.T[lower_knot].float(), self.class_gate.T[lower_knot + 1].float()
        class_gates = CLASS_GATE_SCALE * torch.lerp(low, high, (knot - lower_knot).unsqueeze(-1))
        x0_coefficients = self.x0_coefficients[timesteps.round().long().clamp(0, NUM_TRAIN_TIMESTEPS - 1)].float()
        # a gate of 1 makes x0 the warped frame, see forward
        noise_levels = (-x0_coefficients[:, 1:]).clamp_min(MIN_NOISE_LEVEL)
        return torch.cat([x0_coefficients, class_gates / noise_levels], dim=-1)

    def forward(
        self,
        prediction: Tensor,
        latents: Tensor,
        tokens: Tensor,
        warped_first_frame: WarpedFirstFrame,
        blend_coefficients: Tensor,
    ) -> Tensor:
        """Correct a prediction from latents, both (B, C, F, Y, X); a predicted variance passes unchanged.

        tokens: (B F, N, D), which the prediction was made of. blend_coefficients: (B or 1, 2 + K) of the step.
        """
        batch, channels, frames, height, width = latents.shape
        patch = self.patch_size
        grid = {"f": frames, "y": height // patch, "x": width // patch, "p": patch, "q": patch}
        token_gate = TOKEN_GATE_SCALE * self.token_gate(tokens)
        token_gate = rearrange(token_gate, "(b f) (y x) (p q c) -> b c f (y p) (x q)", **grid)
        x0_coefficients = blend_coefficients[:, :2].to(latents.dtype).view(-1, 2, 1, 1, 1, 1)
        latent_coefficient, prediction_coefficient = x0_coefficients.unbind(1)
        region_classes = warped_first_frame.region_classes
        class_gates = blend_coefficients[:, 2:].expand(batch, -1).to(region_classes)
        class_gate = torch.einsum("bfkyx,bk->bfyx", region_classes, class_gates)
        x0 = latent_coefficient * latents + prediction_coefficient * prediction[:, :channels]
        difference = warped_first_frame.warp.frames.transpose(1, 2) - x0
        correction = (token_gate + class_gate.unsqueeze(1)) * difference
        correction = F.pad(correction, (0,) * 7 + (prediction.shape[1] - channels,))
        return prediction - warped_first_frame.has_first_frame.view(batch, 1, 1, 1, 1) * correction
