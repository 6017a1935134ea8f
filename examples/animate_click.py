"""Animate an image by a click: the part at a point moves as a phrase says, the rest stays.

python examples/animate_click.py --motion jump --out jump.mp4
python examples/animate_click.py cat.png --point 64 80 --motion 旋转 --out turn.gif
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

import dianjing
from dianjing import ImageToVideoPipeline, Point, Region, TextToImagePipeline
from dianjing.pipelines.media.image import get_input_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import get_video_metadata, save_video
from dianjing.pipelines.segmentation.base import get_region_metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", type=Path, help="default: a generated image")
    parser.add_argument("--point", type=float, nargs=2, metavar=("X", "Y"), help="in px; default: the center")
    parser.add_argument("--motion", default="jump")
    parser.add_argument("--strength", type=float, default=0.7, help="from 0 to 1")
    parser.add_argument("--out", type=Path, default=Path("animation.mp4"), help=".mp4, .webp, .gif or .png")
    arguments = parser.parse_args()

    if arguments.image is None:
        text_to_image = TextToImagePipeline.from_pretrained("sticker")
        image = text_to_image("a cat on the grass", generator=torch.Generator().manual_seed(0)).images[0]
    else:
        image = Image.open(arguments.image).convert("RGB")
    x, y = arguments.point or (image.width / 2, image.height / 2)
    region = Region(points=[Point(x=x, y=y)], motion=arguments.motion, strength=arguments.strength)

    pipe = ImageToVideoPipeline.from_pretrained("sticker")
    output = pipe(image, [region], generator=torch.Generator().manual_seed(0), output_type="uint8")
    frames, fps = output.frames[0], pipe.config.default_fps
    settings = {
        **get_video_metadata(frames, fps),
        **get_sampling_metadata(pipe),
        "image": get_input_image_metadata(image),
        "regions": [get_region_metadata(region)],
    }
    metadata = GenerationMetadata(prompt="", seed=0, settings=settings, model="sticker", version=dianjing.__version__)
    print(*save_video(frames, arguments.out, metadata, fps=fps, producer="Dianjing"))


if __name__ == "__main__":
    main()
