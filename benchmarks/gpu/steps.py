"""One denoising step with guidance: diffusers' model and ours, as they come and compiled, over the same tensors.

B batch; latents are B C Y X, with B = 1 before guidance doubles them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from benchmarks.contenders import (
    FORWARD_TIMESTEP,
    GUIDANCE_SCALE,
    PICTURE_STEPS,
    Case,
    Contender,
    diffusers_contender,
    make_case,
    make_scheduler,
    our_contender,
    text_as,
)
from benchmarks.deviation import max_abs, relative_l2
from benchmarks.gpu.bench import COMPILE_S, LEFT_OUT, MIN_ROUNDS, Bench, Found, failure
from benchmarks.gpu.meter import Budget
from benchmarks.gpu.models import forward_flops, our_copy, their_copy
from benchmarks.sizes import Size
from benchmarks.timing import ratios, spread
from dianjing.dit import DiT
from dianjing.pipelines.prediction import combine, model_inputs
from dianjing.pipelines.schedule import set_schedule

THEIRS, THEIRS_COMPILED = "diffusers", "diffusers, fused q/k/v, compiled"
OURS_PLAIN, OURS, OURS_COMPILED = "dianjing, called as diffusers", "dianjing, prepared", "dianjing, prepared, compiled"
PAIRS = ((THEIRS, OURS_PLAIN), (THEIRS, OURS), (THEIRS_COMPILED, OURS), (THEIRS_COMPILED, OURS_COMPILED))
WALK_STEPS = 60  # more than two series of rounds take, and no more than are prepared at once
WHOLE_THEIRS, WHOLE_OURS = "diffusers, fused q/k/v, compiled whole", "dianjing, prepared, compiled whole"


@dataclass
class Track:
    """An implementation that is being measured, and its seconds so far."""

    contender: Contender
    walk: Iterator[Tensor]
    seconds: list[float]
    first_call_s: float


def unprepared_contender(name: str, model: DiT, case: Case) -> Contender:
    """Our model called as diffusers' is: time and text go through it at every step."""
    dtype, device = model.dtype, case.latents.device
    text = text_as(case.text, dtype)
    inputs = model_inputs(model, text, guided=True, image_meta_size=case.image_meta_size, device=device)

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return model(torch.cat([latents] * 2).to(dtype), timestep, **inputs, return_dict=False)[0]

    def walk() -> Iterator[Tensor]:
        scheduler = make_scheduler()
        timesteps = set_schedule(scheduler, case.steps, device=device)
        return steps(scheduler, timesteps)

    def steps(scheduler: DDIMScheduler, timesteps: Tensor) -> Iterator[Tensor]:
        latents = case.latents * scheduler.init_noise_sigma
        for timestep in timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            predictions = predict(scaled, timestep)[:, : latents.shape[1]].float().chunk(2)
            prediction = combine(predictions, scale=GUIDANCE_SCALE, rescale=0.0)
            latents = scheduler.step(prediction, timestep, latents, eta=0.0, generator=None, return_dict=False)[0]
            yield latents

    forward_timestep = torch.tensor(FORWARD_TIMESTEP, device=device)
    return Contender(name=name, forward=lambda: predict(case.latents, forward_timestep), walk=walk)


def make_step_case(bench: Bench, size_px: int) -> Case:
    """Random latents and text of the scale's model at that size."""
    config, side = bench.scale.transformer, size_px // 8
    size = Size(name="", weights="random", config=config, latents_side=side, steps=WALK_STEPS, min_pairs=WALK_STEPS)
    return make_case(size, device=bench.device)


@torch.no_grad()
def measure_steps(bench: Bench, share: Budget, *, size_px: int) -> Iterator[Found]:
    """Seconds of a step, compile time, deviation from float32, and the floor; first without what is compiled."""
    case, models = make_step_case(bench, size_px), bench.transformers
    found: Found = {"size_px": size_px, **_floor(bench, size_px), "implementations": {}, "comparisons": []}
    reference = _reference(bench, case, found)
    eager: dict[str, Callable[[], Contender]] = {
        THEIRS: lambda: diffusers_contender(THEIRS, models.theirs, case),
        OURS_PLAIN: lambda: unprepared_contender(OURS_PLAIN, models.ours, case),
        OURS: lambda: our_contender(OURS, models.ours, case),
    }
    compiled: dict[str, Callable[[], Contender]] = {
        THEIRS_COMPILED: lambda: diffusers_contender(THEIRS_COMPILED, models.theirs_compiled, case),
        OURS_COMPILED: lambda: our_contender(OURS_COMPILED, models.ours_compiled, case),
    }
    tracks: dict[str, Track] = {}
    for makers, needs_s in ((eager, 0.0), (compiled, COMPILE_S)):
        for name, make in makers.items():
            _begin(bench, name, make, tracks, reference, found, needs_s=needs_s)
            yield found
        _take_rounds(bench, share, tracks, found)
        yield found


@torch.no_grad()
def measure_whole_graphs(bench: Bench, share: Budget, *, size_px: int) -> Iterator[Found]:
    """The same step with each model compiled whole instead of block by block: one graph of all layers."""
    case, theirs = make_step_case(bench, size_px), bench.transformers.theirs
    found: Found = {"size_px": size_px, **_floor(bench, size_px), "implementations": {}, "comparisons": []}
    reference = _reference(bench, case, found)

    def whole(model: nn.Module) -> Any:
        return torch.compile(model, fullgraph=True, dynamic=False, backend=bench.scale.compiler)

    def make_theirs_whole() -> Contender:
        fused = their_copy(theirs)
        fused.fuse_qkv_projections()
        return diffusers_contender(WHOLE_THEIRS, whole(fused), case)

    tracks: dict[str, Track] = {}
    makers = {
        WHOLE_THEIRS: make_theirs_whole,
        WHOLE_OURS: lambda: our_contender(WHOLE_OURS, whole(our_copy(theirs)), case),
    }
    for name, make in makers.items():
        _begin(bench, name, make, tracks, reference, found, needs_s=2 * COMPILE_S)
        yield found
    _take_rounds(bench, share, tracks, found)
    yield found


def _floor(bench: Bench, size_px: int) -> Found:
    """Operations of a step by diffusers' model, and the least times: for them, and for reading the weights once."""
    flops = 2 * forward_flops(bench.scale, size_px)  # with guidance and without
    weights = sum(each.numel() * each.element_size() for each in bench.transformers.theirs.parameters())
    rate = bench.rates.get("copy_bytes_per_s")
    return {
        "flops": flops,
        "floor_s": bench.floor_s(flops),
        "weight_bytes": weights,
        "weights_floor_s": weights / rate if rate else None,
    }


def _reference(bench: Bench, case: Case, found: Found) -> Tensor:
    """One forward of diffusers' model in float32, over the same weights; notes how far ours in float32 is from it."""
    exact = their_copy(bench.transformers.theirs).float()
    reference = diffusers_contender("", exact, case).forward()
    found["float32_max_abs"] = max_abs(our_contender("", our_copy(exact), case).forward(), reference)
    return reference


def _begin(
    bench: Bench,
    name: str,
    make: Callable[[], Contender],
    tracks: dict[str, Track],
    reference: Tensor,
    found: Found,
    *,
    needs_s: float,
) -> None:
    """Time the first step, with compilation where there is any; a failure leaves this implementation out alone."""
    if not bench.budget.has(needs_s):
        found["implementations"][name] = LEFT_OUT
        return
    try:
        contender = make()
        walk = contender.walk()
        first_s, _ = bench.meter.time(walk.__next__)
        next(walk)
        answer = contender.forward()
        prepare_s = [] if contender.prepare is None else [bench.meter.time(contender.prepare)[0] for _ in range(3)]
    except Exception as error:
        found["implementations"][name] = failure(error)
        return
    tracks[name] = Track(contender=contender, walk=walk, seconds=[], first_call_s=first_s)
    found["implementations"][name] = {
        "first_call_s": first_s,
        "forward_max_abs": max_abs(answer, reference),
        "forward_l2": relative_l2(answer, reference),
        "prepare_s": min(prepare_s, default=0.0),
        "prepared_steps": PICTURE_STEPS,
    }


def _take_rounds(bench: Bench, share: Budget, tracks: Mapping[str, Track], found: Found) -> None:
    """A step of each, A B C A B C; fewer rounds where the time is over. Earlier rounds are forgotten."""
    for track in tracks.values():
        track.seconds.clear()
    for turn in range(bench.scale.step_rounds):
        if turn >= MIN_ROUNDS and not share.has(0):
            break
        for track in tracks.values():
            track.seconds.append(bench.meter.time(track.walk.__next__)[0])
    for name, track in tracks.items():
        entry = found["implementations"][name]
        entry |= {"step_s": asdict(spread(track.seconds)), "seconds": list(track.seconds)}
        if found["floor_s"] is not None:
            entry["utilization"] = found["floor_s"] / entry["step_s"]["median"]
    pairs = (*PAIRS, (WHOLE_THEIRS, WHOLE_OURS))
    found["comparisons"] = [
        {"theirs": theirs, "ours": ours, "ratio": asdict(_ratio(tracks[theirs], tracks[ours], found))}
        for theirs, ours in pairs
        if theirs in tracks and ours in tracks
    ]


def _ratio(theirs: Track, ours: Track, found: Found) -> Any:
    """How many times as long theirs takes, with our work before the first step spread over a picture."""
    besides_s = found["implementations"][ours.contender.name]["prepare_s"] / PICTURE_STEPS
    return spread(ratios(theirs.seconds, ours.seconds, ours_besides_s=besides_s))
