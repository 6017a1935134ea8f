"""Comparison of implementations at one model size: interleaved step times, and deviation from diffusers in float32."""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import HunyuanDiT2DModel
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.implementations import (
    IMAGE_STEPS,
    DenoisingInputs,
    Implementation,
    make_denoising_inputs,
    make_dianjing_implementation,
    make_diffusers_implementation,
)
from benchmarks.model_sizes import ModelSize, make_dianjing_model, make_diffusers_model
from benchmarks.timing import (
    Clock,
    Quantiles,
    StepTimes,
    compute_quantiles,
    compute_ratios,
    make_clock,
    time_call,
    time_interleaved,
)
from dianjing.dit import DiT

PRECOMPUTE_REPEATS = 7  # repeats of the timed precomputation


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Options of the command; dtype is the name of a torch dtype."""

    pairs: int
    dtype: str
    device: str
    compile: bool


@dataclass(frozen=True, kw_only=True)
class ImplementationResult:
    """Step times of one implementation, and its deviation from diffusers in float32.

    precompute_s: time of the precomputation for an image of IMAGE_STEPS steps, which the step times do not contain.
    """

    step_s: Quantiles
    seconds: Sequence[float]
    first_call_s: float  # includes compilation
    precompute_s: float
    forward_max_difference: float
    forward_l2: float
    final_l2: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Time of a diffusers implementation relative to one of Dianjing, precomputation spread over an image's steps."""

    diffusers: str
    dianjing: str
    ratio: Quantiles


@dataclass(frozen=True, kw_only=True)
class SizeResults:
    """All results of one model size."""

    size: ModelSize
    num_parameters: int
    pairs: int
    float32_max_difference: float  # of Dianjing to diffusers, both in float32, one forward
    results: Mapping[str, ImplementationResult]
    comparisons: Sequence[Comparison]
    fastest: tuple[str, str]  # implementation of diffusers and of Dianjing, in the dtype of the settings


@dataclass(frozen=True, kw_only=True)
class ImplementationNames:
    """Names of the implementations."""

    dtype: str
    reference: str = "diffusers float32"

    @property
    def diffusers(self) -> str:
        return f"diffusers {self.dtype}"

    @property
    def diffusers_fused(self) -> str:
        return f"diffusers {self.dtype}, fused q/k/v"

    @property
    def diffusers_compiled(self) -> str:
        return f"diffusers {self.dtype}, compiled"

    @property
    def dianjing(self) -> str:
        return f"dianjing {self.dtype}"

    @property
    def dianjing_compiled(self) -> str:
        return f"dianjing {self.dtype}, compiled"


def compare_implementations(size: ModelSize, settings: BenchmarkSettings, *, progress: tqdm) -> SizeResults:
    """Build all implementations from one state dict, time their steps interleaved, and compare their outputs."""
    device, pairs = torch.device(settings.device), max(settings.pairs, size.min_pairs)
    clock, names = make_clock(device), ImplementationNames(dtype=settings.dtype)

    def report_progress(stage: str) -> None:
        progress.set_description(f"{size.name}: {stage}")

    progress.reset(total=pairs)
    report_progress("building")
    torch.compiler.reset()  # discard what was compiled for another size
    inputs = make_denoising_inputs(size, device=device)
    with torch.no_grad():
        diffusers_model = make_diffusers_model(size).to(device)
        dianjing_model = make_dianjing_model(diffusers_model).to(device)
        reference = make_diffusers_implementation(names.reference, diffusers_model, inputs)
        float32_output = make_dianjing_implementation(names.dianjing, dianjing_model, inputs).predict()
        float32_difference = max_relative_difference(float32_output, reference.predict())
        implementations = [reference, *_make_implementations(diffusers_model, dianjing_model, inputs, settings, names)]
        first_call_s = _warm_up(implementations, clock, report_progress)
        report_progress("measuring")
        step_times = time_interleaved(
            {implementation.name: implementation.denoise for implementation in implementations},
            num_inference_steps=size.num_inference_steps,
            num_rounds=pairs,
            clock=clock,
            on_round_end=progress.update,
        )
        report_progress("comparing")
        results = _get_results(implementations, step_times, first_call_s, clock)
    return SizeResults(
        size=size,
        num_parameters=sum(parameter.numel() for parameter in diffusers_model.parameters()),
        pairs=pairs,
        float32_max_difference=float32_difference,
        results=results,
        comparisons=compare_results(results, names),
        fastest=find_fastest(results, names),
    )


def _make_implementations(
    diffusers_model: HunyuanDiT2DModel,
    dianjing_model: DiT,
    denoising_inputs: DenoisingInputs,
    settings: BenchmarkSettings,
    names: ImplementationNames,
) -> list[Implementation]:
    """Return all implementations but the reference; in float32 the reference is also the plain diffusers one."""
    dtype, implementations = getattr(torch, settings.dtype), []
    stock = diffusers_model if names.diffusers == names.reference else copy.deepcopy(diffusers_model).to(dtype)
    if stock is not diffusers_model:
        implementations.append(make_diffusers_implementation(names.diffusers, stock, denoising_inputs))
    fused = copy.deepcopy(stock)
    fused.fuse_qkv_projections()
    dianjing_model.to(dtype)
    implementations += [
        make_diffusers_implementation(names.diffusers_fused, fused, denoising_inputs),
        make_dianjing_implementation(names.dianjing, dianjing_model, denoising_inputs),
    ]
    if settings.compile:
        compiled, dianjing_compiled = compile_model(stock), compile_model(dianjing_model)
        implementations += [
            make_diffusers_implementation(names.diffusers_compiled, compiled, denoising_inputs),
            make_dianjing_implementation(names.dianjing_compiled, dianjing_compiled, denoising_inputs),
        ]
    return implementations


def compile_model(model: nn.Module) -> nn.Module:
    """Compile a model as one graph of fixed shapes with its weights frozen into the graph."""
    return torch.compile(model, fullgraph=True, dynamic=False, options={"freezing": True})


def _warm_up(
    implementations: Sequence[Implementation], clock: Clock, report_progress: Callable[[str], None]
) -> dict[str, float]:
    """Run two steps of each implementation; return the seconds of the first one, which includes compilation."""
    first_call_s = {}
    for implementation in implementations:
        report_progress(f"warming up {implementation.name}")
        run = implementation.denoise()
        first_call_s[implementation.name], _ = time_call(run.__next__, clock)
        next(run, None)
    return first_call_s


def _get_results(
    implementations: Sequence[Implementation], step_times: StepTimes, first_call_s: Mapping[str, float], clock: Clock
) -> dict[str, ImplementationResult]:
    """Return the results by name; the first implementation is the reference."""
    reference, final_latents = implementations[0].predict(), step_times.final_latents[implementations[0].name]
    results = {}
    for implementation in implementations:
        name, precompute, output = implementation.name, implementation.precompute, implementation.predict()
        precompute_s = (
            [] if precompute is None else [time_call(precompute, clock)[0] for _ in range(PRECOMPUTE_REPEATS)]
        )
        results[name] = ImplementationResult(
            step_s=compute_quantiles(step_times.seconds[name]),
            seconds=step_times.seconds[name],
            first_call_s=first_call_s[name],
            precompute_s=statistics.median(precompute_s or [0.0]),
            forward_max_difference=max_relative_difference(output, reference),
            forward_l2=relative_l2_distance(output, reference),
            final_l2=relative_l2_distance(step_times.final_latents[name], final_latents),
        )
    return results


def find_fastest(results: Mapping[str, ImplementationResult], names: ImplementationNames) -> tuple[str, str]:
    """Return the fastest implementation of diffusers and of Dianjing, without the float32 reference."""

    def find_min(candidates: Sequence[str]) -> str:
        return min((name for name in candidates if name in results), key=lambda name: results[name].step_s.median)

    return (
        find_min([names.diffusers, names.diffusers_fused, names.diffusers_compiled]),
        find_min([names.dianjing, names.dianjing_compiled]),
    )


def compare_results(results: Mapping[str, ImplementationResult], names: ImplementationNames) -> list[Comparison]:
    """Compare like with like: eager with eager, compiled with compiled, the fastest with the fastest."""
    pairs = [
        (names.reference, names.dianjing),
        (names.diffusers, names.dianjing),
        (names.diffusers_fused, names.dianjing),
        (names.diffusers_compiled, names.dianjing_compiled),
        find_fastest(results, names),
    ]
    comparisons = []
    for diffusers, dianjing in dict.fromkeys(pairs):
        if diffusers in results and dianjing in results:
            precompute_s = results[dianjing].precompute_s / IMAGE_STEPS
            ratio = compute_quantiles(
                compute_ratios(results[diffusers].seconds, results[dianjing].seconds, denominator_extra_s=precompute_s)
            )
            comparisons.append(Comparison(diffusers=diffusers, dianjing=dianjing, ratio=ratio))
    return comparisons


def max_relative_difference(output: Tensor, reference: Tensor) -> float:
    """Return max |output - reference| / max |reference|."""
    output, reference = output.detach().float(), reference.detach().float()
    return float((output - reference).abs().max() / reference.abs().max())


def relative_l2_distance(output: Tensor, reference: Tensor) -> float:
    """Return |output - reference| / |reference| in the Euclidean norm."""
    output, reference = output.detach().float(), reference.detach().float()
    return float((output - reference).norm() / reference.norm())
