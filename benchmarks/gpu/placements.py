"""Peak memory and time of Dianjing's pipeline by the placement and the dtype of its weights.

All placements share one process: before each, the cache is emptied, the peak is reset, and what is still allocated is
reported. Every placement generates the same image; its distance to the first one shows that the right weights were
used.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.comparison import relative_l2_distance
from benchmarks.gpu.images import sample_image_noise
from benchmarks.gpu.meter import TimeBudget
from benchmarks.gpu.models import make_components, make_random_transformer, share_with_dit
from benchmarks.gpu.runner import SKIPPED, GpuBenchmark, Results, describe_failure
from benchmarks.images import PROMPT
from dianjing import TextToImagePipeline


def make_pipeline(benchmark: GpuBenchmark) -> TextToImagePipeline:
    """Create Dianjing's pipeline with all weights on the device."""
    pipe = TextToImagePipeline(
        **make_components(benchmark.scale, benchmark.device),
        transformer=share_with_dit(make_random_transformer(benchmark.scale, benchmark.device)),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def place_on_device(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.to(device)


def tile_vae(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.enable_vae_tiling()


def store_as_float8(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


def offload_models(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.enable_model_cpu_offload(device=device)


def offload_groups(pipe: TextToImagePipeline, device: torch.device) -> None:
    """Offload by block, with the transfer of the next block during a computation; the VAE stays on the device."""
    pipe.to("cpu")
    has_streams = device.type != "cpu"
    pipe.enable_group_offload(
        onload_device=device,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=has_streams,
        record_stream=has_streams,
        exclude_modules=["vae"],
    )


def offload_groups_and_tile(pipe: TextToImagePipeline, device: torch.device) -> None:
    offload_groups(pipe, device)
    pipe.enable_vae_tiling()


PLACEMENTS: dict[str, Callable[[TextToImagePipeline, torch.device], None]] = {
    "everything on the device": place_on_device,
    "everything on the device, VAE tiled": tile_vae,
    "transformer stored as float8": store_as_float8,
    "model offload": offload_models,
    "group offload, streamed by block": offload_groups,
    "group offload, streamed by block, VAE tiled": offload_groups_and_tile,
}


def measure_placements(benchmark: GpuBenchmark, share: TimeBudget) -> Iterator[Results]:
    """Measure the second image of a new pipeline for each placement."""
    benchmark.release()
    results: Results = {
        "size_px": benchmark.scale.image_px,
        "steps": benchmark.scale.placement_steps,
        "processes": "one for all; cache emptied and peak reset before each",
        "placements": {},
    }
    first: Tensor | None = None
    for name, place in PLACEMENTS.items():
        if not share.has(0):
            results["placements"][name] = SKIPPED
            continue
        try:
            results["placements"][name], pixels = _measure(benchmark, place)
            first = pixels if first is None else first
            results["placements"][name]["pixels_l2"] = relative_l2_distance(pixels, first)
        except Exception as error:
            results["placements"][name] = describe_failure(error)
        yield results


@torch.no_grad()
def _measure(
    benchmark: GpuBenchmark, place: Callable[[TextToImagePipeline, torch.device], None]
) -> tuple[Results, Tensor]:
    meter, size_px = benchmark.meter, benchmark.scale.image_px
    meter.clear()
    before_gib = meter.memory()["allocated_gib"]
    pipe = make_pipeline(benchmark)
    place(pipe, benchmark.device)
    noise = sample_image_noise(benchmark, size_px)
    step_times: list[float] = []

    def record_time(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        step_times.append(meter.clock())
        return {}

    def generate() -> Any:
        step_times.clear()
        output: Any = pipe(
            PROMPT,
            height=size_px,
            width=size_px,
            latents=noise,
            num_inference_steps=benchmark.scale.placement_steps,
            callback_on_step_end=record_time,
            output_type="pt",
        )
        return output.images

    generate()  # in which hooks record the order of the layers
    meter.clear()
    idle_gib = meter.memory()["allocated_gib"]
    seconds, pixels = meter.time(generate)
    steps_s = sorted(end - start for start, end in pairwise(step_times))
    return {
        "allocated_before_gib": before_gib,
        "idle_gib": idle_gib,
        **{name: value for name, value in meter.memory().items() if name != "allocated_gib"},
        "image_s": seconds,
        "step_s": steps_s[len(steps_s) // 2],
    }, pixels.float().cpu()
