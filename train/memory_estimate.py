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
from dianjing.train.config.base import OptimizerConfig
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.data.buckets import BucketShape, get_num_frames
from dianjing.train.data.index import DatasetIndex
from dianjing.train.data.latent_batches import collect_texts
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES
from dianjing.train.data.preparation import (
    get_compute_dtype,
    index_datasets,
    make_file_schedule,
    read_json,
    trains_text_encoders,
)
from dianjing.train.data.tensor_cache import DEFAULT_MEMORY_BYTES
from dianjing.train.data.validation import split_validation
from dianjing.train.step_profile import extrapolate_step
from dianjing.train.tasks.controlnet import init_controlnet
from dianjing.train.tasks.finetune_model import get_motion_config, get_storage_dtype, prepare_transformer
from dianjing.train.trainer import distributed
from dianjing.train.trainer.posthoc_ema import SIGMA_RELS
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model

MIB, GIB = 2**20, 2**30
MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "schedule_free": 8}  # of a parameter, beside the average
MIN_8BIT_SIZE = 4096  # numbers; the moments of smaller tensors stay in float32
CPU_HEAP_FACTOR = (
    2  # a CPU's heap grows to about twice what lies in it: holes stay between what is kept (benchmarks.memory)
)


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Of one device, in bytes and seconds."""

    num_trainable: int  # parameters, of all devices together
    num_frozen: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    cache: int  # what was read from it and stays in memory
    gradients_overlap_activations: (
        bool  # activations come again when gradients are there: of the next part of a batch, or computed twice
    )
    step_s: float

    @property
    def total(self) -> int:
        """At once: gradients come as activations go."""
        passing = (self.gradients, self.activations)
        resting = self.weights + self.optimizer + self.averages + self.cache
        return resting + (sum(passing) if self.gradients_overlap_activations else max(passing))

    def format_lines(self) -> Iterator[str]:
        yield f"{self.num_trainable:,} parameters are trained, {self.num_frozen:,} stay as they are"
        for name in ("weights", "gradients", "optimizer", "averages", "activations", "cache"):
            yield f"{name:12}{format_bytes(getattr(self, name)):>12}"
        yield f"{'at once':12}{format_bytes(self.total):>12}"


def format_bytes(size: float) -> str:
    """Of bytes, as text."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def estimate_memory(
    config: FinetuneRunConfig,
    folder: Path,
    shape: BucketShape,
    *,
    num_processes: int,
    device: torch.device,
    has_motion_control: bool = False,
    cache_bytes: int = 0,
) -> MemoryEstimate:
    """shape: in pixels, and frames, of the largest bucket; encoded: bytes of all latents and text states."""
    settings, parts = make_meta_modules(config, folder, has_motion_control=has_motion_control)
    weights = [p for part in parts for p in part.parameters()]
    trained, frozen = count_parameters(weights)
    block_trained, block_frozen = max(
        (count_parameters(list(block.parameters())) for block in parts[0].blocks), key=sum
    )
    moments = sum(p.numel() * get_moment_bytes(p, config) for p in weights if p.requires_grad)
    resting = get_storage_dtype(config.model, get_compute_dtype(config)).itemsize
    accumulation, is_cpu = config.run.gradient_accumulation_steps, device.type == "cpu"
    rows = config.run.batch_size // (accumulation * num_processes)
    whole = extrapolate_step(config, folder, settings, shape, batch_size=rows, device=device)
    shares = get_shard_fractions(num_processes)
    return MemoryEstimate(
        num_trainable=trained,
        num_frozen=frozen,
        weights=int(shares.weights * (4 * trained + resting * frozen))
        + shares.num_unsharded_blocks * (4 * block_trained + resting * block_frozen),
        gradients=int(shares.gradients * 4 * trained) + shares.num_unsharded_blocks * 4 * block_trained,
        optimizer=int(shares.moments * (moments + shares.weight_copies * 4 * trained)),
        averages=int(shares.weights * 4 * trained * count_weight_averages(config.optimizer)),
        activations=whole.saved_bytes * (CPU_HEAP_FACTOR if is_cpu else 1),
        cache=min(cache_bytes, DEFAULT_MEMORY_BYTES) if is_cpu else 0,
        gradients_overlap_activations=accumulation > 1 or bool(config.model.gradient_checkpointing_interval),
        step_s=accumulation * whole.seconds,
    )


def count_parameters(weights: Sequence[Tensor]) -> tuple[int, int]:
    """How many are trained, and how many stay."""
    trained = sum(p.numel() for p in weights if p.requires_grad)
    return trained, sum(p.numel() for p in weights) - trained


def make_meta_modules(
    config: FinetuneRunConfig, folder: Path, *, has_motion_control: bool
) -> tuple[dict[str, Any], list[nn.Module]]:
    """The transformer's settings, and all that is in memory of the model, without weights."""
    own = DiT.load_config(folder / "transformer")
    with torch.device("meta"):
        whole = DiT.from_config({**own, **get_motion_config(config, own, has_motion_control=has_motion_control)})
        settings = dict(whole.config)
        prepare_transformer(whole, config.model, has_video=bool(config.data.num_frames))
        parts = [whole, *([init_controlnet(whole)] if config.model.trainable == "controlnet" else [])]
    return settings, [*parts, *(make_meta_text_encoders(folder) if config.model.text_encoders == "joint" else [])]


@dataclass(frozen=True, kw_only=True)
class ShardFractions:
    """The part of each that one of several devices has."""

    weights: float = 1.0  # and averages
    gradients: float = 1.0
    moments: float = 1.0
    weight_copies: int = 0  # of the weights, beside the moments
    num_unsharded_blocks: int = 0  # there at a time: the one in use, and the next on its way


def get_shard_fractions(num_processes: int) -> ShardFractions:
    """As `accelerate launch` was asked to spread them."""
    part = 1 / num_processes
    if distributed.is_fsdp_launched():
        return ShardFractions(weights=part, gradients=part, moments=part, num_unsharded_blocks=2)
    if distributed.is_deepspeed_launched():
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        return ShardFractions(gradients=part if stage > 1 else 1.0, moments=part, weight_copies=1)
    return ShardFractions()


def estimate_cache_bytes(config: FinetuneRunConfig, folder: Path, index: DatasetIndex) -> int:
    """Of latents and text states, as the cache has them."""
    vae, transformer = (read_json(folder / part / "config.json") for part in ("vae", "transformer"))
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    pixels = sum(shape[0] * shape[1] * get_num_frames(shape) * len(found) for shape, found in index.records.items())
    latents = transformer["in_channels"] * pixels // factor**2 * (1 + (config.model.trainable == "controlnet"))
    widths = ((transformer["text_len"], "cross_attention_dim"), (transformer["text_len_t5"], "cross_attention_dim_t5"))
    texts = collect_texts([entry for found in index.records.values() for entry in found])
    states = (
        0 if trains_text_encoders(config) else len(texts) * sum(length * transformer[width] for length, width in widths)
    )
    return (latents + states) * get_compute_dtype(config).itemsize


def get_moment_bytes(weight: Tensor, config: FinetuneRunConfig) -> int:
    return MOMENT_BYTES["adamw" if weight.numel() < MIN_8BIT_SIZE else config.optimizer.kind]


def count_weight_averages(optimizer: OptimizerConfig) -> int:
    """How many copies of the trained weights follow them; a schedule-free optimizer's is among its moments."""
    return int(optimizer.kind != "schedule_free") + (0 if optimizer.ema_snapshot_every is None else len(SIGMA_RELS))


def make_meta_text_encoders(folder: Path) -> list[nn.Module]:
    """Both, without weights; what is not trained of them is left out of the gradients."""
    with torch.device("meta"):
        bert, t5 = (
            kind(kind.config_class.from_pretrained(folder / name)) for name, kind in TEXT_ENCODER_CLASSES.items()
        )
    bert.pooler.requires_grad_(False)
    return [bert, t5]


def get_free_memory(device: torch.device) -> int:
    """Bytes that are free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def suggest_savings(config: FinetuneRunConfig, estimate: MemoryEstimate) -> Iterator[str]:
    """What to change where it does not fit, with what each saves at least."""
    model, run = config.model, config.run
    if model.trainable == "all":
        saved = format_bytes(estimate.optimizer + estimate.averages)
        yield f'model.trainable = "lora": about {saved} less for moments and averages'
    if config.optimizer.kind == "adamw":
        yield f'optimizer.kind = "adamw8bit": up to {format_bytes(estimate.optimizer * 3 / 4)} less for moments'
    if not model.gradient_checkpointing_interval:
        yield "model.gradient_checkpointing_interval = 1: most of the activations less, about a third more time"
    halved = replace(estimate, activations=estimate.activations // 2, gradients_overlap_activations=True)
    if run.batch_size > run.gradient_accumulation_steps and halved.total < estimate.total:
        yield f"run.gradient_accumulation_steps = {2 * run.gradient_accumulation_steps}: about {format_bytes(estimate.total - halved.total)} less"
    if run.mixed_precision == "no":
        yield 'run.mixed_precision = "bf16": about half of the activations, and of frozen weights'
    yield "data.size_px: activations fall with its square"


def describe_finetune_run(config: FinetuneRunConfig) -> Iterator[str]:
    """Look at the data and say, line by line, what the run will do and need.

    Raises: ValueError for data or a model that cannot be used.
    """
    here = PartialState()
    folder = resolve_model(config.model.name)
    validate_model(folder)
    gathered = index_datasets(config, folder)
    yield gathered.summarize()
    yield from (f"  left out: {name}: {why}" for name, why in gathered.rejected.items())
    kept, _ = split_validation(gathered, config.data.validation_fraction)
    plan = make_file_schedule(config, kept, num_processes=here.num_processes, rank=here.process_index)
    steps = config.run.total_steps
    yield f"{steps} steps of {config.run.batch_size} pictures: {steps / plan.steps_per_epoch:.1f} times through all of them"
    largest = max(gathered.records, key=lambda shape: shape[0] * shape[1] * get_num_frames(shape))
    has_clicks = any(entry.motion_label is not None for found in gathered.records.values() for entry in found)
    encoded = estimate_cache_bytes(config, folder, gathered)
    found = estimate_memory(
        config,
        folder,
        largest,
        num_processes=here.num_processes,
        device=here.device,
        has_motion_control=has_clicks,
        cache_bytes=encoded,
    )
    yield from found.format_lines()
    yield f"about {found.step_s:.2g} s a step, {steps * found.step_s / 60:.3g} min in all, and the time for samples"
    free = get_free_memory(here.device)
    if found.total <= free:
        yield f"this fits in the {format_bytes(free)} that are free on {here.device}"
        return
    yield f"this does NOT fit in the {format_bytes(free)} that are free on {here.device}; what helps:"
    yield from (f"  {remedy}" for remedy in suggest_savings(config, found))
