"""One denoising step with guidance: diffusers' model and Dianjing's, eager and compiled, over the same tensors.

Latents are (1, C, Y, X) before guidance doubles the batch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from benchmarks.comparison import max_relative_difference, relative_l2_distance
from benchmarks.gpu.meter import TimeBudget
from benchmarks.gpu.models import count_forward_flops, share_with_diffusers_model, share_with_dit
from benchmarks.gpu.runner import COMPILE_S, MIN_ROUNDS, SKIPPED, GpuBenchmark, Results, describe_failure
from benchmarks.implementations import (
    FORWARD_TIMESTEP,
    GUIDANCE_SCALE,
    IMAGE_STEPS,
    DenoisingInputs,
    Implementation,
    cast_prompt_embeds,
    make_ddim_scheduler,
    make_denoising_inputs,
    make_dianjing_implementation,
    make_diffusers_implementation,
)
from benchmarks.model_sizes import ModelSize
from benchmarks.timing import Quantiles, compute_quantiles, compute_ratios
from dianjing.dit import DiT
from dianjing.pipelines.denoiser import combine_predictions, make_model_inputs
from dianjing.pipelines.schedulers import set_timesteps

DIFFUSERS, DIFFUSERS_COMPILED = "diffusers", "diffusers, fused q/k/v, compiled"
DIANJING_DIRECT, DIANJING = "dianjing, called like diffusers", "dianjing, precomputed"
DIANJING_COMPILED = "dianjing, precomputed, compiled"
DIFFUSERS_FULL_GRAPH, DIANJING_FULL_GRAPH = "diffusers, fused q/k/v, full graph", "dianjing, precomputed, full graph"
PAIRS = (
    (DIFFUSERS, DIANJING_DIRECT),
    (DIFFUSERS, DIANJING),
    (DIFFUSERS_COMPILED, DIANJING),
    (DIFFUSERS_COMPILED, DIANJING_COMPILED),
    (DIFFUSERS_FULL_GRAPH, DIANJING_FULL_GRAPH),
)
RUN_STEPS = 60  # more than two series of rounds take, and no more than are precomputed at once


@dataclass
class TimedImplementation:
    """An implementation with its denoising run and its step times so far."""

    implementation: Implementation
    run: Iterator[Tensor]
    seconds: list[float]
    first_call_s: float


def make_direct_implementation(name: str, model: DiT, denoising_inputs: DenoisingInputs) -> Implementation:
    """Return Dianjing's model called like diffusers' model: timestep and text are processed at every step."""
    dtype, device = model.dtype, denoising_inputs.latents.device
    inputs = make_model_inputs(
        model,
        cast_prompt_embeds(denoising_inputs.prompt_embeds, dtype),
        guided=True,
        image_meta_size=denoising_inputs.image_meta_size,
        device=device,
    )

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return model(torch.cat([latents] * 2).to(dtype), timestep, **inputs, return_dict=False)[0]

    def denoise() -> Iterator[Tensor]:
        scheduler = make_ddim_scheduler()
        timesteps = set_timesteps(scheduler, denoising_inputs.num_inference_steps, device=device)
        return iterate_steps(scheduler, timesteps)

    def iterate_steps(scheduler: DDIMScheduler, timesteps: Tensor) -> Iterator[Tensor]:
        latents = denoising_inputs.latents * scheduler.init_noise_sigma
        for timestep in timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            predictions = predict(scaled, timestep)[:, : latents.shape[1]].float().chunk(2)
            prediction = combine_predictions(predictions, guidance_scale=GUIDANCE_SCALE, guidance_rescale=0.0)
            latents = scheduler.step(prediction, timestep, latents, eta=0.0, generator=None, return_dict=False)[0]
            yield latents

    timestep = torch.tensor(FORWARD_TIMESTEP, device=device)
    return Implementation(name=name, predict=lambda: predict(denoising_inputs.latents, timestep), denoise=denoise)


def make_step_inputs(benchmark: GpuBenchmark, size_px: int) -> DenoisingInputs:
    """Return random latents and prompt embeddings for the model of the scale at this size."""
    size = ModelSize(
        name="",
        weights="random",
        config=benchmark.scale.transformer,
        latent_size=size_px // 8,
        num_inference_steps=RUN_STEPS,
        min_pairs=RUN_STEPS,
    )
    return make_denoising_inputs(size, device=benchmark.device)


@torch.no_grad()
def measure_denoising_steps(benchmark: GpuBenchmark, share: TimeBudget, *, size_px: int) -> Iterator[Results]:
    """Measure steps, compilation, deviation from float32 and the minimum time; eager implementations come first."""
    inputs, models = make_step_inputs(benchmark, size_px), benchmark.transformers
    results: Results = {"size_px": size_px, **_get_min_times(benchmark, size_px), "implementations": {}}
    results["comparisons"] = []
    reference = _compute_reference(benchmark, inputs, results)
    eager: dict[str, Callable[[], Implementation]] = {
        DIFFUSERS: lambda: make_diffusers_implementation(DIFFUSERS, models.diffusers, inputs),
        DIANJING_DIRECT: lambda: make_direct_implementation(DIANJING_DIRECT, models.dianjing, inputs),
        DIANJING: lambda: make_dianjing_implementation(DIANJING, models.dianjing, inputs),
    }
    compiled: dict[str, Callable[[], Implementation]] = {
        DIFFUSERS_COMPILED: lambda: make_diffusers_implementation(
            DIFFUSERS_COMPILED, models.diffusers_compiled, inputs
        ),
        DIANJING_COMPILED: lambda: make_dianjing_implementation(DIANJING_COMPILED, models.dianjing_compiled, inputs),
    }
    timed: dict[str, TimedImplementation] = {}
    for makers, needs_s in ((eager, 0.0), (compiled, COMPILE_S)):
        for name, make in makers.items():
            _start(benchmark, name, make, timed, reference, results, needs_s=needs_s)
            yield results
        _run_rounds(benchmark, share, timed, results)
        yield results


@torch.no_grad()
def measure_full_graphs(benchmark: GpuBenchmark, share: TimeBudget, *, size_px: int) -> Iterator[Results]:
    """Measure the same step with each model compiled as one graph of all layers instead of by block."""
    inputs, model = make_step_inputs(benchmark, size_px), benchmark.transformers.diffusers
    results: Results = {"size_px": size_px, **_get_min_times(benchmark, size_px), "implementations": {}}
    results["comparisons"] = []
    reference = _compute_reference(benchmark, inputs, results)

    def compile_full_graph(module: nn.Module) -> Any:
        return torch.compile(module, fullgraph=True, dynamic=False, backend=benchmark.scale.compiler)

    def make_diffusers() -> Implementation:
        fused = share_with_diffusers_model(model)
        fused.fuse_qkv_projections()
        return make_diffusers_implementation(DIFFUSERS_FULL_GRAPH, compile_full_graph(fused), inputs)

    def make_dianjing() -> Implementation:
        compiled = compile_full_graph(share_with_dit(model))
        return make_dianjing_implementation(DIANJING_FULL_GRAPH, compiled, inputs)

    timed: dict[str, TimedImplementation] = {}
    for name, make in ((DIFFUSERS_FULL_GRAPH, make_diffusers), (DIANJING_FULL_GRAPH, make_dianjing)):
        _start(benchmark, name, make, timed, reference, results, needs_s=2 * COMPILE_S)
        yield results
    _run_rounds(benchmark, share, timed, results)
    yield results


def _get_min_times(benchmark: GpuBenchmark, size_px: int) -> Results:
    """Return the operations of a step, and the minimum times for them and for reading the weights once."""
    flops = 2 * count_forward_flops(benchmark.scale, size_px)  # with guidance
    parameters = benchmark.transformers.diffusers.parameters()
    num_bytes = sum(each.numel() * each.element_size() for each in parameters)
    rate = benchmark.rates.get("copy_bytes_per_s")
    return {
        "flops": flops,
        "min_s": benchmark.get_min_s(flops),
        "weight_bytes": num_bytes,
        "weights_min_s": num_bytes / rate if rate else None,
    }


def _compute_reference(benchmark: GpuBenchmark, inputs: DenoisingInputs, results: Results) -> Tensor:
    """Run diffusers' model once in float32 over the same weights; record Dianjing's difference in float32."""
    model = share_with_diffusers_model(benchmark.transformers.diffusers).float()
    reference = make_diffusers_implementation("", model, inputs).predict()
    output = make_dianjing_implementation("", share_with_dit(model), inputs).predict()
    results["float32_max_difference"] = max_relative_difference(output, reference)
    return reference


def _start(
    benchmark: GpuBenchmark,
    name: str,
    make: Callable[[], Implementation],
    timed: dict[str, TimedImplementation],
    reference: Tensor,
    results: Results,
    *,
    needs_s: float,
) -> None:
    """Start a run and time its first step, which compiles; a failure skips only this implementation."""
    if not benchmark.budget.has(needs_s):
        results["implementations"][name] = SKIPPED
        return
    try:
        implementation = make()
        run = implementation.denoise()
        first_s, _ = benchmark.meter.time(run.__next__)
        next(run)
        output, precompute = implementation.predict(), implementation.precompute
        precompute_s = [] if precompute is None else [benchmark.meter.time(precompute)[0] for _ in range(3)]
    except Exception as error:
        results["implementations"][name] = describe_failure(error)
        return
    timed[name] = TimedImplementation(implementation=implementation, run=run, seconds=[], first_call_s=first_s)
    results["implementations"][name] = {
        "first_call_s": first_s,
        "forward_max_difference": max_relative_difference(output, reference),
        "forward_l2": relative_l2_distance(output, reference),
        "precompute_s": min(precompute_s, default=0.0),
        "precomputed_steps": IMAGE_STEPS,
    }


def _run_rounds(
    benchmark: GpuBenchmark, share: TimeBudget, timed: Mapping[str, TimedImplementation], results: Results
) -> None:
    """Time one step of each implementation in turn; fewer rounds if the time is over. Earlier rounds do not count."""
    for each in timed.values():
        each.seconds.clear()
    for round_index in range(benchmark.scale.step_rounds):
        if round_index >= MIN_ROUNDS and not share.has(0):
            break
        for each in timed.values():
            each.seconds.append(benchmark.meter.time(each.run.__next__)[0])
    for name, each in timed.items():
        entry = results["implementations"][name]
        entry |= {"step_s": asdict(compute_quantiles(each.seconds)), "seconds": list(each.seconds)}
        if results["min_s"] is not None:
            entry["utilization"] = results["min_s"] / entry["step_s"]["median"]
    results["comparisons"] = [
        {"diffusers": first, "dianjing": second, "ratio": asdict(_compare(timed[first], timed[second], results))}
        for first, second in PAIRS
        if first in timed and second in timed
    ]


def _compare(diffusers: TimedImplementation, dianjing: TimedImplementation, results: Results) -> Quantiles:
    """Return the step time of diffusers relative to Dianjing, whose precomputation is spread over an image's steps."""
    extra_s = results["implementations"][dianjing.implementation.name]["precompute_s"] / IMAGE_STEPS
    return compute_quantiles(compute_ratios(diffusers.seconds, dianjing.seconds, denominator_extra_s=extra_s))
