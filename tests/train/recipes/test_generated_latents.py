"""Latents that a model generates, as training data of a decoder."""

import random

import torch

from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.recipes.generated_latents import STAGE, generate_pairs, measure_object_distance
from dianjing.train.stickers import StickerWorld
from dianjing.weights.registry import STICKER_SIZE_PX

WORLD = StickerWorld(size_px=STICKER_SIZE_PX, stages=(STAGE,))


def test_only_differences_where_objects_are_count():
    sample = next(
        each
        for each in (WORLD.get_image_sample(0, position) for position in range(100))
        if len(each.scene.instances) == 1 and each.scene.instances[0].size_px == 48
    )
    box = sample.scene.instances[0]
    latents = torch.zeros(2, 8, 8)
    outside, inside = torch.ones(2, 8, 8), torch.zeros(2, 8, 8)
    rows, columns = (slice(edge // 16, (edge + 48) // 16) for edge in (box.y_px, box.x_px))
    outside[:, rows, columns], inside[:, rows, columns] = 0, 3
    assert measure_object_distance(outside, latents, sample) == 0
    assert measure_object_distance(inside, latents, sample) == 3


def test_generated_latents_are_decoded_to_about_their_image():
    """A latent and an image that belong to each other: nearer than to the images of the other pairs."""
    pipe = TextToImagePipeline.from_pretrained("sticker")
    samples = [WORLD.get_image_sample(1, position) for position in range(16)]
    pairs = generate_pairs(pipe, samples, rng=random.Random(0))
    assert 3 < len(pairs.latents) == len(pairs.images) <= 16
    with torch.no_grad():
        decoded = pipe.vae.decode(pairs.latents).sample
    images = pairs.images.permute(0, 3, 1, 2) / 127.5 - 1
    distances = (decoded[:, None] - images[None]).square().flatten(2).mean(dim=2)
    assert distances.argmin(dim=1).tolist() == list(range(len(images)))
