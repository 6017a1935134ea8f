"""Runs over a world: their plan, their tokenizers and their task."""

from pathlib import Path

import torch
from accelerate import Accelerator

from dianjing.train.config.autoencoder import AutoencoderRunConfig, AutoencoderSamplesConfig
from dianjing.train.config.segmenter import SegmenterRunConfig
from dianjing.train.config.text_to_image import TextToImageRunConfig, TextToImageSamplesConfig
from dianjing.train.data.captions import BilingualCaptionEncoder
from dianjing.train.data.loader import MicroBatchDataset
from dianjing.train.data.samples import CaptionEncoder, SampleSource
from dianjing.train.data.schedule import BatchShards, Bucket, SourceSchedule, make_image_schedule
from dianjing.train.tasks.autoencoder import AutoencoderTask
from dianjing.train.tasks.base import Task, TrainingSetup
from dianjing.train.tasks.segmenter import PointPromptEncoder, SegmenterTask
from dianjing.train.tasks.text_to_image import TextToImageTask
from dianjing.train.tokenizers import extend_tokenizers, save_tokenizers

ScratchRunConfig = AutoencoderRunConfig | SegmenterRunConfig | TextToImageRunConfig
VALIDATION_SEED_OFFSET = 1_000_003  # added to the seed: pictures for grids and measures, not for training
NUM_VALIDATION_SAMPLES = 256  # pictures that a segmenter is measured on


def make_sticker_source(config: ScratchRunConfig) -> SampleSource:
    from dianjing.train.stickers import CurriculumStage
    from dianjing.train.stickers import StickerWorld as StickerWorld

    samples = config.run.total_steps * config.run.batch_size
    stages = [
        CurriculumStage(
            **s.model_dump(exclude={"until_fraction"}),
            until_position=None if s.until_fraction is None else int(s.until_fraction * samples),
        )
        for s in config.data.stages
    ]
    return StickerWorld(size_px=config.data.size_px, stages=stages, split="train")


def get_sticker_names() -> list[str]:
    """Chinese names that become whole tokens."""
    from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

    return [*(n for thing in load_sprite_classes() for n in thing.names_zh), *(c.name_zh for c in COLOURS)]


def render_validation_images(source: SampleSource, *, seed: int, count: int) -> torch.Tensor:
    """uint8 (count, H, W, 3), apart from what is trained on."""
    layout = BatchShards(global_batch_size=count, accumulation_steps=1, num_processes=1, rank=0)
    return MicroBatchDataset(make_image_schedule(source, layout, seed=seed + VALIDATION_SEED_OFFSET), seed=seed)[0][
        "images"
    ]


def make_source_schedule(config: ScratchRunConfig, source: SampleSource, accelerator: Accelerator) -> SourceSchedule:
    """The configured buckets, dealt out to the processes there are."""
    run = config.run
    buckets = [
        Bucket(
            kind=section.kind,
            num_frames=section.num_frames,
            shards=BatchShards(
                global_batch_size=section.batch_size or run.batch_size,
                accumulation_steps=run.gradient_accumulation_steps,
                num_processes=accelerator.num_processes,
                rank=accelerator.process_index,
            ),
        )
        for section in config.data.buckets
    ]
    shares = [section.sampling_weight for section in config.data.buckets]
    return SourceSchedule(
        source=source,
        buckets=buckets,
        sampling_weights=shares,
        positions_per_step=run.batch_size,
        seed=run.seed,
        fps=config.data.fps,
    )


def prepare_tokenizers(config: TextToImageRunConfig, source: SampleSource, accelerator: Accelerator) -> Path:
    """The configured one, or one made once per run: from captions of the whole curriculum, or by adding words."""
    model, run = config.model, config.run
    has_clips = any(bucket.kind != "image" for bucket in config.data.buckets)
    if model.tokenizers is not None:
        return model.tokenizers
    if model.start_from is not None and not has_clips:
        return model.start_from
    folder, count, seed = run.folder / "tokenizers", model.num_tokenizer_captions, run.seed + VALIDATION_SEED_OFFSET
    with accelerator.main_process_first():
        if not (folder / "tokenizer_2").exists():
            stride = max(1, run.total_steps * run.batch_size // count)
            captions = collect_clip_texts(source, seed, fps=config.data.fps) if has_clips else []
            if model.start_from is not None:
                extend_tokenizers(model.start_from, folder, captions)
                return folder
            samples = [source.get_image_sample(seed, index * stride) for index in range(count)]
            captions += [text for sample in samples for text in (sample.text_zh, sample.text_en)]
            save_tokenizers(
                folder, captions, names=get_sticker_names(), text_len=model.text_len, text_len_t5=model.text_len_t5
            )
    return folder


def collect_clip_texts(source: SampleSource, seed: int, *, fps: float, count: int = 2000) -> list[str]:
    """Captions of clips, and every phrasing that asks for what moves in them."""
    texts: list[str] = []
    for position in range(count):
        clip = source.get_captioned_clip(seed, position, num_frames=2, fps=fps)
        texts += (clip.text_zh, clip.text_en)
        texts += (text for phrases in clip.motion_phrases if phrases is not None for some in phrases for text in some)
    return texts


def make_scratch_task(
    config: ScratchRunConfig, source: SampleSource, accelerator: Accelerator
) -> tuple[Task, CaptionEncoder | None]:
    torch.manual_seed(config.run.seed)  # the first weights; the loop has a generator of its own
    seed = config.run.seed + VALIDATION_SEED_OFFSET
    if isinstance(config, SegmenterRunConfig):
        layout = BatchShards(global_batch_size=NUM_VALIDATION_SAMPLES, accumulation_steps=1, num_processes=1, rank=0)
        probe = MicroBatchDataset(
            make_image_schedule(source, layout, seed=seed), seed=seed, caption_encoder=PointPromptEncoder()
        )[0]
        return SegmenterTask(config.model, size_px=config.data.size_px, validation_batch=probe), PointPromptEncoder()
    samples = config.samples
    if isinstance(config, AutoencoderRunConfig):
        assert isinstance(samples, AutoencoderSamplesConfig)
        count = max(samples.num_images, samples.num_statistics_images)
        images = render_validation_images(source, seed=config.run.seed, count=count)
        return AutoencoderTask(config.model, config.objective, samples, validation_images=images), None
    assert isinstance(samples, TextToImageSamplesConfig)
    model = config.model.model_copy(update={"tokenizers": prepare_tokenizers(config, source, accelerator)})
    captions = BilingualCaptionEncoder(model, config.objective)
    fps, num_frames = config.data.fps, samples.num_frames
    clips = [
        source.get_controlled_clip(seed, position, num_frames=num_frames, fps=fps)
        for position in range(samples.num_controlled_clips)
    ]
    task = TextToImageTask(
        model, config.objective, samples, captions, size_px=config.data.size_px, validation_clips=clips
    )
    return task, captions


def build_scratch_training(config: ScratchRunConfig, source: SampleSource, accelerator: Accelerator) -> TrainingSetup:
    plan = make_source_schedule(config, source, accelerator)
    task, captions = make_scratch_task(config, source, accelerator)
    return TrainingSetup(task=task, batches=MicroBatchDataset(plan, seed=config.run.seed, caption_encoder=captions))
