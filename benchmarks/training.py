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

from benchmarks.timing import Spread, make_clock, ratios, spread, timed
from dianjing.dit import DiT
from dianjing.train.config import parse_config
from dianjing.train.data import Batch, loader
from dianjing.train.finetune.preparing import prepare
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.train.loop import Trainer
from dianjing.train.stickers import World
from dianjing.weights.fetching import find_folder

LEARNING_RATE = 1e-5
WARM_UP = 3  # steps, in which ours is compiled
EAGER, BLOCKS, OURS = "dianjing, eager", "dianjing, blocks compiled", "dianjing, compiled whole"
COMPILED = {EAGER: ("none", False), BLOCKS: ("default", False), OURS: ("default", True)}


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What a loop between theirs and ours has taken over from ours."""

    caches_latents: bool = False
    caches_text: bool = False
    takes_our_model: bool = False
    fuses_optimizer: bool = False


LOOPS = {
    "diffusers": Loop(),
    "+ latents cached": Loop(caches_latents=True),
    "+ text states cached": Loop(caches_latents=True, caches_text=True),
    "+ our DiT": Loop(caches_latents=True, caches_text=True, takes_our_model=True),
    "+ fused AdamW": Loop(caches_latents=True, caches_text=True, takes_our_model=True, fuses_optimizer=True),
}


def write_pictures(folder: Path, *, count: int, size_px: int) -> None:
    """Of the sticker world, with captions in both languages."""
    world = World(size_px=size_px)
    for index in range(count):
        sample = world.picture(0, index)
        Image.fromarray(sample.image).save(folder / f"{index:04}.png")
        (folder / f"{index:04}.zh.txt").write_text(sample.text_zh, encoding="utf-8")
        (folder / f"{index:04}.en.txt").write_text(sample.text_en, encoding="utf-8")


class Files(Dataset[tuple[Tensor, str]]):
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


class TheirLoop:
    """A training step as diffusers' examples write it, but for what `loop` takes over."""

    def __init__(self, folder: Path, files: Files, loop: Loop, *, batch_size: int, accelerator: Accelerator) -> None:
        self.loop, self.accelerator = loop, accelerator
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False)
        self.encoders = [
            kind.from_pretrained(folder / name).requires_grad_(False)
            for kind, name in ((BertModel, "text_encoder"), (T5EncoderModel, "text_encoder_2"))
        ]
        self.tokenizers = [AutoTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
        self.scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        model = (DiT if loop.takes_our_model else HunyuanDiT2DModel).from_pretrained(folder / "transformer")
        self.lengths = (model.config.text_len, model.config.text_len_t5)
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        for frozen in (self.vae, *self.encoders):
            frozen.to(accelerator.device, dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=loop.fuses_optimizer or None)
        data = DataLoader(files, batch_size=batch_size, shuffle=True, drop_last=True)
        self.average = EMAModel(model.parameters(), model_cls=type(model), model_config=model.config)
        self.model, self.optimizer, self.data = accelerator.prepare(model.train(), optimizer, data)
        self.kept = self._keep(files) if loop.caches_latents else []
        self.batches = self._forever()

    def step(self) -> None:
        latents, text = self._inputs(next(self.batches))
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        with self.accelerator.autocast():
            inputs = {"timestep": timesteps.to(noisy.dtype), **text, **self._positions(noisy)}
            predicted = self.model(noisy, **inputs, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), target.float())
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.model.parameters())
        loss.item()  # their progress bar shows it at every step

    def _forever(self) -> Iterator[Any]:
        while True:
            yield from self.data if not self.loop.caches_latents else self._shuffled()

    def _shuffled(self) -> Iterator[list[Any]]:
        order, size = torch.randperm(len(self.kept)).tolist(), self.data.total_batch_size
        for first in range(0, len(order) - size + 1, size):
            yield [self.kept[index] for index in order[first : first + size]]

    @torch.no_grad()
    def _keep(self, files: Files) -> list[Any]:
        """Every picture's latents, and what has become of its caption."""
        kept = []
        for pixels, text in (files[index] for index in range(len(files))):
            latents = self._encode(pixels[None])[0]
            kept.append((latents, {k: v[0] for k, v in self._read([text]).items()} if self.loop.caches_text else text))
        return kept

    def _inputs(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.loop.caches_latents:
            pixels, texts = batch
            with torch.no_grad():
                return self._encode(pixels), self._read(texts)
        latents = torch.stack([row for row, _ in batch])
        if self.loop.caches_text:
            return latents, {name: torch.stack([text[name] for _, text in batch]) for name in batch[0][1]}
        with torch.no_grad():
            return latents, self._read([text for _, text in batch])

    def _encode(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.accelerator.device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.sample().float() * self.vae.config.scaling_factor

    def _read(self, texts: Sequence[str]) -> dict[str, Tensor]:
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

    def _positions(self, latents: Tensor) -> dict[str, Any]:
        """Theirs takes them as an argument."""
        if self.loop.takes_our_model:
            return {}
        config = self.accelerator.unwrap_model(self.model).config
        rows, columns = (side // config.patch_size for side in latents.shape[-2:])
        span = get_resize_crop_region_for_grid((rows, columns), 64 // config.patch_size)
        return {"image_rotary_emb": get_2d_rotary_pos_embed(config.attention_head_dim, span, (rows, columns))}


def our_step(
    model: str,
    pictures: Path,
    *,
    batch_size: int,
    size_px: int,
    folder: Path,
    precision: str,
    mode: str,
    is_whole: bool,
) -> Callable[[], object]:
    """A step of this repository's own trainer, caches filled, in a new `folder`; mode as `run.compile` takes it."""
    folder.mkdir()
    sets = folder / "sets.toml"
    sets.write_text(f"[[sets]]\npath = {json.dumps(str(pictures))}\n")
    config = parse_config(
        {
            "task": "finetune",
            "run": {"folder": str(folder / "run"), "total_steps": 10**9, "batch_size": batch_size,
                    "mixed_precision": precision, "compile": mode},
            "data": {"sets": str(sets), "size_px": size_px, "cache": str(folder / "cache")},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "model": {"name": model, "trained": "all", "compile_whole": is_whole},
            "objective": {"timesteps": "uniform"},
        }
    )  # fmt: skip
    assert isinstance(config, FinetuneRun)
    config.run.folder.mkdir()
    accelerator = Accelerator(mixed_precision=precision)
    job = prepare(config, accelerator)
    trainer = Trainer(job, config.run, config.optimizer, accelerator)
    steps = {"first_step": 0, "total_steps": config.run.total_steps}
    batches: Iterator[Batch] = iter(loader(job.batches, **steps, workers=0, prefetch=2, pin=False))
    return lambda: trainer._advance(batches)


def measure(model: str, *, batch_size: int, turns: int, pictures: int, precision: str) -> dict[str, dict[str, Spread]]:
    """By loop: seconds a step, and how many times as long as ours it takes."""
    source = find_folder(model)
    side = json.loads((source / "transformer" / "config.json").read_text())["sample_size"]
    vae = json.loads((source / "vae" / "config.json").read_text())
    size_px = side * 2 ** (len(vae["block_out_channels"]) - 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", count=pictures, size_px=size_px)
        files = Files(folder / "pictures", size_px=size_px)
        accelerator = Accelerator(mixed_precision=precision)
        work: dict[str, Callable[[], object]] = {
            name: TheirLoop(source, files, loop, batch_size=batch_size, accelerator=accelerator).step
            for name, loop in LOOPS.items()
        }
        for name, (mode, is_whole) in COMPILED.items():
            work[name] = our_step(
                model, folder / "pictures", batch_size=batch_size, size_px=size_px, folder=folder / name,
                precision=precision, mode=mode, is_whole=is_whole,
            )  # fmt: skip
        clock = make_clock(accelerator.device)
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for turn in range(turns + WARM_UP):
            for name, step in work.items():
                taken, _ = timed(step, clock)
                if turn >= WARM_UP:
                    seconds[name].append(taken)
    return {
        name: {"seconds": spread(taken), "times_ours": spread(ratios(taken, seconds[OURS]))}
        for name, taken in seconds.items()
    }


def as_text(found: dict[str, dict[str, Spread]], *, batch_size: int) -> str:
    lines = ["| loop | samples/s | times as long as ours |", "|---|---|---|"]
    for name, each in found.items():
        times = each["times_ours"]
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
        "--precision", choices=("no", "bf16"), default="bf16" if torch.accelerator.is_available() else "no",
        help="mixed precision of all loops (default: bf16, on a CPU no)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="write every number here")
    given = parser.parse_args()
    sizes = {"batch_size": given.batch, "turns": given.turns, "pictures": given.pictures}
    found = measure(given.model, precision=given.precision, **sizes)
    print(as_text(found, batch_size=given.batch))
    if given.json is not None:
        report = {name: {key: asdict(value) for key, value in each.items()} for name, each in found.items()}
        given.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
