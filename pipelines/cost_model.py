"""Predicted duration of a generation: floating-point operations over the speed that this machine was measured at.

B batch of images, F frames, N image tokens, L text tokens, D width; latents are B C Y X.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dianjing.dit import DiT
from dianjing.errors import Message
from dianjing.pipelines.vae import decode_latents

PROBE_GRID = 4  # patches along a side of the smallest image that is measured
MIN_PROBE_S = 0.15  # a shorter step says more about the calls than about the arithmetic
LONG_PROBE_S = 1.0  # of a large model on a CPU: one size has to do
MIN_PROBES, MAX_PROBES = 3, 10
NUM_REPEATS = 3  # the shortest counts: other processes interrupt single steps
DECODE_PROBE_SIDE = 16  # latents
STEADY_RUN_S = 10.0  # a run of this length counts as much as all before it
LONG_RUN_S = 20.0  # the user of a longer run is told its predicted duration before it
MAX_LOG_RATIO = math.log(8)  # a run that was stopped by a debugger or a suspended machine is no measurement


@dataclass(frozen=True, kw_only=True)
class SamplingWork:
    """The work of one sampling run.

    num_frames: frames that are denoised together, or images of a batch. num_passes: 2 with classifier-free guidance,
    else 1. window_size: frames that attend to each other in a video, 1 for images. num_control_layers: blocks of a
    ControlNet.
    """

    num_frames: int
    num_steps: int
    num_passes: int
    window_size: int = 1
    num_control_layers: int = 0


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """The sizes of a transformer that its arithmetic depends on."""

    num_layers: int
    num_motion_blocks: int
    width: int
    mlp_ratio: float
    num_text_tokens: int
    token_side_px: int
    has_full_temporal_attention: bool

    @classmethod
    def from_transformer(cls, transformer: DiT, *, vae_scale_factor: int) -> "TransformerShape":
        config = transformer.config
        return cls(
            num_layers=config.num_layers,
            num_motion_blocks=len(transformer.motion_blocks or ()),
            width=transformer.inner_dim,
            mlp_ratio=config.mlp_ratio,
            num_text_tokens=config.text_len + config.text_len_t5,
            token_side_px=config.patch_size * vae_scale_factor,
            has_full_temporal_attention=config.temporal_attention == "full",
        )

    def count_step_flops(self, work: SamplingWork, *, width: int, height: int) -> float:
        """Count the operations of one step: 2 for each multiplication of a matrix product."""
        tokens = width * height / self.token_side_px**2
        num_layers = self.num_layers + work.num_control_layers
        flops = num_layers * self._count_block_flops(tokens, attended_tokens=tokens)
        flops += self.num_layers / 2 * tokens * 4 * self.width**2  # skip connections
        if work.window_size > 1:
            attended_tokens = work.window_size * (tokens if self.has_full_temporal_attention else 1)
            flops += self.num_motion_blocks * self._count_block_flops(tokens, attended_tokens=attended_tokens)
        return work.num_passes * work.num_frames * flops

    def _count_block_flops(self, tokens: float, *, attended_tokens: float) -> float:
        """Count the operations of self-attention, cross-attention and MLP on the tokens of one frame."""
        projections = (8 + 4 + 4 * self.mlp_ratio) * self.width**2
        return tokens * (projections + 4 * (attended_tokens + self.num_text_tokens) * self.width)


def describe_duration(seconds: float) -> Message:
    """Describe a predicted duration, rounded up as far as the prediction is uncertain."""
    if seconds <= 90:
        return Message("duration_seconds", count=math.ceil(seconds) if seconds <= 10 else math.ceil(seconds / 5) * 5)
    if seconds <= 5400:
        return Message("duration_minutes", count=math.ceil(seconds / 60))
    return Message("duration_hours", count=math.ceil(seconds / 3600))


class DurationCorrection:
    """A factor of predicted durations, corrected by every run: by long ones at once, by short ones little by little."""

    def __init__(self) -> None:
        self._log_factor = 0.0
        self._lock = threading.Lock()

    @property
    def factor(self) -> float:
        return math.exp(self._log_factor)

    def add_run(self, *, predicted_s: float, measured_s: float) -> None:
        """Correct the factor by a run that is over; `predicted_s` is what was predicted before it."""
        if predicted_s <= 0 or measured_s <= 0:
            return
        log_ratio = min(max(math.log(measured_s / predicted_s), -MAX_LOG_RATIO), MAX_LOG_RATIO)
        with self._lock:
            self._log_factor += log_ratio * measured_s / (measured_s + STEADY_RUN_S)


class CostModel:
    """Predicts seconds from the operations of a request, and learns from the runs that it sees.

    A step takes `step_overhead_s` and its operations at `flops_per_s`, a decoded pixel `decode_s_per_pixel`.
    """

    def __init__(
        self, shape: TransformerShape, *, step_overhead_s: float, flops_per_s: float, decode_s_per_pixel: float
    ):
        self.shape = shape
        self.step_overhead_s, self.flops_per_s = step_overhead_s, flops_per_s
        self.decode_s_per_pixel = decode_s_per_pixel
        self._correction = DurationCorrection()

    @classmethod
    def measure(cls, pipe: Any, *, clock: Callable[[], float] = time.perf_counter) -> "CostModel":
        """Measure a text-to-image pipeline by single steps of small images: a second or two on any machine."""
        shape = TransformerShape.from_transformer(pipe.transformer, vae_scale_factor=pipe.vae_scale_factor)
        grid = PROBE_GRID
        probes: list[tuple[float, float]] = []
        _time_step(pipe, grid, clock=clock)  # the first call of a process is slow
        while len(probes) < MAX_PROBES:
            side_px = grid * shape.token_side_px
            work = SamplingWork(num_frames=1, num_steps=1, num_passes=1)
            flops = shape.count_step_flops(work, width=side_px, height=side_px)
            step_s = _time_step(pipe, grid, clock=clock)
            if step_s < LONG_PROBE_S:
                step_s = min(step_s, *(_time_step(pipe, grid, clock=clock) for _ in range(NUM_REPEATS - 1)))
            probes.append((flops, step_s))
            if step_s >= LONG_PROBE_S or (step_s >= MIN_PROBE_S and len(probes) >= MIN_PROBES):
                break
            grid *= 2
        overhead_s, flops_per_s = _fit_speed(probes)
        decode_s = _time_decoding(pipe, clock=clock) / (DECODE_PROBE_SIDE * pipe.vae_scale_factor) ** 2
        return cls(shape, step_overhead_s=overhead_s, flops_per_s=flops_per_s, decode_s_per_pixel=decode_s)

    def count_flops(self, runs: Sequence[SamplingWork], *, width: int, height: int) -> float:
        """Count the operations of all steps of the sampling runs."""
        return sum(run.num_steps * self.shape.count_step_flops(run, width=width, height=height) for run in runs)

    def predict_s(self, runs: Sequence[SamplingWork], *, width: int, height: int) -> float:
        """Predict the duration in s of sampling runs at a size in px, decoding included."""
        flops = self.count_flops(runs, width=width, height=height)
        overhead_s = self.step_overhead_s * sum(run.num_steps for run in runs)
        pixels = width * height * sum(run.num_frames for run in runs)
        seconds = overhead_s + flops / self.flops_per_s + pixels * self.decode_s_per_pixel
        return seconds * self._correction.factor

    def add_run(self, *, predicted_s: float, measured_s: float) -> None:
        """Correct the prediction by a run that is over; `predicted_s` is what `predict_s` said before it."""
        self._correction.add_run(predicted_s=predicted_s, measured_s=measured_s)


def _fit_speed(probes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit seconds per step and operations per s to pairs of (operations, s), which interruptions only make longer."""
    flops_per_s = max(flops / max(seconds, 1e-9) for flops, seconds in probes)
    return max(0.0, min(seconds - flops / flops_per_s for flops, seconds in probes[:MIN_PROBES])), flops_per_s


@torch.no_grad()
def _time_step(pipe: Any, grid: int, *, clock: Callable[[], float]) -> float:
    """Time one forward pass of the transformer for an image of grid x grid patches, in s."""
    transformer: DiT = pipe.transformer
    config, device, dtype = transformer.config, pipe.execution_device, transformer.dtype
    side = grid * config.patch_size
    inputs: dict[str, Any] = {
        "encoder_hidden_states": torch.zeros(1, config.text_len, config.cross_attention_dim),
        "encoder_hidden_states_t5": torch.zeros(1, config.text_len_t5, config.cross_attention_dim_t5),
    }
    inputs = {name: tensor.to(device, dtype) for name, tensor in inputs.items()}
    if config.use_style_cond_and_image_meta_size:
        inputs["image_meta_size"] = torch.zeros(1, 6, device=device)
        inputs["style"] = torch.zeros(1, dtype=torch.long, device=device)
    conditioning = transformer.compute_conditioning(
        torch.tensor([500.0], device=device), latent_size=(side, side), **inputs
    ).select_step(0)
    latents = torch.zeros(1, config.in_channels, side, side, device=device, dtype=dtype)
    start_s = clock()
    transformer(latents, conditioning=conditioning, return_dict=False)[0].cpu()  # waits for the device
    return clock() - start_s


@torch.no_grad()
def _time_decoding(pipe: Any, *, clock: Callable[[], float]) -> float:
    """Time the decoding of one small image, in s."""
    channels = pipe.transformer.config.in_channels
    latents = torch.zeros(1, channels, DECODE_PROBE_SIDE, DECODE_PROBE_SIDE, device=pipe.execution_device)
    decode_latents(pipe.vae, latents).cpu()
    start_s = clock()
    decode_latents(pipe.vae, latents).cpu()
    return clock() - start_s
