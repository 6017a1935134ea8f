"""Estimate of the memory and time of a fine-tuning run, before any weights are loaded."""

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
from dianjing.errors import Message
from dianjing.train.config.base import OptimizerConfig
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.data.buckets import BucketShape, get_num_frames
from dianjing.train.data.index import DatasetIndex
from dianjing.train.data.latent_batches import collect_texts
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES
from dianjing.train.data.preparation import index_datasets, make_file_schedule, read_json
from dianjing.train.data.prior_captions import list_prior_captions
from dianjing.train.data.prior_images import MIN_NUM_IMAGES
from dianjing.train.data.tensor_cache import DEFAULT_MEMORY_BYTES
from dianjing.train.data.validation import split_validation
from dianjing.train.step_profile import extrapolate_step
from dianjing.train.tasks.controlnet import init_controlnet
from dianjing.train.tasks.finetune_model import (
    check_adapter_settings,
    get_motion_config,
    get_storage_dtype,
    prepare_transformer,
)
from dianjing.train.trainer import distributed
from dianjing.train.trainer.posthoc_ema import SIGMA_RELS
from dianjing.weights.image_sizes import get_scale_factor
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model

MIB, GIB = 2**20, 2**30
MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "schedule_free": 8, "prodigy": 16}  # per parameter, by kind of optimizer
MIN_8BIT_SIZE = 4096  # parameters; smaller tensors keep moments in float32
# the heap of a CPU process grows to about twice the size of the tensors in it, by fragmentation (benchmarks.memory)
CPU_HEAP_FACTOR = 2
PRIOR_TIME_FACTOR = 7 / 6  # of twice the samples: forwards of the base model, a sixth of forwards and backwards of both


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory of one device in bytes by use, and the time of a step."""

    num_trainable: int  # parameters, over all devices
    num_frozen: int
    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    cache: int  # tensors read from the latent cache that stay in memory
    # with accumulation or gradient checkpointing, activations are computed while gradients exist
    gradients_overlap_activations: bool
    step_s: float

    @property
    def total(self) -> int:
        """The peak: gradients are allocated as activations are freed, unless both overlap."""
        temporary = (self.gradients, self.activations)
        permanent = self.weights + self.optimizer + self.averages + self.cache
        return permanent + (sum(temporary) if self.gradients_overlap_activations else max(temporary))

    def describe(self) -> Iterator[Message]:
        """Numbers of parameters, and a line for each use of memory."""
        counts = {"num_trainable": f"{self.num_trainable:,}", "num_frozen": f"{self.num_frozen:,}"}
        yield Message("parameter_counts", **counts)
        yield Message("memory_weights", size=format_aligned(self.weights))
        yield Message("memory_gradients", size=format_aligned(self.gradients))
        yield Message("memory_optimizer", size=format_aligned(self.optimizer))
        yield Message("memory_averages", size=format_aligned(self.averages))
        yield Message("memory_activations", size=format_aligned(self.activations))
        yield Message("memory_cache", size=format_aligned(self.cache))
        yield Message("memory_peak", size=format_aligned(self.total))


def format_aligned(size: float) -> str:
    """A size as `format_bytes`, to the right of a column."""
    return f"{format_bytes(size):>11}"


def format_bytes(size: float) -> str:
    """A size in MiB or GiB, as text."""
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
    """Estimate the memory of one device for the model in `folder`, with the largest bucket shape of the data.

    `cache_bytes` is the size of all cached latents and text-encoder states.
    """
    transformer_config, modules = make_meta_modules(config, folder, has_motion_control=has_motion_control)
    weights = [p for module in modules for p in module.parameters()]
    num_trainable, num_frozen = count_parameters(weights)
    block_trainable, block_frozen = max(
        (count_parameters(list(block.parameters())) for block in modules[0].blocks), key=sum
    )
    moment_bytes = sum(p.numel() * get_moment_bytes(p, config) for p in weights if p.requires_grad)
    frozen_itemsize = get_storage_dtype(config.model, config.run.compute_dtype).itemsize
    accumulation_steps, is_cpu = config.run.gradient_accumulation_steps, device.type == "cpu"
    batch_size = config.run.batch_size // (accumulation_steps * num_processes)
    if config.objective.prior_preservation:
        batch_size *= 2  # a caption to preserve beside each sample
    step = extrapolate_step(config, folder, transformer_config, shape, batch_size=batch_size, device=device)
    shards = get_shard_fractions(num_processes)
    return MemoryEstimate(
        num_trainable=num_trainable,
        num_frozen=num_frozen,
        weights=int(shards.weights * (4 * num_trainable + frozen_itemsize * num_frozen))
        + shards.num_unsharded_blocks * (4 * block_trainable + frozen_itemsize * block_frozen),
        gradients=int(shards.gradients * 4 * num_trainable) + shards.num_unsharded_blocks * 4 * block_trainable,
        optimizer=int(shards.moments * (moment_bytes + shards.weight_copies * 4 * num_trainable)),
        averages=int(shards.weights * 4 * num_trainable * count_weight_averages(config.optimizer)),
        activations=step.saved_bytes * (CPU_HEAP_FACTOR if is_cpu else 1),
        cache=min(cache_bytes, DEFAULT_MEMORY_BYTES) if is_cpu else 0,
        gradients_overlap_activations=accumulation_steps > 1 or bool(config.model.gradient_checkpointing_interval),
        step_s=accumulation_steps * step.seconds * (PRIOR_TIME_FACTOR if config.objective.prior_preservation else 1),
    )


def count_parameters(weights: Sequence[Tensor]) -> tuple[int, int]:
    """Numbers of trainable and of frozen parameters."""
    num_trainable = sum(p.numel() for p in weights if p.requires_grad)
    return num_trainable, sum(p.numel() for p in weights) - num_trainable


def make_meta_modules(
    config: FinetuneRunConfig, folder: Path, *, has_motion_control: bool
) -> tuple[dict[str, Any], list[nn.Module]]:
    """The configuration of the run's transformer, and all of its modules on the meta device, transformer first."""
    model_config = DiT.load_config(folder / "transformer")
    changes = get_motion_config(config, model_config, has_motion_control=has_motion_control)
    with torch.device("meta"):
        transformer = DiT.from_config({**model_config, **changes})
        transformer_config = dict(transformer.config)
        prepare_transformer(transformer, config.model, has_video=bool(config.data.num_frames))
        modules: list[nn.Module] = [transformer]
        if config.model.trainable == "controlnet":
            modules.append(init_controlnet(transformer))
    if config.trains_text_encoders:
        modules += make_meta_text_encoders(folder)
    return transformer_config, modules


@dataclass(frozen=True, kw_only=True)
class ShardFractions:
    """The fraction of weights, gradients and moments that is on each device."""

    weights: float = 1.0  # and averages
    gradients: float = 1.0
    moments: float = 1.0
    weight_copies: int = 0  # in float32, sharded like the moments
    num_unsharded_blocks: int = 0  # at a time: the one in use, and the next one being gathered


def get_shard_fractions(num_processes: int) -> ShardFractions:
    """The sharding that this process was launched with."""
    fraction = 1 / num_processes
    if distributed.is_fsdp_launched():
        return ShardFractions(weights=fraction, gradients=fraction, moments=fraction, num_unsharded_blocks=2)
    if distributed.is_deepspeed_launched():
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        return ShardFractions(gradients=fraction if stage > 1 else 1.0, moments=fraction, weight_copies=1)
    return ShardFractions()


def estimate_cache_bytes(config: FinetuneRunConfig, folder: Path, index: DatasetIndex) -> int:
    """The size of all latents and text-encoder states of an index in the cache."""
    vae, transformer = (read_json(folder / name / "config.json") for name in ("vae", "transformer"))
    factor = get_scale_factor(vae)
    num_pixels = sum(shape[0] * shape[1] * get_num_frames(shape) * len(same) for shape, same in index.records.items())
    num_latents = transformer["in_channels"] * num_pixels // factor**2
    if config.model.trainable == "controlnet":
        num_latents *= 2
    state_sizes = [
        transformer["text_len"] * transformer["cross_attention_dim"],
        transformer["text_len_t5"] * transformer["cross_attention_dim_t5"],
    ]
    num_texts = 0 if config.trains_text_encoders else len(collect_texts(index.list_records()))
    return (num_latents + num_texts * sum(state_sizes)) * config.run.compute_dtype.itemsize


def get_moment_bytes(weight: Tensor, config: FinetuneRunConfig) -> int:
    """Bytes of moments per parameter of a weight."""
    kind = config.optimizer.kind
    return MOMENT_BYTES["adamw" if kind == "adamw8bit" and weight.numel() < MIN_8BIT_SIZE else kind]


def count_weight_averages(optimizer: OptimizerConfig) -> int:
    """Copies of the trainable weights for averages; a schedule-free optimizer's is among its moments."""
    return int(optimizer.kind != "schedule_free") + (0 if optimizer.ema_snapshot_every is None else len(SIGMA_RELS))


def make_meta_text_encoders(folder: Path) -> list[nn.Module]:
    """Both text encoders on the meta device; the unused pooler is frozen."""
    with torch.device("meta"):
        bert, t5 = (
            encoder_class(encoder_class.config_class.from_pretrained(folder / name))
            for name, encoder_class in TEXT_ENCODER_CLASSES.items()
        )
    bert.pooler.requires_grad_(False)
    return [bert, t5]


def get_free_memory(device: torch.device) -> int:
    """Free memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def suggest_savings(config: FinetuneRunConfig, estimate: MemoryEstimate) -> Iterator[Message]:
    """Settings that reduce the memory, with what each saves."""
    model, run = config.model, config.run
    if model.trainable == "all":
        yield Message("saving_by_adapter", saved=format_bytes(estimate.optimizer + estimate.averages))
    if config.optimizer.kind == "adamw":
        yield Message("saving_by_8bit", saved=format_bytes(estimate.optimizer * 3 / 4))
    if not model.gradient_checkpointing_interval:
        yield Message("saving_by_checkpointing")
    halved = replace(estimate, activations=estimate.activations // 2, gradients_overlap_activations=True)
    if run.batch_size > run.gradient_accumulation_steps and halved.total < estimate.total:
        saved = format_bytes(estimate.total - halved.total)
        yield Message("saving_by_accumulation", steps=2 * run.gradient_accumulation_steps, saved=saved)
    if run.mixed_precision == "no":
        yield Message("saving_by_bf16")
    yield Message("saving_by_size")


def describe_finetune_run(config: FinetuneRunConfig) -> Iterator[Message]:
    """Index the data, and describe line by line what a run will do and need.

    Raises: DianjingError for data or a model that cannot be used.
    """
    process = PartialState()
    folder = resolve_model(config.model.name)
    validate_model(folder)
    check_adapter_settings(config, folder)
    index = index_datasets(config, folder)
    yield index.summarize()
    yield from (Message("sample_rejected", name=name, reason=reason) for name, reason in index.rejected.items())
    training, _ = split_validation(index, config.data.validation_fraction)
    schedule = make_file_schedule(config, training, num_processes=process.num_processes, rank=process.process_index)
    run = config.run
    epochs = f"{run.total_steps / schedule.steps_per_epoch:.1f}"
    yield Message("run_length", steps=run.total_steps, batch_size=run.batch_size, epochs=epochs)
    estimate = estimate_memory(
        config,
        folder,
        max(index.records, key=lambda shape: shape[0] * shape[1] * get_num_frames(shape)),
        num_processes=process.num_processes,
        device=process.device,
        has_motion_control=index.has_motion_control,
        cache_bytes=estimate_cache_bytes(config, folder, index),
    )
    yield from estimate.describe()
    captions = list_prior_captions(config, folder)
    if captions and not config.data.num_frames:
        yield Message("prior_images_planned", count=max(len(captions), MIN_NUM_IMAGES))
    minutes = run.total_steps * estimate.step_s / 60
    yield Message("run_duration", step_s=f"{estimate.step_s:.2g}", minutes=f"{minutes:.3g}")
    free = get_free_memory(process.device)
    if estimate.total <= free:
        yield Message("run_fits", free=format_bytes(free), device=process.device)
        return
    yield Message("run_does_not_fit", free=format_bytes(free), device=process.device)
    yield from suggest_savings(config, estimate)
