"""Generate an image with a LoRA adapter, such as the export of examples/fine_tune.py, and without it.

python examples/lora.py runs/example/export "a momo on the grass"
"""

import argparse
from pathlib import Path

import torch

from dianjing import TextToImagePipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="a folder or a .safetensors file")
    parser.add_argument("prompt", nargs="?", default="a cat on the grass")
    parser.add_argument("--scale", type=float, default=1.0, help="weight of the adapter")
    parser.add_argument("--out", type=Path, default=Path("."))
    arguments = parser.parse_args()

    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.load_lora_weights(arguments.adapter, adapter_name="style")
    pipe.set_adapters("style", arguments.scale)
    pipe(arguments.prompt, generator=torch.Generator().manual_seed(0)).images[0].save(arguments.out / "with_lora.png")

    pipe.unload_lora_weights()
    pipe(arguments.prompt, generator=torch.Generator().manual_seed(0)).images[0].save(
        arguments.out / "without_lora.png"
    )
    print(arguments.out / "with_lora.png")


if __name__ == "__main__":
    main()
