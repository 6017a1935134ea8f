"""Peak memory and time of our pipeline by where its weights wait and in which dtype.

All ways share one process: before each the cache is emptied and the peak begins anew, and what is still allocated is
noted. Every way draws the same picture; how far it is from the first one shows whether weights were where they had
to be.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.deviation import relative_l2
from benchmarks.gpu.bench import LEFT_OUT, Bench, Found, failure
from benchmarks.gpu.meter import Budget
from benchmarks.gpu.models import make_parts, make_theirs, our_copy
from benchmarks.gpu.picture import draw_noise
from benchmarks.pictures import PROMPT
from dianjing import TextToImagePipeline


def make_pipeline(bench: Bench) -> TextToImagePipeline:
    """Make our pipeline with all weights on the device."""
    pipe = TextToImagePipeline(
        **make_parts(bench.scale, bench.device), transformer=our_copy(make_theirs(bench.scale, bench.device))
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def place_all(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.to(device)


def tile_vae(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.enable_vae_tiling()


def store_in_8_bits(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


def offload_models(pipe: TextToImagePipeline, device: torch.device) -> None:
    pipe.enable_model_cpu_offload(device=device)


def offload_groups(pipe: TextToImagePipeline, device: torch.device) -> None:
    """Block by block, the next one on its way while one computes; the VAE stays on the device."""
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
    "everything on the device": place_all,
    "everything on the device, VAE tiled": tile_vae,
    "transformer stored as float8": store_in_8_bits,
    "model offload": offload_models,
    "group offload, streamed by block": offload_groups,
    "group offload, streamed by block, VAE tiled": offload_groups_and_tile,
}


def measure_placements(bench: Bench, share: Budget) -> Iterator[Found]:
    """For each way a new pipeline, whose second picture is measured."""
    bench.release()
    found: Found = {
        "size_px": bench.scale.picture_px,
        "steps": bench.scale.placement_steps,
        "processes": "one for all; cache emptied and peak begun anew before each",
        "placements": {},
    }
    first: Tensor | None = None
    for name, place in PLACEMENTS.items():
        if not share.has(0):
            found["placements"][name] = LEFT_OUT
            continue
        try:
            found["placements"][name], pixels = _measure(bench, place)
            first = pixels if first is None else first
            found["placements"][name]["pixels_l2"] = relative_l2(pixels, first)
        except Exception as error:
            found["placements"][name] = failure(error)
        yield found


@torch.no_grad()
def _measure(bench: Bench, place: Callable[[TextToImagePipeline, torch.device], None]) -> tuple[Found, Tensor]:
    meter, size_px = bench.meter, bench.scale.picture_px
    meter.clear()
    before = meter.memory()["allocated_gib"]
    pipe = make_pipeline(bench)
    place(pipe, bench.device)
    noise = draw_noise(bench, size_px)
    moments: list[float] = []

    def note(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        moments.append(meter.clock())
        return {}

    def draw() -> Any:
        moments.clear()
        output: Any = pipe(
            PROMPT, height=size_px, width=size_px, latents=noise, num_inference_steps=bench.scale.placement_steps,
            callback_on_step_end=note, output_type="pt",
        )  # fmt: skip
        return output.images

    draw()  # where hooks find out the order of the layers
    meter.clear()
    resting = meter.memory()["allocated_gib"]
    seconds, pixels = meter.time(draw)
    steps_s = sorted(end - start for start, end in pairwise(moments))
    return {
        "allocated_before_gib": before,
        "resting_gib": resting,
        **{name: value for name, value in meter.memory().items() if name != "allocated_gib"},
        "picture_s": seconds,
        "step_s": steps_s[len(steps_s) // 2],
    }, pixels.float().cpu()
