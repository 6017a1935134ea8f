"""Generate a video from a prompt with a motion in it; a long one is generated window by window.

python examples/text_to_video.py "草地上的一只小猫在旋转" --seconds 4 --out cat.mp4
"""

import argparse
from pathlib import Path

import torch

import dianjing
from dianjing import TextToVideoPipeline
from dianjing.pipelines.media.metadata import GenerationMetadata, get_sampling_metadata
from dianjing.pipelines.media.video import get_video_metadata, save_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="草地上的一只小猫在旋转")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("video.mp4"), help=".mp4, .webp, .gif or .png")
    arguments = parser.parse_args()

    pipe = TextToVideoPipeline.from_pretrained("sticker")
    output = pipe(
        arguments.prompt,
        duration_s=arguments.seconds,
        generator=torch.Generator().manual_seed(arguments.seed),
        output_type="uint8",
    )
    frames, fps = output.frames[0], pipe.config.default_fps  # uint8 (F, H, W, 3)
    metadata = GenerationMetadata(
        prompt=arguments.prompt,
        seed=arguments.seed,
        settings={**get_video_metadata(frames, fps), **get_sampling_metadata(pipe)},
        model="sticker",
        version=dianjing.__version__,
    )
    print(*save_video(frames, arguments.out, metadata, fps=fps, producer="Dianjing"))


if __name__ == "__main__":
    main()
