"""Latents that a model generates, each with the scene that it shows: what a decoder learns to clean.

    python -m dianjing.train.recipes.generated_latents runs/generated-latents.safetensors --count 10000

Scenes are those of training with canonical sizes and positions, and noise decides what their captions leave open, as in
training with `couple_choices`. Pairs whose objects differ from those of the scene are left out.

C latent channels, Y X latent positions.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dianjing.train.data.latent_pairs import LatentPairs, write_latent_pairs
from dianjing.train.diffusion.objectives import couple_noise
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.scenes import CANVAS_PX
from dianjing.train.stickers.world import StickerSample

STAGE = CurriculumStage(
    scene_weights={"single": 0.4, "count": 0.25, "pair": 0.3, "trio": 0.05},
    grid_px=(16,),
    coloured_share=0.4,
    sized_share=0.5,
    canonical_share=1.0,
)
BATCH_SIZE = 32
MAX_DISTANCE = 0.8  # of scaled latents where objects are: median 0.6, 1.4 and more between unrelated scenes


def measure_object_distance(generated: Tensor, expected: Tensor, sample: StickerSample) -> float:
    """Measure the root mean square difference of latents (C, Y, X) in the boxes of a scene's objects, the largest."""
    distances = []
    for each in sample.scene.instances:
        left, top, right, bottom = (
            round(edge * generated.shape[-1] / CANVAS_PX)
            for edge in (each.x_px, each.y_px, each.x_px + each.size_px, each.y_px + each.size_px)
        )
        difference = (generated - expected)[:, top:bottom, left:right]
        distances.append(difference.square().mean().sqrt().item())
    return max(distances)


@torch.no_grad()
def generate_pairs(pipe: Any, samples: list[StickerSample], *, rng: random.Random, **settings: Any) -> LatentPairs:
    """Generate latents for scenes; returns those that show their scene, with its image.

    pipe: a `TextToImagePipeline` of a model that was trained with `couple_choices`. settings: of its calls.
    """
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    pixels = images.permute(0, 3, 1, 2).to(pipe.device, torch.float32) / 127.5 - 1
    expected = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    noise = torch.randn(expected.shape, generator=torch.Generator().manual_seed(rng.getrandbits(48)))
    intervals = torch.tensor([sample.choice_intervals for sample in samples], dtype=torch.float64)
    generated = pipe(
        [rng.choice((sample.text_zh, sample.text_en)) for sample in samples],
        latents=couple_noise(noise, intervals),
        output_type="latent",
        **settings,
    ).images
    pairs = zip(generated, expected, samples, strict=True)
    fits = [measure_object_distance(*pair) <= MAX_DISTANCE for pair in pairs]
    masks = torch.from_numpy(np.stack([sample.masks.any(axis=0) for sample in samples]))
    return LatentPairs(generated[fits].cpu() / pipe.vae.config.scaling_factor, images[fits], masks[fits])


def write_generated_latents(path: Path, pipe: Any, *, count: int, seed: int, **settings: Any) -> None:
    """Generate latents for `count` scenes, and write the pairs that are kept to a safetensors file."""
    world = StickerWorld(size_px=pipe.default_size_px, split="train", stages=(STAGE,))
    rng, batches = random.Random(seed), []
    pipe.set_progress_bar_config(disable=True)
    for first in tqdm(range(0, count, BATCH_SIZE), unit="batch"):
        samples = [world.get_image_sample(seed, each) for each in range(first, min(first + BATCH_SIZE, count))]
        batches.append(generate_pairs(pipe, samples, rng=rng, **settings))
    pairs = LatentPairs(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    write_latent_pairs(path, pairs._replace(latents=pairs.latents.half()))
    print(f"{path}: {len(pairs.latents)} of {count} scenes")


def _main() -> None:
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=92)
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's)")
    arguments = parser.parse_args()
    pipe = TextToImagePipeline.from_pretrained(arguments.model)
    write_generated_latents(
        arguments.file,
        pipe,
        count=arguments.count,
        seed=arguments.seed,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
    )


if __name__ == "__main__":
    _main()
