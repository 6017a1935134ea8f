"""From the run file of a fine-tuning to its task and batches: data, caches, model, in that order."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator

from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import read_dataset_configs
from dianjing.train.data.buckets import FileSchedule, make_bucket_shapes
from dianjing.train.data.index import DatasetIndex, build_index
from dianjing.train.data.latent_batches import collect_texts
from dianjing.train.data.latent_cache import LatentCache, Shard
from dianjing.train.data.schedule import BatchShards
from dianjing.train.data.tensor_cache import TensorCache
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model


def trains_text_encoders(config: FinetuneRunConfig) -> bool:
    return config.model.text_encoders == "joint"


def make_file_schedule(
    config: FinetuneRunConfig, index: DatasetIndex, *, num_processes: int, rank: int
) -> FileSchedule:
    run = config.run
    layout = BatchShards(
        global_batch_size=run.batch_size,
        accumulation_steps=run.gradient_accumulation_steps,
        num_processes=num_processes,
        rank=rank,
    )
    return FileSchedule(index.records, index.repeats, shards=layout, seed=run.seed)


def index_and_encode(config: FinetuneRunConfig, accelerator: Accelerator) -> tuple[DatasetIndex, LatentCache]:
    """The pictures, with a report in the run's folder, and all that is encoded of them."""
    folder = resolve_model(config.model.name)
    validate_model(folder)
    gathered = index_datasets(config, folder)
    if accelerator.is_main_process:
        report = config.run.folder / "data.json"
        gathered.save(report)
        print(f"{gathered.summarize()}; names and reasons: {report}", flush=True)
    return gathered, fill_latent_cache(config, folder, gathered, accelerator)


def index_datasets(config: FinetuneRunConfig, folder: Path) -> DatasetIndex:
    data = config.data
    vae, transformer = (read_json(folder / part / "config.json") for part in ("vae", "transformer"))
    multiple_px = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    if data.size_px < multiple_px:
        raise ValueError(f"data.size_px is {data.size_px}; this model's pictures are at least {multiple_px} px")
    among = make_bucket_shapes(data.size_px, multiple_px=multiple_px, max_aspect_ratio=data.max_aspect_ratio)
    return build_index(
        read_dataset_configs(data.datasets_file),
        among,
        min_side_px=data.min_side_px,
        max_rejected_fraction=data.max_rejected_fraction,
        clip_lengths=data.num_frames,
        fps=data.fps,
    )


def fill_latent_cache(
    config: FinetuneRunConfig, folder: Path, index: DatasetIndex, accelerator: Accelerator
) -> LatentCache:
    """Fill the cache with what is missing, every process its share."""
    encoded = open_latent_cache(config, folder)
    share = Shard(rank=accelerator.process_index, num_processes=accelerator.num_processes)
    encoded.fill_latents(index.records, device=accelerator.device, shard=share)
    accelerator.wait_for_everyone()
    if trains_text_encoders(config):
        return encoded
    entries = [entry for found in index.records.values() for entry in found]
    texts = collect_texts(entries) | set(config.samples.prompts)
    encoded.fill_text_states(texts, device=accelerator.device, shard=share)
    accelerator.wait_for_everyone()
    return encoded


def open_latent_cache(config: FinetuneRunConfig, folder: Path) -> LatentCache:
    """Where a run's latents and states are kept; nothing is encoded yet."""
    transformer = read_json(folder / "transformer" / "config.json")
    lengths = {"text_encoder": transformer["text_len"], "text_encoder_2": transformer["text_len_t5"]}
    cache = TensorCache(config.data.cache_folder.expanduser())
    return LatentCache.from_model(
        folder,
        cache,
        dtype=get_compute_dtype(config),
        text_lengths=lengths,
        has_line_art=config.model.trainable == "controlnet",
        fps=config.data.fps,
    )


def get_compute_dtype(config: FinetuneRunConfig) -> torch.dtype:
    return torch.bfloat16 if config.run.mixed_precision == "bf16" else torch.float32


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
