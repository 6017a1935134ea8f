"""Complete images by both pipelines, eager and with compiled blocks: text encoders, denoising, VAE.

Latents are (1, C, Y, X).
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline, HunyuanDiTPipeline
from torch import Tensor

from benchmarks.comparison import relative_l2_distance
from benchmarks.gpu.meter import TimeBudget
from benchmarks.gpu.models import count_decode_flops, count_encode_flops, count_forward_flops, make_components
from benchmarks.gpu.runner import SKIPPED, GpuBenchmark, Results
from benchmarks.images import STAGES, time_generation
from benchmarks.implementations import make_ddim_scheduler
from benchmarks.model_sizes import SEED
from benchmarks.timing import compute_quantiles
from dianjing import TextToImagePipeline


def make_shared_pipelines(benchmark: GpuBenchmark) -> dict[str, DiffusionPipeline]:
    """Create four pipelines over the same text encoders and VAE."""
    components, models = make_components(benchmark.scale, benchmark.device), benchmark.transformers

    def make_diffusers_pipeline(transformer: Any) -> HunyuanDiTPipeline:
        arguments = {**components, "scheduler": make_ddim_scheduler(), "requires_safety_checker": False}
        return HunyuanDiTPipeline(**arguments, transformer=transformer)

    def make_dianjing_pipeline(transformer: Any) -> TextToImagePipeline:
        return TextToImagePipeline(**{**components, "scheduler": make_ddim_scheduler()}, transformer=transformer)

    pipes = {
        "diffusers": make_diffusers_pipeline(models.diffusers),
        "dianjing": make_dianjing_pipeline(models.dianjing),
        "diffusers, fused q/k/v, compiled": make_diffusers_pipeline(models.diffusers_compiled),
        "dianjing, compiled": make_dianjing_pipeline(models.dianjing_compiled),
    }
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def sample_image_noise(benchmark: GpuBenchmark, size_px: int) -> Tensor:
    """Sample the initial noise of one image, float32."""
    shape = (1, benchmark.scale.transformer["in_channels"], size_px // 8, size_px // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(benchmark.device)


@torch.no_grad()
def measure_images(benchmark: GpuBenchmark, share: TimeBudget) -> Iterator[Results]:
    """Measure the seconds of each stage for every number of steps, with the pipelines in turn.

    pixels_l2: distance of images of 2 steps to diffusers in bfloat16, which rounds timesteps and latents; Dianjing
    does not.
    """
    scale, size_px = benchmark.scale, benchmark.scale.image_px
    pipes, noise = make_shared_pipelines(benchmark), sample_image_noise(benchmark, size_px)
    fixed_flops = 2 * count_encode_flops(scale) + count_decode_flops(scale, size_px)  # two prompts
    step_flops = 2 * count_forward_flops(scale, size_px)  # with guidance and without
    first_s, pixels = {}, {}
    for name, pipe in pipes.items():
        first_s[name], (_, pixels[name]) = benchmark.meter.time(
            partial(time_generation, pipe, noise, size_px=size_px, clock=benchmark.meter.clock, num_steps=2)
        )
    results: Results = {"size_px": size_px, "first_image_of_2_steps_s": first_s, "images": {}}
    results["is_finite"] = {name: bool(each.isfinite().all()) for name, each in pixels.items()}
    results["pixels_l2"] = {name: relative_l2_distance(each, pixels["diffusers"]) for name, each in pixels.items()}
    yield results
    for steps, rounds in scale.image_rounds.items():
        if not share.has(_estimate_round_s(results, steps)):
            results["images"][str(steps)] = SKIPPED
            continue
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in pipes}
        for round_index in range(rounds):
            if round_index and not share.has(0):
                break
            for name, pipe in pipes.items():
                runs[name].append(
                    time_generation(pipe, noise, size_px=size_px, clock=benchmark.meter.clock, num_steps=steps)[0]
                )
        flops = fixed_flops + steps * step_flops
        results["images"][str(steps)] = {
            "flops": flops,
            "min_s": benchmark.get_min_s(flops),
            "pipelines": {
                name: {stage: asdict(compute_quantiles([each[stage] for each in stages])) for stage in (*STAGES, "all")}
                for name, stages in runs.items()
            },
        }
        yield results


def _estimate_round_s(results: Results, steps: int) -> float:
    """Estimate the seconds of one round from those with other numbers of steps; 0 if there are none."""
    for known, each in results["images"].items():
        if "pipelines" in each:
            return sum(stages["all"]["median"] for stages in each["pipelines"].values()) * steps / int(known)
    return 0.0
