"""Data of a fine-tuning run: the index of its data sets, the schedule of its steps, and its latent cache."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dianjing.errors import DianjingError, Message, get_language
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import read_dataset_configs
from dianjing.train.data.buckets import BucketShape, FileSchedule, make_bucket_shapes
from dianjing.train.data.control_images import ControlImageSource
from dianjing.train.data.index import DatasetIndex, build_index
from dianjing.train.data.latent_batches import collect_texts
from dianjing.train.data.latent_cache import LatentCache, Shard
from dianjing.train.data.prior_captions import list_prior_captions
from dianjing.train.data.prior_images import PriorImages
from dianjing.train.data.sample_prompts import get_sample_prompts
from dianjing.train.data.schedule import BatchShards
from dianjing.train.data.tensor_cache import TensorCache
from dianjing.weights.image_sizes import read_default_size_px, read_size_multiple_px
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model


def make_file_schedule(
    config: FinetuneRunConfig, index: DatasetIndex, *, num_processes: int, rank: int
) -> FileSchedule:
    """The schedule of a run over an index of samples."""
    run = config.run
    shards = BatchShards(
        global_batch_size=run.batch_size,
        accumulation_steps=run.gradient_accumulation_steps,
        num_processes=num_processes,
        rank=rank,
    )
    return FileSchedule(index.records, index.repeats, shards=shards, seed=run.seed)


def index_and_encode(config: FinetuneRunConfig, accelerator: Accelerator) -> tuple[DatasetIndex, LatentCache]:
    """Index the data sets, write data.json into the run's folder, and fill the cache.

    Raises: DianjingError for a model or data that cannot be used.
    """
    folder = resolve_model(config.model.name)
    validate_model(folder)
    index = index_datasets(config, folder)
    if accelerator.is_main_process:
        warn_about_size(config, folder)
    if (control_source := ControlImageSource.from_config(config.model)) is not None:
        control_source.check_records(index.list_records())
    if accelerator.is_main_process:
        report = config.run.folder / "data.json"
        index.save(report)
        line = Message("data_report", summary=index.summarize(), path=report)
        print(line.render(get_language()), flush=True)
    return index, fill_latent_cache(config, folder, index, accelerator)


def warn_about_size(config: FinetuneRunConfig, folder: Path) -> None:
    """Print a warning for images of at most half the side that the model in `folder` was trained on."""
    size_px, default_px = config.data.size_px, read_default_size_px(folder)
    if 2 * size_px <= default_px:
        line = Message("training_size_below_model", size_px=size_px, name=config.model.name, default_px=default_px)
        print(line.render(get_language()), flush=True)


def index_datasets(config: FinetuneRunConfig, folder: Path) -> DatasetIndex:
    """Index the data sets of a run for the model in `folder`, whose factors determine the bucket shapes.

    Raises: DianjingError for a size below the model's minimum, and for data sets that cannot be used.
    """
    data = config.data
    datasets = read_dataset_configs(data.datasets_file)
    for dataset in datasets:
        if not dataset.path.exists():
            raise DianjingError(
                "listed_dataset_missing", path=dataset.path.absolute(), datasets_file=data.datasets_file.absolute()
            )
    multiple_px = read_size_multiple_px(folder)

    def make_shapes(size_px: int | None) -> list[BucketShape]:
        size_px = data.size_px if size_px is None else size_px
        if size_px < multiple_px:
            raise DianjingError("training_size_too_small", size_px=size_px, minimum=multiple_px)
        return make_bucket_shapes(size_px, multiple_px=multiple_px, max_aspect_ratio=data.max_aspect_ratio)

    return build_index(
        datasets,
        make_shapes,
        min_side_px=data.min_side_px,
        max_rejected_fraction=data.max_rejected_fraction,
        clip_lengths=data.num_frames,
        fps=data.fps,
    )


def fill_latent_cache(
    config: FinetuneRunConfig, folder: Path, index: DatasetIndex, accelerator: Accelerator
) -> LatentCache:
    """Encode whatever the cache lacks; every process encodes its share."""
    latent_cache = open_latent_cache(config, folder)
    shard = Shard(rank=accelerator.process_index, num_processes=accelerator.num_processes)
    latent_cache.fill_latents(index.records, device=accelerator.device, shard=shard)
    accelerator.wait_for_everyone()
    if config.trains_text_encoders:
        return latent_cache
    texts = list_cached_texts(config, folder, index)
    latent_cache.fill_text_states(texts, device=accelerator.device, shard=shard)
    accelerator.wait_for_everyone()
    if prior_images := make_prior_images(config, latent_cache):
        batch_size = max(1, config.run.batch_size // (config.run.gradient_accumulation_steps * shard.num_processes))
        prior_images.fill(batch_size=batch_size, device=accelerator.device, shard=shard)
        accelerator.wait_for_everyone()
    return latent_cache


def make_prior_images(config: FinetuneRunConfig, latent_cache: LatentCache) -> PriorImages | None:
    """The images to preserve; None without prior preservation, and for clips, where training samples stand in."""
    captions = list_prior_captions(config, latent_cache.model_folder)
    if not captions or config.data.num_frames:
        return None
    multiple_px = read_size_multiple_px(latent_cache.model_folder)
    size_px = config.data.size_px // multiple_px * multiple_px
    return PriorImages(latent_cache=latent_cache, captions=captions, size_px=size_px)


def list_cached_texts(config: FinetuneRunConfig, folder: Path, index: DatasetIndex) -> set[str]:
    """All texts whose states a run reads: captions, motion phrases, sample prompts and captions to preserve."""
    prompts = get_sample_prompts(config, index)
    return {*collect_texts(index.list_records()), *prompts, *list_prior_captions(config, folder), ""}


def open_latent_cache(config: FinetuneRunConfig, folder: Path) -> LatentCache:
    """The cache of a run for the model in `folder`; nothing is encoded."""
    transformer = read_json(folder / "transformer" / "config.json")
    lengths = {"text_encoder": transformer["text_len"], "text_encoder_2": transformer["text_len_t5"]}
    return LatentCache.from_model(
        folder,
        TensorCache(config.data.cache_folder.expanduser()),
        dtype=config.run.compute_dtype,
        text_lengths=lengths,
        control_source=ControlImageSource.from_config(config.model),
        fps=config.data.fps,
    )


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
