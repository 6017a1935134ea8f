"""Whole pictures through both pipelines, as they come and with compiled blocks: text, denoising, VAE.

B batch of pictures, with B = 1; latents are B C Y X.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline, HunyuanDiTPipeline
from torch import Tensor

from benchmarks.contenders import make_scheduler
from benchmarks.deviation import relative_l2
from benchmarks.gpu.bench import LEFT_OUT, Bench, Found
from benchmarks.gpu.meter import Budget
from benchmarks.gpu.models import decode_flops, encode_flops, forward_flops, make_parts
from benchmarks.pictures import STAGES, draw
from benchmarks.sizes import SEED
from benchmarks.timing import spread
from dianjing import TextToImagePipeline


def make_pipelines(bench: Bench) -> dict[str, DiffusionPipeline]:
    """Four pipelines over the same encoders and VAE."""
    parts, models = make_parts(bench.scale, bench.device), bench.transformers

    def make_theirs(transformer: Any) -> HunyuanDiTPipeline:
        given = {**parts, "scheduler": make_scheduler(), "requires_safety_checker": False}
        return HunyuanDiTPipeline(**given, transformer=transformer)

    def make_ours(transformer: Any) -> TextToImagePipeline:
        return TextToImagePipeline(**{**parts, "scheduler": make_scheduler()}, transformer=transformer)

    pipes = {
        "diffusers": make_theirs(models.theirs),
        "dianjing": make_ours(models.ours),
        "diffusers, fused q/k/v, compiled": make_theirs(models.theirs_compiled),
        "dianjing, compiled": make_ours(models.ours_compiled),
    }
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def draw_noise(bench: Bench, size_px: int) -> Tensor:
    """Starting noise of one picture, float32."""
    shape = (1, bench.scale.transformer["in_channels"], size_px // 8, size_px // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(bench.device)


@torch.no_grad()
def measure_pictures(bench: Bench, share: Budget) -> Iterator[Found]:
    """Seconds of each stage by the wall clock, for every number of steps; pipelines take turns.

    `pixels_l2` is the distance of pictures of 2 steps to that of diffusers in bfloat16, which rounds timesteps and
    latents as ours does not.
    """
    scale, size_px = bench.scale, bench.scale.picture_px
    pipes, noise = make_pipelines(bench), draw_noise(bench, size_px)
    once_flops = 2 * encode_flops(scale) + decode_flops(scale, size_px)  # two prompts
    step_flops = 2 * forward_flops(scale, size_px)  # with guidance and without
    first_s, ends = {}, {}
    for name, pipe in pipes.items():
        first_s[name], (_, ends[name]) = bench.meter.time(
            partial(draw, pipe, noise, size_px=size_px, clock=bench.meter.clock, steps=2)
        )
    found: Found = {"size_px": size_px, "first_picture_of_2_steps_s": first_s, "pictures": {}}
    found["is_finite"] = {name: bool(pixels.isfinite().all()) for name, pixels in ends.items()}
    found["pixels_l2"] = {name: relative_l2(pixels, ends["diffusers"]) for name, pixels in ends.items()}
    yield found
    for steps, rounds in scale.picture_rounds.items():
        if not share.has(_expected_s(found, steps)):
            found["pictures"][str(steps)] = LEFT_OUT
            continue
        drawn: dict[str, list[dict[str, float]]] = {name: [] for name in pipes}
        for turn in range(rounds):
            if turn and not share.has(0):
                break
            for name, pipe in pipes.items():
                drawn[name].append(draw(pipe, noise, size_px=size_px, clock=bench.meter.clock, steps=steps)[0])
        flops = once_flops + steps * step_flops
        found["pictures"][str(steps)] = {
            "flops": flops,
            "floor_s": bench.floor_s(flops),
            "pipelines": {
                name: {stage: asdict(spread([each[stage] for each in stages])) for stage in (*STAGES, "all")}
                for name, stages in drawn.items()
            },
        }
        yield found


def _expected_s(found: Found, steps: int) -> float:
    """Seconds of one round of pictures, from those with fewer steps; 0 before there are any."""
    for known, each in found["pictures"].items():
        if "pipelines" in each:
            return sum(stages["all"]["median"] for stages in each["pipelines"].values()) * steps / int(known)
    return 0.0
