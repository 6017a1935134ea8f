"""Finetune build."""

from typing import Any

import torch
from accelerate import Accelerator

from dianjing.pipelines.controlnet import detect_canny_edges
from dianjing.pipelines.media.image import resize_crop
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.data.buckets import BucketShape, get_num_frames
from dianjing.train.data.captions import CachedStateBatcher, TokenBatcher
from dianjing.train.data.index import DatasetIndex
from dianjing.train.data.inspect import decode_image
from dianjing.train.data.latent_batches import LatentBatchDataset
from dianjing.train.data.latent_cache import LatentCache
from dianjing.train.data.preparation import (
    get_compute_dtype,
    index_and_encode,
    make_file_schedule,
    trains_text_encoders,
)
from dianjing.train.data.samples import CaptionBatcher, SampleRecord
from dianjing.train.data.skip_log import SkipLog
from dianjing.train.data.validation import split_validation
from dianjing.train.diffusion.noise_process import NoiseProcess, adapt_scheduler, make_noise_process
from dianjing.train.tasks.base import TrainingSetup
from dianjing.train.tasks.controlnet import ControlNetTask
from dianjing.train.tasks.finetune import FinetuneTask


def build_finetune_training(config: FinetuneRunConfig, accelerator: Accelerator) -> TrainingSetup:
    """Look at the data, fill the caches, then load the transformer.

    Raises: ValueError for data, a model or a cache that cannot be used.
    """
    run = config.run
    gathered, encoded = index_and_encode(config, accelerator)
    if config.model.trainable == "motion" and any(get_num_frames(shape) == 1 for shape in gathered.records):
        raise ValueError(
            "model.trainable = 'motion' with pictures in the data sets, which would train nothing; "
            "leave them out, or take model.trainable = 'all'"
        )
    kept, held_out = split_validation(gathered, config.data.validation_fraction)
    plan = make_file_schedule(config, kept, num_processes=accelerator.num_processes, rank=accelerator.process_index)
    torch.manual_seed(run.seed)  # the adapter's first weights; the loop has a generator of its own
    say = (
        TokenBatcher(encoded.model_folder, dict(encoded.text_lengths))
        if trains_text_encoders(config)
        else CachedStateBatcher(encoded)
    )
    task = make_finetune_task(config, encoded, say, training_index=kept, validation_records=held_out)
    skips = SkipLog(run.folder, limit=min(int(config.data.max_rejected_fraction * kept.count), kept.count - 1))
    if accelerator.is_main_process:
        skips.reset()
    accelerator.wait_for_everyone()
    return TrainingSetup(
        task=task,
        batches=LatentBatchDataset(plan, encoded, config.objective, caption_batcher=say, seed=run.seed, skip_log=skips),
    )


def make_finetune_task(
    config: FinetuneRunConfig,
    latent_cache: LatentCache,
    caption_batcher: CaptionBatcher,
    *,
    training_index: DatasetIndex,
    validation_records: dict[BucketShape, list[SampleRecord]],
) -> FinetuneTask:
    has_clicks = any(entry.motion_label is not None for found in training_index.records.values() for entry in found)
    settings: dict[str, Any] = {
        "caption_batcher": caption_batcher,
        "compute_dtype": get_compute_dtype(config),
        "validation_records": validation_records,
        "has_motion_control": has_clicks,
    }
    if config.model.trainable != "controlnet":
        return FinetuneTask(config, latent_cache, **settings)
    entries = [entry for found in training_index.records.values() for entry in found]
    side = config.data.size_px
    drawings = []
    for index in range(len(config.samples.prompts)):
        entry = entries[index % len(entries)]
        picture, _ = resize_crop(decode_image(entry.source, name=entry.name), height=side, width=side)
        drawings.append(detect_canny_edges(picture))
    return ControlNetTask(config, latent_cache, **settings, control_images=drawings)


def load_noise_process(config: FinetuneRunConfig) -> NoiseProcess:
    """Without any weights."""
    pipe = TextToImagePipeline.from_pretrained(
        config.model.name, transformer=None, text_encoder=None, text_encoder_2=None, vae=None
    )
    scheduler = adapt_scheduler(config.objective, pipe.scheduler)
    return make_noise_process(scheduler, min_snr_gamma=config.objective.min_snr_gamma)
