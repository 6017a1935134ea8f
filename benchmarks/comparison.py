"""One size of model: its contenders take turns, and what they answer is compared with float32."""

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

PRECOMPUTE_REPEATS = 7  # how often our one-off work is timed


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What the user decides; dtype is the name of one of torch's."""

    pairs: int
    dtype: str
    device: str
    compile: bool


@dataclass(frozen=True, kw_only=True)
class ImplementationResult:
    """Of one contender: the seconds of its steps, and its deviation from diffusers in float32.

    `prepare_s` is the one-off work for a picture of PICTURE_STEPS steps, which no step contains.
    """

    step_s: Quantiles
    seconds: Sequence[float]
    first_call_s: float  # with compilation, where there is any
    precompute_s: float
    forward_max_difference: float
    forward_l2: float
    final_l2: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times as long theirs takes as ours, with our one-off work spread over a picture."""

    diffusers: str
    dianjing: str
    ratio: Quantiles


@dataclass(frozen=True, kw_only=True)
class SizeResults:
    """Everything about one size."""

    size: ModelSize
    num_parameters: int
    pairs: int
    float32_max_difference: float  # between ours and theirs, both in float32, one forward
    results: Mapping[str, ImplementationResult]
    comparisons: Sequence[Comparison]
    fastest: tuple[str, str]  # of theirs and of ours, in the dtype asked for


@dataclass(frozen=True, kw_only=True)
class ImplementationNames:
    """What the contenders are called."""

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
    """Build both sides from one state dict, let them take turns, compare."""
    device, pairs = torch.device(settings.device), max(settings.pairs, size.min_pairs)
    clock, names = make_clock(device), ImplementationNames(dtype=settings.dtype)

    def say(what: str) -> None:
        progress.set_description(f"{size.name}: {what}")

    progress.reset(total=pairs)
    say("building")
    torch.compiler.reset()  # what was compiled for another size
    case = make_denoising_inputs(size, device=device)
    with torch.no_grad():
        theirs = make_diffusers_model(size).to(device)
        ours = make_dianjing_model(theirs).to(device)
        reference = make_diffusers_implementation(names.reference, theirs, case)
        exact = max_relative_difference(
            make_dianjing_implementation(names.dianjing, ours, case).predict(), reference.predict()
        )
        contenders = [reference, *_make_implementations(theirs, ours, case, settings, names)]
        first_s = _warm_up(contenders, clock, say)
        say("taking turns")
        walks = {contender.name: contender.denoise for contender in contenders}
        turns = time_interleaved(
            walks,
            num_inference_steps=size.num_inference_steps,
            num_rounds=pairs,
            clock=clock,
            on_round_end=progress.update,
        )
        say("comparing")
        results = _get_results(contenders, turns, first_s, clock)
    return SizeResults(
        size=size,
        num_parameters=sum(parameter.numel() for parameter in theirs.parameters()),
        pairs=pairs,
        float32_max_difference=exact,
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
    """All but the reference, which in float32 is also the stock one."""
    dtype, made = getattr(torch, settings.dtype), []
    stock = diffusers_model if names.diffusers == names.reference else copy.deepcopy(diffusers_model).to(dtype)
    if stock is not diffusers_model:
        made.append(make_diffusers_implementation(names.diffusers, stock, denoising_inputs))
    fused = copy.deepcopy(stock)
    fused.fuse_qkv_projections()
    dianjing_model.to(dtype)
    made += [
        make_diffusers_implementation(names.diffusers_fused, fused, denoising_inputs),
        make_dianjing_implementation(names.dianjing, dianjing_model, denoising_inputs),
    ]
    if settings.compile:
        made.append(make_diffusers_implementation(names.diffusers_compiled, compile_model(stock), denoising_inputs))
        made.append(
            make_dianjing_implementation(names.dianjing_compiled, compile_model(dianjing_model), denoising_inputs)
        )
    return made


def compile_model(model: nn.Module) -> nn.Module:
    """The whole model as one graph of fixed shapes, its weights constants of the graph."""
    return torch.compile(model, fullgraph=True, dynamic=False, options={"freezing": True})


def _warm_up(
    implementations: Sequence[Implementation], clock: Clock, report_progress: Callable[[str], None]
) -> dict[str, float]:
    """Two steps of each, and the seconds of the first, which compiles what is to be compiled."""
    first_s = {}
    for contender in implementations:
        report_progress(f"warming up {contender.name}")
        walk = contender.denoise()
        first_s[contender.name], _ = time_call(walk.__next__, clock)
        next(walk, None)
    return first_s


def _get_results(
    implementations: Sequence[Implementation], step_times: StepTimes, first_call_s: Mapping[str, float], clock: Clock
) -> dict[str, ImplementationResult]:
    """The first of the contenders is the reference."""
    forward, end = implementations[0].predict(), step_times.final_latents[implementations[0].name]
    found = {}
    for contender in implementations:
        name, prepare, answer = contender.name, contender.precompute, contender.predict()
        prepare_s = [] if prepare is None else [time_call(prepare, clock)[0] for _ in range(PRECOMPUTE_REPEATS)]
        found[name] = ImplementationResult(
            step_s=compute_quantiles(step_times.seconds[name]),
            seconds=step_times.seconds[name],
            first_call_s=first_call_s[name],
            precompute_s=statistics.median(prepare_s or [0.0]),
            forward_max_difference=max_relative_difference(answer, forward),
            forward_l2=relative_l2_distance(answer, forward),
            final_l2=relative_l2_distance(step_times.final_latents[name], end),
        )
    return found


def find_fastest(results: Mapping[str, ImplementationResult], names: ImplementationNames) -> tuple[str, str]:
    """The fastest of theirs and of ours in the dtype asked for: all of them are lossless."""

    def of(those: Sequence[str]) -> str:
        return min((name for name in those if name in results), key=lambda name: results[name].step_s.median)

    return of([names.diffusers, names.diffusers_fused, names.diffusers_compiled]), of(
        [names.dianjing, names.dianjing_compiled]
    )


def compare_results(results: Mapping[str, ImplementationResult], names: ImplementationNames) -> list[Comparison]:
    """Like with like: ours as it comes with theirs as it comes, compiled with compiled, fastest with fastest."""
    wanted = [
        (names.reference, names.dianjing),
        (names.diffusers, names.dianjing),
        (names.diffusers_fused, names.dianjing),
        (names.diffusers_compiled, names.dianjing_compiled),
        find_fastest(results, names),
    ]
    made = []
    for theirs, ours in dict.fromkeys(wanted):
        if theirs in results and ours in results:
            besides_s = results[ours].precompute_s / IMAGE_STEPS
            ratio = compute_quantiles(
                compute_ratios(results[theirs].seconds, results[ours].seconds, denominator_extra_s=besides_s)
            )
            made.append(Comparison(diffusers=theirs, dianjing=ours, ratio=ratio))
    return made


def max_relative_difference(output: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the largest value of the reference."""
    output, reference = output.detach().float(), reference.detach().float()
    return float((output - reference).abs().max() / reference.abs().max())


def relative_l2_distance(output: Tensor, reference: Tensor) -> float:
    """|answer - reference| / |reference|, Euclidean."""
    output, reference = output.detach().float(), reference.detach().float()
    return float((output - reference).norm() / reference.norm())
