"""How fast fine-tuning goes beside a loop as diffusers' train_text_to_image writes it, and what each lever adds.

    python -m benchmarks.training --model sticker

Same weights, pictures, captions, batch and precision. Their loop opens each picture, encodes it and its caption at
every step, updates all weights of HunyuanDiT2DModel by AdamW, and averages them, as ours does (their `--use_ema`).
Between it and ours stand loops that take over one thing more each. All take turns.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, BertModel, T5EncoderModel

from benchmarks.timing import Quantiles, compute_quantiles, compute_ratios, make_clock, time_call
from dianjing.dit import DiT
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.data.loader import make_loader
from dianjing.train.data.samples import Batch
from dianjing.train.stickers import StickerWorld
from dianjing.train.tasks.finetune_build import build_finetune_training
from dianjing.train.trainer.loop import Trainer
from dianjing.weights.resolve import resolve_model

LEARNING_RATE = 1e-5
WARMUP_STEPS = 3  # steps, in which ours is compiled
EAGER_NAME, COMPILED_BLOCKS_NAME, COMPILED_MODEL_NAME = (
    "dianjing, eager",
    "dianjing, blocks compiled",
    "dianjing, compiled whole",
)
COMPILE_SETTINGS = {
    EAGER_NAME: ("none", False),
    COMPILED_BLOCKS_NAME: ("default", False),
    COMPILED_MODEL_NAME: ("default", True),
}


@dataclass(frozen=True, kw_only=True)
class LoopVariant:
    """What a loop between theirs and ours has taken over from ours."""

    has_cached_latents: bool = False
    has_cached_text: bool = False
    has_dianjing_model: bool = False
    has_fused_optimizer: bool = False


LOOP_VARIANTS = {
    "diffusers": LoopVariant(),
    "+ latents cached": LoopVariant(has_cached_latents=True),
    "+ text states cached": LoopVariant(has_cached_latents=True, has_cached_text=True),
    "+ our DiT": LoopVariant(has_cached_latents=True, has_cached_text=True, has_dianjing_model=True),
    "+ fused AdamW": LoopVariant(
        has_cached_latents=True, has_cached_text=True, has_dianjing_model=True, has_fused_optimizer=True
    ),
}


def write_sticker_images(folder: Path, *, count: int, size_px: int) -> None:
    """Of the sticker world, with captions in both languages."""
    world = StickerWorld(size_px=size_px)
    for index in range(count):
        sample = world.get_image_sample(0, index)
        Image.fromarray(sample.image).save(folder / f"{index:04}.png")
        (folder / f"{index:04}.zh.txt").write_text(sample.text_zh, encoding="utf-8")
        (folder / f"{index:04}.en.txt").write_text(sample.text_en, encoding="utf-8")


class ImageCaptionDataset(Dataset[tuple[Tensor, str]]):
    """Pictures (3, H, W) on [-1, 1] and a caption, read when asked for."""

    def __init__(self, folder: Path, *, size_px: int) -> None:
        self.paths, self.size_px = sorted(folder.glob("*.png")), size_px

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        path = self.paths[index]
        picture = Image.open(path).convert("RGB").resize((self.size_px, self.size_px), Image.Resampling.BILINEAR)
        text = path.with_suffix(".zh.txt" if index % 2 else ".en.txt").read_text(encoding="utf-8")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1, text


class DiffusersTrainingLoop:
    """A training step as diffusers' examples write it, but for what `loop` takes over."""

    def __init__(
        self,
        folder: Path,
        dataset: ImageCaptionDataset,
        variant: LoopVariant,
        *,
        batch_size: int,
        accelerator: Accelerator,
    ) -> None:
        self.variant, self.accelerator = variant, accelerator
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False)
        self.encoders = [
            kind.from_pretrained(folder / name).requires_grad_(False)
            for kind, name in ((BertModel, "text_encoder"), (T5EncoderModel, "text_encoder_2"))
        ]
        self.tokenizers = [AutoTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
        self.scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        model = (DiT if variant.has_dianjing_model else HunyuanDiT2DModel).from_pretrained(folder / "transformer")
        self.lengths = (model.config.text_len, model.config.text_len_t5)
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        for frozen in (self.vae, *self.encoders):
            frozen.to(accelerator.device, dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=variant.has_fused_optimizer or None)
        data = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True)
        self.ema = EMAModel(model.parameters(), model_cls=type(model), model_config=model.config)
        self.model, self.optimizer, self.dataloader = accelerator.prepare(model.train(), optimizer, data)
        self.cached_samples = self._fill_cache(dataset) if variant.has_cached_latents else []
        self.batches = self._iterate_batches()

    def train_step(self) -> None:
        latents, text = self._get_inputs(next(self.batches))
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        with self.accelerator.autocast():
            inputs = {"timestep": timesteps.to(noisy.dtype), **text, **self._get_rotary_inputs(noisy)}
            predicted = self.model(noisy, **inputs, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), target.float())
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        loss.item()  # their progress bar shows it at every step

    def _iterate_batches(self) -> Iterator[Any]:
        while True:
            yield from self.dataloader if not self.variant.has_cached_latents else self._iterate_cached_batches()

    def _iterate_cached_batches(self) -> Iterator[list[Any]]:
        order, size = torch.randperm(len(self.cached_samples)).tolist(), self.dataloader.total_batch_size
        for first in range(0, len(order) - size + 1, size):
            yield [self.cached_samples[index] for index in order[first : first + size]]

    @torch.no_grad()
    def _fill_cache(self, dataset: ImageCaptionDataset) -> list[Any]:
        """Every picture's latents, and what has become of its caption."""
        kept = []
        for pixels, text in (dataset[index] for index in range(len(dataset))):
            latents = self._encode_latents(pixels[None])[0]
            kept.append(
                (
                    latents,
                    {k: v[0] for k, v in self._encode_text([text]).items()} if self.variant.has_cached_text else text,
                )
            )
        return kept

    def _get_inputs(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.variant.has_cached_latents:
            pixels, texts = batch
            with torch.no_grad():
                return self._encode_latents(pixels), self._encode_text(texts)
        latents = torch.stack([row for row, _ in batch])
        if self.variant.has_cached_text:
            return latents, {name: torch.stack([text[name] for _, text in batch]) for name in batch[0][1]}
        with torch.no_grad():
            return latents, self._encode_text([text for _, text in batch])

    def _encode_latents(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.accelerator.device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.sample().float() * self.vae.config.scaling_factor

    def _encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for suffix, encoder, tokenizer, length in zip(
            ("", "_t5"), self.encoders, self.tokenizers, self.lengths, strict=True
        ):
            tokens = tokenizer(
                list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).to(self.accelerator.device)
            states = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
            found |= {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": tokens.attention_mask}
        return found

    def _get_rotary_inputs(self, latents: Tensor) -> dict[str, Any]:
        """Theirs takes them as an argument."""
        if self.variant.has_dianjing_model:
            return {}
        config = self.accelerator.unwrap_model(self.model).config
        rows, columns = (side // config.patch_size for side in latents.shape[-2:])
        span = get_resize_crop_region_for_grid((rows, columns), 64 // config.patch_size)
        return {"image_rotary_emb": get_2d_rotary_pos_embed(config.attention_head_dim, span, (rows, columns))}


def make_dianjing_step(
    model: str,
    image_folder: Path,
    *,
    batch_size: int,
    size_px: int,
    folder: Path,
    precision: str,
    compile_mode: str,
    compile_whole_model: bool,
) -> Callable[[], object]:
    """A step of this repository's own trainer, caches filled, in a new `folder`; mode as `run.compile` takes it."""
    folder.mkdir()
    sets = folder / "sets.toml"
    sets.write_text(f"[[datasets]]\npath = {json.dumps(str(image_folder))}\n")
    config = parse_run_config(
        {
            "task": "finetune",
            "run": {
                "folder": str(folder / "run"),
                "total_steps": 10**9,
                "batch_size": batch_size,
                "mixed_precision": precision,
                "compile": compile_mode,
            },
            "data": {"datasets_file": str(sets), "size_px": size_px, "cache": str(folder / "cache")},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "model": {"name": model, "trainable": "all", "compile_full_model": compile_whole_model},
            "objective": {"timestep_sampling": "uniform"},
        }
    )
    assert isinstance(config, FinetuneRunConfig)
    config.run.folder.mkdir()
    accelerator = Accelerator(mixed_precision=precision)
    job = build_finetune_training(config, accelerator)
    trainer = Trainer(job, config.run, config.optimizer, accelerator)
    steps = {"first_step": 0, "total_steps": config.run.total_steps}
    batches: Iterator[Batch] = iter(
        make_loader(job.batches, **steps, num_workers=0, prefetch_factor=2, pin_memory=False)
    )
    return lambda: trainer._train_step(batches)


def measure_training_speed(
    model: str, *, batch_size: int, num_rounds: int, num_images: int, precision: str
) -> dict[str, dict[str, Quantiles]]:
    """By loop: seconds a step, and how many times as long as ours it takes."""
    source = resolve_model(model)
    side = json.loads((source / "transformer" / "config.json").read_text())["sample_size"]
    vae = json.loads((source / "vae" / "config.json").read_text())
    size_px = side * 2 ** (len(vae["block_out_channels"]) - 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pictures").mkdir()
        write_sticker_images(folder / "pictures", count=num_images, size_px=size_px)
        files = ImageCaptionDataset(folder / "pictures", size_px=size_px)
        accelerator = Accelerator(mixed_precision=precision)
        work: dict[str, Callable[[], object]] = {
            name: DiffusersTrainingLoop(source, files, loop, batch_size=batch_size, accelerator=accelerator).train_step
            for name, loop in LOOP_VARIANTS.items()
        }
        for name, (mode, is_whole) in COMPILE_SETTINGS.items():
            work[name] = make_dianjing_step(
                model,
                folder / "pictures",
                batch_size=batch_size,
                size_px=size_px,
                folder=folder / name,
                precision=precision,
                compile_mode=mode,
                compile_whole_model=is_whole,
            )
        clock = make_clock(accelerator.device)
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for turn in range(num_rounds + WARMUP_STEPS):
            for name, step in work.items():
                taken, _ = time_call(step, clock)
                if turn >= WARMUP_STEPS:
                    seconds[name].append(taken)
    return {
        name: {
            "seconds": compute_quantiles(taken),
            "ratio_to_dianjing": compute_quantiles(compute_ratios(taken, seconds[COMPILED_MODEL_NAME])),
        }
        for name, taken in seconds.items()
    }


def format_training_results(results: dict[str, dict[str, Quantiles]], *, batch_size: int) -> str:
    lines = ["| loop | samples/s | times as long as ours |", "|---|---|---|"]
    for name, each in results.items():
        times = each["ratio_to_dianjing"]
        lines.append(
            f"| {name} | {batch_size / each['seconds'].median:.1f} | "
            f"{times.median:.2f} ({times.quartile_1:.2f}–{times.quartile_3:.2f}) |"
        )
    return "\n".join(lines)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--batch", type=int, default=32, help="default: as the embedded model was trained")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument(
        "--precision",
        choices=("no", "bf16"),
        default="bf16" if torch.accelerator.is_available() else "no",
        help="mixed precision of all loops (default: bf16, on a CPU no)",
    )
    parser.add_argument("--json", type=Path, help="write every number here")
    given = parser.parse_args()
    sizes = {"batch_size": given.batch, "turns": given.turns, "pictures": given.pictures}
    found = measure_training_speed(given.model, precision=given.precision, **sizes)
    print(format_training_results(found, batch_size=given.batch))
    if given.json is not None:
        report = {name: {key: asdict(value) for key, value in each.items()} for name, each in found.items()}
        given.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
