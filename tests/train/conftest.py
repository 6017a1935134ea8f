"""A world, a task and a run small enough for a test."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dianjing.train.config.autoencoder import AutoencoderRunConfig
from dianjing.train.config.run_file import AnyRunConfig, parse_run_config
from dianjing.train.config.text_to_image import TextToImageRunConfig
from dianjing.train.data.loader import MicroBatchDataset, make_loader
from dianjing.train.data.samples import Batch
from dianjing.train.data.schedule import BatchShards, Bucket, make_image_schedule
from dianjing.train.tasks.base import Task, TrainingSetup
from dianjing.train.tokenizers import save_tokenizers
from dianjing.train.trainer.loop import Trainer

CAPTIONS = ("草地上的一只小猫", "海上的红色气球", "a small cat on the grass", "a Red balloon at sea")


@dataclass(frozen=True)
class TinySample:
    image: np.ndarray
    text_zh: str
    text_en: str


@dataclass(frozen=True)
class TinyClip:
    frames: np.ndarray
    masks: np.ndarray
    text_zh: str
    text_en: str
    strengths: tuple[float, float] = (0.5, 0.0)
    phrases: tuple[Any, None] = ((("落下",), ("sink",)), None)

    def ways_back(self, index: int, side: int) -> np.ndarray:
        """The first object sinks a row a frame."""
        ways = np.zeros((len(self.frames), side, side, 2), np.float32)
        ways[..., 1] = -np.arange(len(self.frames))[:, None, None] / self.frames.shape[1]
        return ways


class TinyWorld:
    """Flat coloured squares, named by position."""

    def __init__(self, size_px: int = 16) -> None:
        self.size_px = size_px

    def picture(self, seed: int, position: int) -> TinySample:
        draws = np.random.default_rng((seed, position)).integers(0, 256, (4, 3), dtype=np.uint8)
        image = np.broadcast_to(draws[0], (self.size_px, self.size_px, 3)).copy()
        image[: self.size_px // 2] = draws[1]
        return TinySample(image, CAPTIONS[position % 2], CAPTIONS[2 + position % 2])

    def clip(self, seed: int, position: int, *, num_frames: int, fps: float) -> TinyClip:
        """A band that sinks, a row a frame."""
        still = self.picture(seed, position).image
        frames = np.stack([np.roll(still, frame, axis=0) for frame in range(num_frames)])
        masks = np.zeros((num_frames, 2, self.size_px, self.size_px), bool)
        masks[:, 0, : self.size_px // 2] = True
        return TinyClip(frames, masks, CAPTIONS[position % 2] + "下降", CAPTIONS[2 + position % 2] + " sinking")

    click = clip


class TinyTask(Task):
    """Denoises mean colours: a few hundred parameters with every moving part of the loop."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.LayerNorm(width), nn.Linear(width, 3))
        self.poison_step: int | None = None
        self.calls = 0

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        pass

    def compile_parts(self, mode: str) -> None:
        pass

    def draw(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        return {"colours": torch.randn(bucket.shards.global_batch_size, 3, generator=generator)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        colours = batch["images"].float().mean(dim=(1, 2)) / 255
        loss = (self.net(colours + 0.1 * noise["colours"]) - colours).square().mean()
        if self.calls == self.poison_step:
            loss = loss * torch.nan
        self.calls += 1
        return {"loss": loss}

    def grid(self) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        return {}


def run_tree(folder: Path, **run: Any) -> dict[str, Any]:
    """The sections that every run has, as they stand in a file."""
    settings = {"total_steps": 6, "batch_size": 4, "checkpoint_every": 3, "log_every": 1, "seed": 7}
    return {
        "run": {"folder": str(folder), **settings, **run},
        "data": {"size_px": 16, "stages": [{"scene_weights": {"single": 1.0}}]},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
    }


def autoencoder_run(folder: Path, **run: Any) -> AutoencoderRunConfig:
    tree = run_tree(folder, **run)
    tree |= {
        "task": "autoencoder",
        "model": {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 2},
        "samples": {"num_images": 4, "num_statistics_images": 8},
    }
    config = parse_run_config(tree)
    assert isinstance(config, AutoencoderRunConfig)
    return config


def text_to_image_run(folder: Path, *, vae: Path, tokenizers: Path, **run: Any) -> TextToImageRunConfig:
    tree = run_tree(folder, **run)
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


def film_run(folder: Path, *, start_from: Path, vae: Path, **run: Any) -> TextToImageRunConfig:
    """Pictures, clips and clicks, from a run of pictures alone."""
    tree = json.loads(text_to_image_run(folder, vae=vae, tokenizers=vae, **run).model_dump_json())
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
    """A trainer of the tiny task, and its batches as a function of where it stands."""
    torch.manual_seed(config.run.seed)
    accelerator = accelerator or Accelerator(cpu=True)
    layout = BatchShards(
        global_batch_size=config.run.batch_size,
        accumulation_steps=config.run.gradient_accumulation_steps,
        num_processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )
    config.run.folder.mkdir(parents=True, exist_ok=True)
    plan = make_image_schedule(TinyWorld(), layout, seed=config.run.seed)
    data = MicroBatchDataset(plan, seed=config.run.seed)
    job = TrainingSetup(task=task or TinyTask(), batches=data)
    trainer = Trainer(job, config.run, config.optimizer, accelerator)

    def batches() -> Any:
        steps = {"first_step": trainer.step, "total_steps": config.run.total_steps}
        return iter(make_loader(data, **steps, num_workers=0, prefetch_factor=2, pin_memory=False))

    return trainer, batches


@pytest.fixture
def tokenizers(tmp_path: Path) -> Path:
    save_tokenizers(tmp_path / "tokenizers", CAPTIONS, names=["小猫", "气球"], text_len=16, text_len_t5=16)
    return tmp_path / "tokenizers"
