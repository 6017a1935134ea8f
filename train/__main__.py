"""`python -m dianjing.train CONFIG [--set a.b=c] [--resume auto|none|PATH]`, alone or under accelerate.

Exit codes: 0 done (or max_minutes over), 2 usage, 75 stopped by a signal after saving,
76 the gradient was not finite.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from dianjing.train.autoencoder import AutoencoderTask
from dianjing.train.checkpoints import Checkpoint, newest_valid, read_checkpoint
from dianjing.train.config import (
    AutoencoderRun,
    AutoencoderSamples,
    Run,
    TextToImageRun,
    TextToImageSamples,
    read_config,
)
from dianjing.train.data import Bucket, CaptionEncoder, Layout, MicroBatches, World, WorldPlan, loader, only_pictures
from dianjing.train.loop import Diverged, Outcome, Task, Trainer
from dianjing.train.text_to_image import TextToImageTask
from dianjing.train.texts import BilingualCaptions
from dianjing.train.tokenizers import extend_tokenizers, save_tokenizers

INTERRUPTED, DIVERGED = 75, 76
PROBE_SEED = 1_000_003  # added to the seed: pictures for grids and measures, not for training


def sticker_world(config: Run) -> World:
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


def make_plan(config: Run, world: World, accelerator: Accelerator) -> WorldPlan:
    """The configured buckets, dealt out to the processes there are."""
    run = config.run
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
            captions = spoken_words(world, seed, fps=config.data.fps) if has_clips else []
            if model.start_from is not None:
                extend_tokenizers(model.start_from, folder, captions)
                return folder
            samples = [world.picture(seed, index * stride) for index in range(count)]
            captions += [text for sample in samples for text in (sample.text_zh, sample.text_en)]
            save_tokenizers(
                folder, captions, names=sticker_names(), text_len=model.text_len, text_len_t5=model.text_len_t5
            )
    return folder


def spoken_words(world: World, seed: int, *, fps: float, count: int = 2000) -> list[str]:
    """Captions of clips, and every phrasing that asks for what moves in them."""
    texts: list[str] = []
    for position in range(count):
        clip = world.clip(seed, position, num_frames=2, fps=fps)
        texts += (clip.text_zh, clip.text_en)
        texts += (text for phrases in clip.phrases if phrases is not None for some in phrases for text in some)
    return texts


def make_task(config: Run, world: World, accelerator: Accelerator) -> tuple[Task, CaptionEncoder | None]:
    torch.manual_seed(config.run.seed)  # the first weights; the loop has a generator of its own
    seed, samples = config.run.seed + PROBE_SEED, config.samples
    if isinstance(config, AutoencoderRun):
        assert isinstance(samples, AutoencoderSamples)
        count = max(samples.pictures, samples.measured_pictures)
        probe = pictures(world, seed=config.run.seed, count=count)
        return AutoencoderTask(config.model, config.objective, samples, probe=probe), None
    assert isinstance(samples, TextToImageSamples)
    model = config.model.model_copy(update={"tokenizers": tokenizer_folder(config, world, accelerator)})
    captions = BilingualCaptions(model, config.objective)
    fps, num_frames = config.data.fps, samples.num_frames
    clips = [world.click(seed, position, num_frames=num_frames, fps=fps) for position in range(samples.clicks)]
    task = TextToImageTask(
        model, config.objective, samples, captions, size_px=config.data.size_px, probe=clips
    )  # fmt: skip
    return task, captions


def find_checkpoint(folder: Path, resume: str) -> Checkpoint | None:
    """What `--resume` asks for; names every checkpoint that had to be skipped."""
    if resume not in ("auto", "none"):
        return read_checkpoint(Path(resume))
    found, skipped = newest_valid(folder)
    for reason in skipped:
        print(f"skipped {reason}", file=sys.stderr)
    if resume == "none" and (found or skipped):
        raise ValueError(f"{folder} holds checkpoints; --resume auto goes on from them, "
                         "or --set run.folder=... starts elsewhere")  # fmt: skip
    return found


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines after `step`: they are about to be written again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")


def train(config: Run, world: World, *, resume: str, wants_stop: Callable[[], bool]) -> Outcome:
    """One run from its config to its export."""
    run = config.run
    checkpoint = find_checkpoint(run.folder / "checkpoints", resume)
    torch.set_float32_matmul_precision(run.matmul_precision)
    torch.backends.cudnn.allow_tf32 = run.matmul_precision != "highest"
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # a quarter of the autoencoder's time on a CPU
    # of several kinds of sample, none passes through all the weights
    unused = [DistributedDataParallelKwargs(find_unused_parameters=True)] if len(config.data.buckets) > 1 else []
    accelerator = Accelerator(mixed_precision=run.mixed_precision, kwargs_handlers=unused)
    plan = make_plan(config, world, accelerator)
    run.folder.mkdir(parents=True, exist_ok=True)
    task, captions = make_task(config, world, accelerator)
    trainer = Trainer(task, run, config.optimizer, accelerator, plan)
    if checkpoint is not None:
        trainer.load(checkpoint)
    if accelerator.is_main_process:
        truncate_metrics(run.folder / "metrics.jsonl", trainer.step)
        (run.folder / "config.json").write_text(config.model_dump_json(indent=1), encoding="utf-8")
        counted = sum(p.numel() for p in task.parameters() if p.requires_grad)
        print(f"{config.task}: {counted:,} trained parameters, from step {trainer.step}", flush=True)
    batches = loader(
        MicroBatches(plan, seed=run.seed, captions=captions),
        first_step=trainer.step, total_steps=run.total_steps,
        workers=config.data.workers, prefetch=config.data.prefetch,
        pin=accelerator.device.type == "cuda",
    )  # fmt: skip
    outcome = trainer.train(iter(batches), wants_stop=wants_stop)
    if outcome is not Outcome.INTERRUPTED:
        figures = trainer.export()
        if accelerator.is_main_process:
            print(json.dumps({"export": str(run.folder / "export"), **figures}), flush=True)
    accelerator.end_training()
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dianjing.train", description=__doc__)
    parser.add_argument("config", type=Path, help="run file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument("--resume", default="auto", help="auto (default), none, or a checkpoint")
    given = parser.parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are the parallelism
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        signal.signal(signum, signal.SIG_DFL)  # a second one stops at once

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    try:
        config = read_config(given.config, given.overrides)
        outcome = train(config, sticker_world(config), resume=given.resume, wants_stop=lambda: stopping)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return DIVERGED
    print(outcome.value, flush=True)
    return INTERRUPTED if outcome is Outcome.INTERRUPTED else 0


if __name__ == "__main__":
    sys.exit(main())
