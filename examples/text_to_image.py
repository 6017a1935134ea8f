"""Generate one image from a prompt in Chinese or English.

python examples/text_to_image.py "草地上的一只小猫" --out cat.png
"""

import argparse

import torch

from dianjing import TextToImagePipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="草地上的一只小猫")
    parser.add_argument("--model", default="sticker", help="a registry name, a folder or a Hub id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="image.png")
    arguments = parser.parse_args()

    pipe = TextToImagePipeline.from_pretrained(arguments.model)
    generator = torch.Generator().manual_seed(arguments.seed)
    image = pipe(arguments.prompt, generator=generator).images[0]
    image.save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
