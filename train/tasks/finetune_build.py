"""Building a fine-tuning run: its data, its latent cache, its task, and the definition of the task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.media.crop import resize_crop
from dianjing.pipelines.prompting.vocabulary import VOCABULARY_FILE, Vocabulary
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.config.finetune import FinetuneObjectiveConfig, FinetuneRunConfig
from dianjing.train.config.run_file import read_dataset_configs
from dianjing.train.data.buckets import BucketShape, get_num_frames
from dianjing.train.data.captions import CachedStateBatcher, TokenBatcher
from dianjing.train.data.index import DatasetIndex
from dianjing.train.data.inspect import decode_image
from dianjing.train.data.latent_batches import LatentBatchDataset, collect_texts
from dianjing.train.data.latent_cache import LatentCache
from dianjing.train.data.loader import ScheduledBatches
from dianjing.train.data.preparation import index_and_encode, make_file_schedule, make_prior_images
from dianjing.train.data.prior_captions import PriorCaptionDataset, list_prior_captions
from dianjing.train.data.sample_prompts import set_sample_prompts
from dianjing.train.data.samples import CaptionBatcher, SampleRecord, SampleSource
from dianjing.train.data.skip_log import SkipLog
from dianjing.train.data.validation import split_validation
from dianjing.train.diffusion.noise_process import NoiseProcess, adapt_scheduler, make_noise_process
from dianjing.train.memory_estimate import describe_finetune_run
from dianjing.train.tasks.base import CardSections, TaskDefinition, TrainingSetup
from dianjing.train.tasks.controlnet import ControlNetTask
from dianjing.train.tasks.distillation import DistillationTask
from dianjing.train.tasks.finetune import FinetuneTask
from dianjing.train.tasks.finetune_model import check_adapter_settings
from dianjing.weights import registry
from dianjing.weights.resolve import resolve_model

DESCRIPTIONS = {  # by model.trainable
    "lora": "An adapter",
    "all": "All weights, fine-tuned,",
    "motion": "Motion blocks and motion control",
    "controlnet": "A ControlNet",
}
ADAPTER_USAGE = """\
from diffusers import {scheduler}
from dianjing import TextToImagePipeline

pipe = TextToImagePipeline.from_pretrained("{base}")
pipe.load_lora_weights("FOLDER")
pipe.scheduler = {scheduler}.from_pretrained("FOLDER", subfolder="scheduler")"""
FEW_STEP_USAGE = """\
from dianjing import TextToImagePipeline

pipe = TextToImagePipeline.from_pretrained("{base}")
pipe.load_lora_weights("FOLDER")  # with its scheduler, {steps} steps and guidance scale 1
images = pipe("...").images"""
CONTROLNET_USAGE = """\
from diffusers import {scheduler}
from dianjing import TextToImagePipeline
{imports}
pipe = TextToImagePipeline.from_pretrained("{base}", controlnet="FOLDER")
pipe.scheduler = {scheduler}.from_pretrained("FOLDER", subfolder="scheduler")
images = pipe("...", control_image={control_image}).images"""
PIPELINE_USAGE = """\
from dianjing import {pipeline}

pipe = {pipeline}.from_pretrained("FOLDER")"""


class FinetuneDefinition(TaskDefinition[FinetuneRunConfig]):
    """The definition of task "finetune"."""

    config_class = FinetuneRunConfig
    has_cache = True

    def build(self, config: FinetuneRunConfig, source: SampleSource | None, accelerator: Accelerator) -> TrainingSetup:
        """Index the data sets, fill the cache, then load the transformer; `source` is not used.

        Raises: DianjingError for data, a model or a cache that cannot be used.
        """
        run = config.run
        check_adapter_settings(config, resolve_model(config.model.name))
        index, latent_cache = index_and_encode(config, accelerator)
        config = set_sample_prompts(config, index)
        num_images = sum(len(same) for shape, same in index.records.items() if get_num_frames(shape) == 1)
        if config.model.trainable == "motion" and num_images:
            raise DianjingError("motion_with_images", count=num_images)
        training, validation = split_validation(index, config.data.validation_fraction)
        schedule = make_file_schedule(
            config, training, num_processes=accelerator.num_processes, rank=accelerator.process_index
        )
        torch.manual_seed(run.seed)  # initial weights of adapters; the training loop has a generator of its own
        batcher: CaptionBatcher = CachedStateBatcher(latent_cache)
        if config.trains_text_encoders:
            batcher = TokenBatcher(latent_cache.model_folder, dict(latent_cache.text_lengths))
        task = make_finetune_task(config, latent_cache, batcher, training_index=training, validation_records=validation)
        max_skipped = min(int(config.data.max_rejected_fraction * training.count), training.count - 1)
        skip_log = SkipLog(run.folder, limit=max_skipped)
        if accelerator.is_main_process:
            skip_log.reset()
        accelerator.wait_for_everyone()
        batches: ScheduledBatches = LatentBatchDataset(
            schedule, latent_cache, config.objective, caption_batcher=batcher, seed=run.seed, skip_log=skip_log
        )
        if prior_captions := list_prior_captions(config, latent_cache.model_folder):
            dropout = config.objective.caption_dropout
            batches = PriorCaptionDataset(
                batches,
                prior_captions,
                images=make_prior_images(config, latent_cache),
                caption_batcher=batcher,
                caption_dropout=dropout,
                seed=run.seed,
            )
        return TrainingSetup(task=task, batches=batches, samples=index.hash_samples())

    def describe(self, config: FinetuneRunConfig) -> Iterator[Message]:
        return describe_finetune_run(config)

    def make_noise_process(self, config: FinetuneRunConfig) -> tuple[NoiseProcess, FinetuneObjectiveConfig]:
        pipe = TextToImagePipeline.from_pretrained(
            config.model.name, transformer=None, text_encoder=None, text_encoder_2=None, vae=None
        )
        scheduler = adapt_scheduler(config.objective, pipe.scheduler)
        noise_process = make_noise_process(scheduler, min_snr_gamma=config.objective.min_snr_gamma)
        return noise_process, config.objective

    def fill_caches(self, config: FinetuneRunConfig, accelerator: Accelerator) -> None:
        index_and_encode(config, accelerator)

    def make_card_sections(self, config: FinetuneRunConfig, folder: Path) -> CardSections:
        encoders = " with both text encoders" if config.trains_text_encoders else ""
        return CardSections(
            description=f"{DESCRIPTIONS[config.model.trainable]} for `{_get_base_name(config)}`{encoders}",
            usage=_get_usage(config, folder),
            tags=(config.model.trainable,),
            front_matter=_get_front_matter(config),
        )


def make_finetune_task(
    config: FinetuneRunConfig,
    latent_cache: LatentCache,
    caption_batcher: CaptionBatcher,
    *,
    training_index: DatasetIndex,
    validation_records: dict[BucketShape, list[SampleRecord]],
) -> FinetuneTask:
    """The task of a run, with a ControlNet if that is trained."""
    settings: dict[str, Any] = {
        "caption_batcher": caption_batcher,
        "compute_dtype": config.run.compute_dtype,
        "validation_records": validation_records,
        "has_motion_control": training_index.has_motion_control,
        "trigger_words": find_trigger_words(config, latent_cache.model_folder, training_index),
    }
    if config.objective.distillation_steps is not None:
        return DistillationTask(config, latent_cache, **settings)
    if config.model.trainable != "controlnet":
        return FinetuneTask(config, latent_cache, **settings)
    control_images = _make_control_images(config, latent_cache, training_index.list_records())
    return ControlNetTask(config, latent_cache, **settings, control_images=control_images)


def find_trigger_words(config: FinetuneRunConfig, model_folder: Path, index: DatasetIndex) -> list[str]:
    """The trigger words of the data sets, and the words of their captions that the model does not know."""
    words = [dataset.trigger_word for dataset in read_dataset_configs(config.data.datasets_file)]
    if (model_folder / VOCABULARY_FILE).is_file():
        vocabulary = Vocabulary.from_file(model_folder / VOCABULARY_FILE)
        words += [
            word for text in sorted(collect_texts(index.list_records())) for word in vocabulary.find_unknown_words(text)
        ]
    return list(dict.fromkeys(word for word in words if word))


def _make_control_images(
    config: FinetuneRunConfig, latent_cache: LatentCache, records: list[SampleRecord]
) -> list[Image.Image]:
    """Control images of training images, one for each sample prompt."""
    assert latent_cache.control_source is not None
    side, images = config.data.size_px, []
    for index in range(len(config.samples.prompts or ())):
        record = records[index % len(records)]
        image, _ = resize_crop(decode_image(record.source, name=record.name), height=side, width=side)
        images.append(latent_cache.control_source.make(record, image))
    return images


def _get_base_name(config: FinetuneRunConfig) -> str:
    """The public name of the base model, or the last part of its path."""
    return Path(config.model.name).name if Path(config.model.name).exists() else config.model.name


def _get_usage(config: FinetuneRunConfig, folder: Path) -> str:
    if config.model.trainable in ("lora", "controlnet"):
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        names = {"base": _get_base_name(config), "scheduler": scheduler["_class_name"]}
        if config.model.trainable == "lora":
            steps = config.objective.distillation_steps
            return (ADAPTER_USAGE if steps is None else FEW_STEP_USAGE).format(**names, steps=steps)
        return CONTROLNET_USAGE.format(**names, **_get_preprocessor_usage(config))
    return PIPELINE_USAGE.format(pipeline="TextToVideoPipeline" if config.data.num_frames else "TextToImagePipeline")


def _get_preprocessor_usage(config: FinetuneRunConfig) -> dict[str, str]:
    """Import and call of what makes the control image that a ControlNet was trained on."""
    name = config.model.control_preprocessor
    if name == "none":
        return {"imports": "", "control_image": "image"}
    imports = "from dianjing.pipelines.control_maps import load_preprocessor\n"
    folder = "" if config.model.control_preprocessor_model is None else ', folder="MODEL"'
    return {"imports": imports, "control_image": f'load_preprocessor("{name}"{folder})(image)'}


def _get_front_matter(config: FinetuneRunConfig) -> dict[str, Any]:
    """License and base model, as the Hub reads them."""
    info = next((info for info in registry.MODELS if info.name == config.model.name), None)
    fields: dict[str, Any] = {}
    if info is not None:
        fields["license"] = info.licence.lower()
    if not Path(config.model.name).exists() and (info is None or info.bundled_folder is None):
        fields["base_model"] = config.model.name if info is None else info.repository
    return fields
