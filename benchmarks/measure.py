"""One size of model: its contenders take turns, and what they answer is compared with float32."""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import HunyuanDiT2DModel
from torch import nn
from tqdm import tqdm

from benchmarks.contenders import PICTURE_STEPS, Case, Contender, diffusers_contender, make_case, our_contender
from benchmarks.deviation import max_abs, relative_l2
from benchmarks.sizes import Size, make_ours, make_theirs
from benchmarks.timing import Clock, Spread, Turns, make_clock, ratios, spread, take_turns, timed
from dianjing.dit import DiT

PREPARATIONS = 7  # how often our one-off work is timed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user decides; dtype is the name of one of torch's."""

    pairs: int
    dtype: str
    device: str
    compile: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of one contender: the seconds of its steps, and its deviation from diffusers in float32.

    `prepare_s` is the one-off work for a picture of PICTURE_STEPS steps, which no step contains.
    """

    step_s: Spread
    seconds: Sequence[float]
    first_call_s: float  # with compilation, where there is any
    prepare_s: float
    forward_max_abs: float
    forward_l2: float
    final_l2: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times as long theirs takes as ours, with our one-off work spread over a picture."""

    theirs: str
    ours: str
    ratio: Spread


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything about one size."""

    size: Size
    parameters: int
    pairs: int
    float32_max_abs: float  # between ours and theirs, both in float32, one forward
    results: Mapping[str, Result]
    comparisons: Sequence[Comparison]
    fastest: tuple[str, str]  # of theirs and of ours, in the dtype asked for


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the contenders are called."""

    dtype: str
    reference: str = "diffusers float32"

    @property
    def stock(self) -> str:
        return f"diffusers {self.dtype}"

    @property
    def fused(self) -> str:
        return f"diffusers {self.dtype}, fused q/k/v"

    @property
    def compiled(self) -> str:
        return f"diffusers {self.dtype}, compiled"

    @property
    def ours(self) -> str:
        return f"dianjing {self.dtype}"

    @property
    def ours_compiled(self) -> str:
        return f"dianjing {self.dtype}, compiled"


def measure(size: Size, settings: Settings, *, progress: tqdm) -> Measured:
    """Build both sides from one state dict, let them take turns, compare."""
    device, pairs = torch.device(settings.device), max(settings.pairs, size.min_pairs)
    clock, names = make_clock(device), Names(dtype=settings.dtype)

    def say(what: str) -> None:
        progress.set_description(f"{size.name}: {what}")

    progress.reset(total=pairs)
    say("building")
    torch.compiler.reset()  # what was compiled for another size
    case = make_case(size, device=device)
    with torch.no_grad():
        theirs = make_theirs(size).to(device)
        ours = make_ours(theirs).to(device)
        reference = diffusers_contender(names.reference, theirs, case)
        exact = max_abs(our_contender(names.ours, ours, case).forward(), reference.forward())
        contenders = [reference, *_others(theirs, ours, case, settings, names)]
        first_s = _warm_up(contenders, clock, say)
        say("taking turns")
        walks = {contender.name: contender.walk for contender in contenders}
        turns = take_turns(walks, steps=size.steps, turns=pairs, clock=clock, after_turn=progress.update)
        say("comparing")
        results = _results(contenders, turns, first_s, clock)
    return Measured(
        size=size,
        parameters=sum(parameter.numel() for parameter in theirs.parameters()),
        pairs=pairs,
        float32_max_abs=exact,
        results=results,
        comparisons=compare(results, names),
        fastest=fastest(results, names),
    )


def _others(
    theirs: HunyuanDiT2DModel, ours: DiT, case: Case, settings: Settings, names: Names
) -> list[Contender]:  # fmt: skip
    """All but the reference, which in float32 is also the stock one."""
    dtype, made = getattr(torch, settings.dtype), []
    stock = theirs if names.stock == names.reference else copy.deepcopy(theirs).to(dtype)
    if stock is not theirs:
        made.append(diffusers_contender(names.stock, stock, case))
    fused = copy.deepcopy(stock)
    fused.fuse_qkv_projections()
    ours.to(dtype)
    made += [diffusers_contender(names.fused, fused, case), our_contender(names.ours, ours, case)]
    if settings.compile:
        made.append(diffusers_contender(names.compiled, compiled(stock), case))
        made.append(our_contender(names.ours_compiled, compiled(ours), case))
    return made


def compiled(model: nn.Module) -> nn.Module:
    """The whole model as one graph of fixed shapes, its weights constants of the graph."""
    return torch.compile(model, fullgraph=True, dynamic=False, options={"freezing": True})


def _warm_up(contenders: Sequence[Contender], clock: Clock, say: Callable[[str], None]) -> dict[str, float]:
    """Two steps of each, and the seconds of the first, which compiles what is to be compiled."""
    first_s = {}
    for contender in contenders:
        say(f"warming up {contender.name}")
        walk = contender.walk()
        first_s[contender.name], _ = timed(walk.__next__, clock)
        next(walk, None)
    return first_s


def _results(
    contenders: Sequence[Contender], turns: Turns, first_s: Mapping[str, float], clock: Clock
) -> dict[str, Result]:
    """The first of the contenders is the reference."""
    forward, end = contenders[0].forward(), turns.ends[contenders[0].name]
    found = {}
    for contender in contenders:
        name, prepare, answer = contender.name, contender.prepare, contender.forward()
        prepare_s = [] if prepare is None else [timed(prepare, clock)[0] for _ in range(PREPARATIONS)]
        found[name] = Result(
            step_s=spread(turns.seconds[name]),
            seconds=turns.seconds[name],
            first_call_s=first_s[name],
            prepare_s=statistics.median(prepare_s or [0.0]),
            forward_max_abs=max_abs(answer, forward),
            forward_l2=relative_l2(answer, forward),
            final_l2=relative_l2(turns.ends[name], end),
        )
    return found


def fastest(results: Mapping[str, Result], names: Names) -> tuple[str, str]:
    """The fastest of theirs and of ours in the dtype asked for: all of them are lossless."""

    def of(those: Sequence[str]) -> str:
        return min((name for name in those if name in results), key=lambda name: results[name].step_s.median)

    return of([names.stock, names.fused, names.compiled]), of([names.ours, names.ours_compiled])


def compare(results: Mapping[str, Result], names: Names) -> list[Comparison]:
    """Like with like: ours as it comes with theirs as it comes, compiled with compiled, fastest with fastest."""
    wanted = [
        (names.reference, names.ours),
        (names.stock, names.ours),
        (names.fused, names.ours),
        (names.compiled, names.ours_compiled),
        fastest(results, names),
    ]
    made = []
    for theirs, ours in dict.fromkeys(wanted):
        if theirs in results and ours in results:
            besides_s = results[ours].prepare_s / PICTURE_STEPS
            ratio = spread(ratios(results[theirs].seconds, results[ours].seconds, ours_besides_s=besides_s))
            made.append(Comparison(theirs=theirs, ours=ours, ratio=ratio))
    return made
