"""A sample source, a task and run configs that are small enough for tests."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dianjing.train.config.autoencoder import AutoencoderRunConfig
from dianjing.train.config.run_file import AnyRunConfig, parse_run_config
from dianjing.train.config.text_to_image import TextToImageRunConfig
from dianjing.train.data.loader import MicroBatchDataset, make_loader
from dianjing.train.data.samples import Batch, CaptionEncoder
from dianjing.train.data.schedule import BatchShards, Bucket, make_image_schedule
from dianjing.train.tasks.base import Task, TrainingSetup
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from dianjing.train.trainer.loop import Trainer

CAPTIONS = ("草地上的一只小猫", "海上的红色气球", "a small cat on the grass", "a Red balloon at sea")


@dataclass(frozen=True)
class TinyImageSample:
    image: np.ndarray
    text_zh: str
    text_en: str


@dataclass(frozen=True)
class TinyClipSample:
    frames: np.ndarray
    masks: np.ndarray
    text_zh: str
    text_en: str
    strengths: tuple[float, float] = (0.5, 0.0)
    motion_phrases: tuple[Any, None] = ((("落下",), ("sink",)), None)

    def get_backward_flow(self, instance_index: int, grid_size: int) -> np.ndarray:
        """Flow of the first object, which sinks by one row per frame: (F, grid_size, grid_size, 2)."""
        flow = np.zeros((len(self.frames), grid_size, grid_size, 2), np.float32)
        flow[..., 1] = -np.arange(len(self.frames))[:, None, None] / self.frames.shape[1]
        return flow


class TinySource:
    """A sample source of images with two flat colours, which depend on seed and position."""

    def __init__(self, size_px: int = 16) -> None:
        self.size_px = size_px

    def get_image_sample(self, seed: int, position: int) -> TinyImageSample:
        colours = np.random.default_rng((seed, position)).integers(0, 256, (4, 3), dtype=np.uint8)
        image = np.broadcast_to(colours[0], (self.size_px, self.size_px, 3)).copy()
        image[: self.size_px // 2] = colours[1]
        return TinyImageSample(image, CAPTIONS[position % 2], CAPTIONS[2 + position % 2])

    def get_captioned_clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> TinyClipSample:
        """A clip whose upper half sinks by one row per frame."""
        image = self.get_image_sample(seed, position).image
        frames = np.stack([np.roll(image, frame, axis=0) for frame in range(num_frames)])
        masks = np.zeros((num_frames, 2, self.size_px, self.size_px), bool)
        masks[:, 0, : self.size_px // 2] = True
        return TinyClipSample(frames, masks, CAPTIONS[position % 2] + "下降", CAPTIONS[2 + position % 2] + " sinking")

    get_controlled_clip = get_captioned_clip


class TinyTask(Task):
    """A task that denoises mean colours: a few hundred parameters, and everything that the training loop uses."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.LayerNorm(width), nn.Linear(width, 3))
        self.poison_step: int | None = None
        self.calls = 0

    def to_device(self, device: torch.device, dtype: torch.dtype) -> None:
        pass

    def compile_modules(self, mode: str) -> None:
        pass

    def sample_noise(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        return {"colours": torch.randn(bucket.shards.global_batch_size, 3, generator=generator)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        colours = batch["images"].float().mean(dim=(1, 2)) / 255
        loss = (self.net(colours + 0.1 * noise["colours"]) - colours).square().mean()
        if self.calls == self.poison_step:
            loss = loss * torch.nan
        self.calls += 1
        return {"loss": loss}

    def sample_grid(self) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        return {}


def make_run_tree(folder: Path, **run: Any) -> dict[str, Any]:
    """The sections that every run file has, as a dictionary."""
    settings = {"total_steps": 6, "batch_size": 4, "checkpoint_every": 3, "log_every": 1, "seed": 7}
    return {
        "run": {"folder": str(folder), **settings, **run},
        "data": {"size_px": 16, "stages": [{"scene_weights": {"single": 1.0}}]},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
    }


def make_autoencoder_config(folder: Path, **run: Any) -> AutoencoderRunConfig:
    tree = make_run_tree(folder, **run)
    tree |= {
        "task": "autoencoder",
        "model": {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 2},
        "samples": {"num_images": 4, "num_statistics_images": 8},
    }
    config = parse_run_config(tree)
    assert isinstance(config, AutoencoderRunConfig)
    return config


def make_text_to_image_config(folder: Path, *, vae: Path, tokenizers: Path, **run: Any) -> TextToImageRunConfig:
    tree = make_run_tree(folder, **run)
    tree |= {
        "task": "text_to_image",
        "model": {
            "vae": str(vae),
            "tokenizers": str(tokenizers),
            "text_len": 16,
            "text_len_t5": 16,
            "bert": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
            "t5": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16},
            "transformer": {
                "num_layers": 3,
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "pooled_projection_dim": 16,
            },
        },
        "samples": {"prompts": ["小猫", "a balloon"], "num_inference_steps": 2},
    }
    config = parse_run_config(tree)
    assert isinstance(config, TextToImageRunConfig)
    return config


def make_video_config(folder: Path, *, start_from: Path, vae: Path, **run: Any) -> TextToImageRunConfig:
    """A run on images, captioned clips and clips with motion control that starts from an image model."""
    tree = json.loads(make_text_to_image_config(folder, vae=vae, tokenizers=vae, **run).model_dump_json())
    tree["model"] |= {"start_from": str(start_from), "tokenizers": None}
    tree["model"]["transformer"] |= {"use_motion_blocks": True, "max_regions": 2, "use_flow_field": True}
    tree["data"]["buckets"] = [
        {"kind": "image"},
        {"kind": "clip", "num_frames": 3, "batch_size": 2},
        {"kind": "controlled", "num_frames": 4, "batch_size": 2},
    ]
    tree["samples"] |= {"video_prompts": ["a balloon sinking"], "num_controlled_clips": 1, "num_frames": 3}
    config = parse_run_config(tree)
    assert isinstance(config, TextToImageRunConfig)
    return config


def make_trainer(
    config: AnyRunConfig, task: Task | None = None, accelerator: Accelerator | None = None
) -> tuple[Trainer, Any]:
    """A trainer of the tiny task, and a function that returns an iterator over the batches from its step on."""
    torch.manual_seed(config.run.seed)
    accelerator = accelerator or Accelerator(cpu=True)
    layout = BatchShards(
        global_batch_size=config.run.batch_size,
        accumulation_steps=config.run.gradient_accumulation_steps,
        num_processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )
    config.run.folder.mkdir(parents=True, exist_ok=True)
    plan = make_image_schedule(TinySource(), layout, seed=config.run.seed)
    data = MicroBatchDataset(plan, seed=config.run.seed)
    job = TrainingSetup(task=task or TinyTask(), batches=data)
    trainer = Trainer(job, config.run, config.optimizer, accelerator)

    def batches() -> Any:
        steps = {"first_step": trainer.step, "total_steps": config.run.total_steps}
        return iter(make_loader(data, **steps, num_workers=0, prefetch_factor=2, pin_memory=False))

    return trainer, batches


def never() -> bool:
    """A `should_stop` that never stops the run."""
    return False


UNINTERRUPTED: dict[str, Any] = {"resume": "auto", "should_stop": never}


def load_newest_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the newest checkpoint of a run, under "group:name"."""
    checkpoint, _ = find_newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    groups = {name: checkpoint.load_tensors(name) for name in ("model", "ema", "optimizer")}
    return {f"{group}:{key}": tensor for group, tensors in groups.items() for key, tensor in tensors.items()}


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def make_shards(batch_size: int) -> BatchShards:
    """The shards of one process without accumulation."""
    return BatchShards(global_batch_size=batch_size, accumulation_steps=1, num_processes=1, rank=0)


def make_batch(batch_size: int, caption_encoder: CaptionEncoder | None = None) -> Batch:
    """The first batch of images of the tiny source."""
    schedule = make_image_schedule(TinySource(), make_shards(batch_size), seed=0)
    return MicroBatchDataset(schedule, seed=0, caption_encoder=caption_encoder)[0]


def overfit_batch(task: Task, batch: Batch, *, steps: int, learning_rate: float) -> tuple[float, float]:
    """Train on one batch with fixed noise; returns the first and the last loss."""
    optimizer = torch.optim.Adam((p for p in task.parameters() if p.requires_grad), learning_rate)
    images = batch["images"]
    kind: Any = "image" if images.ndim == 4 else "controlled" if "active" in batch else "clip"
    num_frames = 1 if images.ndim == 4 else images.shape[1]
    bucket = Bucket(kind=kind, num_frames=num_frames, shards=make_shards(len(images)))
    noise = task.sample_noise(bucket, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(steps):
        loss = task(batch, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]
