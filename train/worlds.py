"""Runs over a world: their plan, their tokenizers and their task."""

from pathlib import Path

import torch
from accelerate import Accelerator

from dianjing.train.autoencoder import AutoencoderTask
from dianjing.train.data import Bucket, CaptionEncoder, Layout, MicroBatches, World, WorldPlan, only_pictures
from dianjing.train.loop import Job, Task
from dianjing.train.sections import (
    AutoencoderRun,
    AutoencoderSamples,
    SegmenterRun,
    TextToImageRun,
    TextToImageSamples,
)
from dianjing.train.segmenter import Clicked, SegmenterTask
from dianjing.train.text_to_image import TextToImageTask
from dianjing.train.texts import BilingualCaptions
from dianjing.train.tokenizers import extend_tokenizers, save_tokenizers

WorldRun = AutoencoderRun | SegmenterRun | TextToImageRun
PROBE_SEED = 1_000_003  # added to the seed: pictures for grids and measures, not for training
PROBED = 256  # pictures that a segmenter is measured on, or eight batches where these are fewer
SPOKEN_CLIPS = 2000  # clips whose words the tokenizers must know, or fewer where they see fewer captions


def sticker_world(config: WorldRun) -> World:
    from dianjing.train.stickers import Stage
    from dianjing.train.stickers import World as StickerWorld

    samples = config.run.total_steps * config.run.batch_size
    stages = [
        Stage(**s.model_dump(exclude={"until"}), until=None if s.until is None else int(s.until * samples))
        for s in config.data.stages
    ]  # fmt: skip
    return StickerWorld(size_px=config.data.size_px, stages=stages, split="train")


def sticker_names() -> list[str]:
    """Chinese names that become whole tokens."""
    from dianjing.train.stickers.objects import COLOURS, things

    return [*(n for thing in things() for n in thing.names_zh), *(c.name_zh for c in COLOURS)]


def pictures(world: World, *, seed: int, count: int) -> torch.Tensor:
    """uint8 (count, H, W, 3), apart from what is trained on."""
    layout = Layout(global_batch=count, accumulation=1, processes=1, rank=0)
    return MicroBatches(only_pictures(world, layout, seed=seed + PROBE_SEED), seed=seed)[0]["images"]


def make_plan(config: WorldRun, world: World, accelerator: Accelerator) -> WorldPlan:
    """The configured buckets, dealt out to the processes there are."""
    run = config.run
    if config.data.repeat_steps > 1 and run.accumulation > 1:
        raise ValueError("data.repeat_steps and run.accumulation are both above 1; raise batch_size instead")
    buckets = [
        Bucket(
            kind=section.kind, num_frames=section.num_frames,
            layout=Layout(
                global_batch=section.batch_size or run.batch_size, accumulation=run.accumulation,
                processes=accelerator.num_processes, rank=accelerator.process_index,
            ),
        )
        for section in config.data.buckets
    ]  # fmt: skip
    shares = [section.share for section in config.data.buckets]
    return WorldPlan(
        world=world, buckets=buckets, shares=shares, stride=run.batch_size, seed=run.seed, fps=config.data.fps
    )


def tokenizer_folder(config: TextToImageRun, world: World, accelerator: Accelerator) -> Path:
    """The configured one, or one made once per run: from captions of the whole curriculum, or by adding words."""
    model, run = config.model, config.run
    has_clips = any(bucket.kind != "picture" for bucket in config.data.buckets)
    if model.tokenizers is not None:
        return model.tokenizers
    if model.start_from is not None and not has_clips:
        return model.start_from
    folder, count, seed = run.folder / "tokenizers", model.tokenizer_captions, run.seed + PROBE_SEED
    with accelerator.main_process_first():
        if not (folder / "tokenizer_2").exists():
            stride = max(1, run.total_steps * run.batch_size // count)
            clips = min(SPOKEN_CLIPS, count)
            captions = spoken_words(world, seed, fps=config.data.fps, count=clips) if has_clips else []
            if model.start_from is not None:
                extend_tokenizers(model.start_from, folder, captions)
                return folder
            samples = [world.picture(seed, index * stride) for index in range(count)]
            captions += [text for sample in samples for text in (sample.text_zh, sample.text_en)]
            save_tokenizers(
                folder, captions, names=sticker_names(), text_len=model.text_len, text_len_t5=model.text_len_t5
            )
    return folder


def spoken_words(world: World, seed: int, *, fps: float, count: int = SPOKEN_CLIPS) -> list[str]:
    """Captions of clips, and every phrasing that asks for what moves in them."""
    texts: list[str] = []
    for position in range(count):
        clip = world.clip(seed, position, num_frames=2, fps=fps)
        texts += (clip.text_zh, clip.text_en)
        texts += (text for phrases in clip.phrases if phrases is not None for some in phrases for text in some)
    return texts


def make_task(config: WorldRun, world: World, accelerator: Accelerator) -> tuple[Task, CaptionEncoder | None]:
    torch.manual_seed(config.run.seed)  # the first weights; the loop has a generator of its own
    seed = config.run.seed + PROBE_SEED
    if isinstance(config, SegmenterRun):
        probed = min(PROBED, 8 * config.run.batch_size)
        layout = Layout(global_batch=probed, accumulation=1, processes=1, rank=0)
        probe = MicroBatches(only_pictures(world, layout, seed=seed), seed=seed, captions=Clicked())[0]
        return SegmenterTask(config.model, size_px=config.data.size_px, probe=probe), Clicked()
    samples = config.samples
    if isinstance(config, AutoencoderRun):
        assert isinstance(samples, AutoencoderSamples)
        count = max(samples.pictures, samples.measured_pictures)
        images = pictures(world, seed=config.run.seed, count=count)
        return AutoencoderTask(config.model, config.objective, samples, probe=images), None
    assert isinstance(samples, TextToImageSamples)
    model = config.model.model_copy(update={"tokenizers": tokenizer_folder(config, world, accelerator)})
    captions = BilingualCaptions(model, config.objective)
    fps, num_frames = config.data.fps, samples.num_frames
    clips = [world.click(seed, position, num_frames=num_frames, fps=fps) for position in range(samples.clicks)]
    task = TextToImageTask(
        model, config.objective, samples, captions, size_px=config.data.size_px, probe=clips
    )  # fmt: skip
    return task, captions


def prepare(config: WorldRun, world: World, accelerator: Accelerator) -> Job:
    plan = make_plan(config, world, accelerator)
    task, captions = make_task(config, world, accelerator)
    return Job(task=task, batches=MicroBatches(plan, seed=config.run.seed, captions=captions))
