"""What a fine-tuning will need, before any weights load."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import PartialState
from torch import Tensor, nn

from dianjing.dit import DiT
from dianjing.train import zero
from dianjing.train.caches import MEMORY_BYTES
from dianjing.train.finetune.batches import texts_of
from dianjing.train.finetune.controlnet import make_controlnet
from dianjing.train.finetune.encoding import ENCODERS
from dianjing.train.finetune.held_out import split
from dianjing.train.finetune.preparing import gather_pictures, half_of, is_joint, make_plan, read_json
from dianjing.train.finetune.probing import foretell
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.train.finetune.task import film_parts, prepare_transformer, resting_dtype
from dianjing.train.posthoc import SIGMA_RELS
from dianjing.train.sections import OptimizerSection
from dianjing.train.sets.gathering import Gathered
from dianjing.train.sets.shapes import Shape, frames_of
from dianjing.weights.fetching import find_folder
from dianjing.weights.loading import check_folder

MIB, GIB = 2**20, 2**30
MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "schedule_free": 8}  # of a parameter, beside the average
SMALLEST_8BIT = 4096  # numbers; the moments of smaller tensors stay in float32
HEAP = 2  # a CPU's heap grows to about twice what lies in it: holes stay between what is kept (benchmarks.memory)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one device, in bytes and seconds."""

    trained: int  # parameters, of all devices together
    frozen: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    cache: int  # what was read from it and stays in memory
    overlaps: bool  # activations come again when gradients are there: of the next part of a batch, or computed twice
    step_s: float

    @property
    def total(self) -> int:
        """At once: gradients come as activations go."""
        passing = (self.gradients, self.activations)
        resting = self.weights + self.optimizer + self.averages + self.cache
        return resting + (sum(passing) if self.overlaps else max(passing))

    def lines(self) -> Iterator[str]:
        yield f"{self.trained:,} parameters are trained, {self.frozen:,} stay as they are"
        for name in ("weights", "gradients", "optimizer", "averages", "activations", "cache"):
            yield f"{name:12}{amount(getattr(self, name)):>12}"
        yield f"{'at once':12}{amount(self.total):>12}"


def amount(size: float) -> str:
    """Of bytes, as text."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def estimate(
    config: FinetuneRun, folder: Path, shape: Shape, *, processes: int, device: torch.device, has_clicks: bool = False,
    encoded: int = 0,
) -> Estimate:  # fmt: skip
    """shape: in pixels, and frames, of the largest bucket; encoded: bytes of all latents and text states."""
    settings, parts = empty_parts(config, folder, has_clicks=has_clicks)
    weights = [p for part in parts for p in part.parameters()]
    trained, frozen = numbers(weights)
    block_trained, block_frozen = max((numbers(list(block.parameters())) for block in parts[0].blocks), key=sum)
    moments = sum(p.numel() * moment_bytes(p, config) for p in weights if p.requires_grad)
    resting = resting_dtype(config.model, half_of(config)).itemsize
    accumulation, is_cpu = config.run.accumulation, device.type == "cpu"
    rows = config.run.batch_size // (accumulation * processes)
    whole = foretell(config, folder, settings, shape, rows=rows, device=device)
    shares = shares_of(processes)
    return Estimate(
        trained=trained, frozen=frozen,
        weights=int(shares.weights * (4 * trained + resting * frozen))
        + shares.whole_blocks * (4 * block_trained + resting * block_frozen),
        gradients=int(shares.gradients * 4 * trained) + shares.whole_blocks * 4 * block_trained,
        optimizer=int(shares.moments * (moments + shares.copies * 4 * trained)),
        averages=int(shares.weights * 4 * trained * averages_of(config.optimizer)),
        activations=whole.saved_bytes * (HEAP if is_cpu else 1),
        cache=min(encoded, MEMORY_BYTES) if is_cpu else 0,
        overlaps=accumulation > 1 or bool(config.model.recompute_every), step_s=accumulation * whole.seconds,
    )  # fmt: skip


def numbers(weights: Sequence[Tensor]) -> tuple[int, int]:
    """How many are trained, and how many stay."""
    trained = sum(p.numel() for p in weights if p.requires_grad)
    return trained, sum(p.numel() for p in weights) - trained


def empty_parts(config: FinetuneRun, folder: Path, *, has_clicks: bool) -> tuple[dict[str, Any], list[nn.Module]]:
    """The transformer's settings, and all that is in memory of the model, without weights."""
    own = DiT.load_config(folder / "transformer")
    with torch.device("meta"):
        whole = DiT.from_config({**own, **film_parts(config, own, has_clicks=has_clicks)})
        settings = dict(whole.config)
        prepare_transformer(whole, config.model, has_films=bool(config.data.num_frames))
        parts = [whole, *([make_controlnet(whole)] if config.model.trained == "controlnet" else [])]
    return settings, [*parts, *(text_encoders(folder) if config.model.text_encoders == "joint" else [])]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The part of each that one of several devices has."""

    weights: float = 1.0  # and averages
    gradients: float = 1.0
    moments: float = 1.0
    copies: int = 0  # of the weights, beside the moments
    whole_blocks: int = 0  # there at a time: the one in use, and the next on its way


def shares_of(processes: int) -> Shares:
    """As `accelerate launch` was asked to spread them."""
    part = 1 / processes
    if zero.is_fsdp_launched():
        return Shares(weights=part, gradients=part, moments=part, whole_blocks=2)
    if zero.is_launched():
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        return Shares(gradients=part if stage > 1 else 1.0, moments=part, copies=1)
    return Shares()


def encoded_bytes(config: FinetuneRun, folder: Path, gathered: Gathered) -> int:
    """Of latents and text states, as the cache has them."""
    vae, transformer = (read_json(folder / part / "config.json") for part in ("vae", "transformer"))
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    pixels = sum(shape[0] * shape[1] * frames_of(shape) * len(found) for shape, found in gathered.pictures.items())
    latents = transformer["in_channels"] * pixels // factor**2 * (1 + (config.model.trained == "controlnet"))
    widths = ((transformer["text_len"], "cross_attention_dim"), (transformer["text_len_t5"], "cross_attention_dim_t5"))
    texts = texts_of([entry for found in gathered.pictures.values() for entry in found])
    states = 0 if is_joint(config) else len(texts) * sum(length * transformer[width] for length, width in widths)
    return (latents + states) * half_of(config).itemsize


def moment_bytes(weight: Tensor, config: FinetuneRun) -> int:
    return MOMENT_BYTES["adamw" if weight.numel() < SMALLEST_8BIT else config.optimizer.kind]


def averages_of(optimizer: OptimizerSection) -> int:
    """How many copies of the trained weights follow them; a schedule-free optimizer's is among its moments."""
    return int(optimizer.kind != "schedule_free") + (0 if optimizer.snapshot_every is None else len(SIGMA_RELS))


def text_encoders(folder: Path) -> list[nn.Module]:
    """Both, without weights; what is not trained of them is left out of the gradients."""
    with torch.device("meta"):
        bert, t5 = (kind(kind.config_class.from_pretrained(folder / name)) for name, kind in ENCODERS.items())
    bert.pooler.requires_grad_(False)
    return [bert, t5]


def memory_of(device: torch.device) -> int:
    """Bytes that are free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def remedies(config: FinetuneRun, found: Estimate) -> Iterator[str]:
    """What to change where it does not fit, with what each saves at least."""
    model, run = config.model, config.run
    if model.trained == "all":
        saved = amount(found.optimizer + found.averages)
        yield f'model.trained = "lora": about {saved} less for moments and averages'
    if config.optimizer.kind == "adamw":
        yield f'optimizer.kind = "adamw8bit": up to {amount(found.optimizer * 3 / 4)} less for moments'
    if not model.recompute_every:
        yield "model.recompute_every = 1: most of the activations less, about a third more time"
    halved = replace(found, activations=found.activations // 2, overlaps=True)
    if run.batch_size > run.accumulation and halved.total < found.total:
        yield f"run.accumulation = {2 * run.accumulation}: about {amount(found.total - halved.total)} less"
    if run.mixed_precision == "no":
        yield 'run.mixed_precision = "bf16": about half of the activations, and of frozen weights'
    yield "data.size_px: activations fall with its square"


def dry_run(config: FinetuneRun) -> Iterator[str]:
    """Look at the data and say, line by line, what the run will do and need.

    Raises: ValueError for data or a model that cannot be used.
    """
    here = PartialState()
    folder = find_folder(config.model.name)
    check_folder(folder)
    gathered = gather_pictures(config, folder)
    yield gathered.summary()
    yield from (f"  left out: {name}: {why}" for name, why in gathered.dropped.items())
    kept, _ = split(gathered, config.data.held_out)
    plan = make_plan(config, kept, processes=here.num_processes, rank=here.process_index)
    steps = config.run.total_steps
    yield f"{steps} steps of {config.run.batch_size} pictures: {steps / plan.epoch_steps:.1f} times through all of them"
    largest = max(gathered.pictures, key=lambda shape: shape[0] * shape[1] * frames_of(shape))
    has_clicks = any(entry.click is not None for found in gathered.pictures.values() for entry in found)
    encoded = encoded_bytes(config, folder, gathered)
    found = estimate(
        config, folder, largest, processes=here.num_processes, device=here.device, has_clicks=has_clicks,
        encoded=encoded,
    )  # fmt: skip
    yield from found.lines()
    yield f"about {found.step_s:.2g} s a step, {steps * found.step_s / 60:.3g} min in all, and the time for samples"
    free = memory_of(here.device)
    if found.total <= free:
        yield f"this fits in the {amount(free)} that are free on {here.device}"
        return
    yield f"this does NOT fit in the {amount(free)} that are free on {here.device}; what helps:"
    yield from (f"  {remedy}" for remedy in remedies(config, found))
