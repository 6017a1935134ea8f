"""Generate a batch of images with one seed each, write them with their metadata, and generate one of them again.

python examples/batch_with_seeds.py "a cat on the grass" --count 4 --out images
"""

import argparse
from pathlib import Path

import torch
from diffusers.utils import make_image_grid

import dianjing
from dianjing import TextToImagePipeline
from dianjing.pipelines.media.aigc_label import make_image_label
from dianjing.pipelines.media.image import read_image_metadata, save_image
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="a cat on the grass")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("images"))
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)

    pipe = TextToImagePipeline.from_pretrained("sticker")
    # a seed gives the same image in any batch
    generators = [torch.Generator().manual_seed(seed) for seed in range(arguments.count)]
    images = pipe(arguments.prompt, num_images_per_prompt=arguments.count, generator=generators).images
    for seed, image in enumerate(images):
        metadata = GenerationMetadata(
            prompt=arguments.prompt,
            seed=seed,
            settings={"width": image.width, "height": image.height, **get_sampling_metadata(pipe)},
            model="sticker",
            version=dianjing.__version__,
        )
        label = make_image_label(image, metadata, producer="Dianjing")  # the implicit label of GB 45438
        save_image(image, arguments.out / f"{seed}.png", metadata, label=label)
    make_image_grid(images, rows=1, cols=arguments.count).save(arguments.out / "grid.png")

    metadata = read_image_metadata(arguments.out / "0.png")
    names = ["width", "height"]
    if "default_adapter" not in metadata.settings:  # which brings its own steps and guidance
        names += ["num_inference_steps", "guidance_scale"]
    settings = {name: metadata.settings[name] for name in names}
    again = pipe(metadata.prompt, generator=torch.Generator().manual_seed(metadata.seed), **settings).images[0]
    again.save(arguments.out / "again.png")
    print(arguments.out)


if __name__ == "__main__":
    main()
