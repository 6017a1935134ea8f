"""Time and memory of videos: a video compared with as many images, an animation, and long videos.

    python -m benchmarks.video --model sticker

Videos and images are compared by one prediction of the transformer, the only difference between their steps. A model
without motion blocks is given zero-initialised ones, which take as long as trained ones. Each long video is generated
in its own process, so that its peak memory is known.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import Quantiles, compute_quantiles, compute_ratios, time_call
from dianjing import DiT, ImageToVideoPipeline, Region, TextToImagePipeline, TextToVideoPipeline
from dianjing.dit import Conditioning
from dianjing.pipelines.video.windows import make_joint_windows

NUM_FRAMES = 16
PREDICTIONS_PER_ROUND = 20  # timed together
DURATIONS_S = (2, 4, 8, 16)
PROMPT, MOTION = "草地上的一只小猫在旋转", "jump"  # a rotation changes every frame equally
NUM_REGIONS = 3  # max_regions of the motion blocks that are added to an image model
COMPONENT_NAMES = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler", "text_encoder_2", "tokenizer_2")


def load_pipelines(model: str) -> tuple[TextToImagePipeline, TextToVideoPipeline, ImageToVideoPipeline]:
    """Load the pipelines for images, videos and animations over the same components."""
    image_pipe: Any = TextToImagePipeline.from_pretrained(model)
    components = {name: getattr(image_pipe, name) for name in COMPONENT_NAMES}
    classes = (TextToVideoPipeline, ImageToVideoPipeline)
    if components["transformer"].config.use_motion_blocks:
        video_pipes = [cls.from_pretrained(model, **components) for cls in classes]
    else:
        config = {**components["transformer"].config, "use_motion_blocks": True, "max_regions": NUM_REGIONS}
        transformer = DiT(**config)
        transformer.load_state_dict(components["transformer"].state_dict(), strict=False)
        components["transformer"] = transformer
        defaults = {name: value for name, value in image_pipe.config.items() if name.startswith("default_")}
        video_pipes = [cls(**components, **defaults) for cls in classes]
    pipes: Any = (image_pipe, *video_pipes)
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    return pipes


def make_predictions(transformer: DiT, *, num_frames: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return functions that predict once: a batch of `num_frames` images, and a video of `num_frames` frames."""
    config, generator = transformer.config, torch.Generator().manual_seed(0)
    side = config.sample_size
    latents = torch.randn(1, config.in_channels, num_frames, side, side, generator=generator)
    inputs = {}
    for suffix in ("", "_t5"):
        length, width = config[f"text_len{suffix}"], config[f"cross_attention_dim{suffix}"]
        inputs[f"encoder_hidden_states{suffix}"] = torch.randn(1, length, width, generator=generator)
        inputs[f"text_embedding_mask{suffix}"] = torch.ones(1, length, dtype=torch.long)
    if config.use_style_cond_and_image_meta_size:
        inputs |= {"image_meta_size": torch.full((1, 6), 1024.0), "style": torch.zeros(1, dtype=torch.long)}
    latent_size = (side, side)
    timesteps = torch.tensor([500.0])
    with torch.no_grad():
        video = transformer.compute_conditioning(timesteps, **inputs, latent_size=latent_size, num_frames=num_frames)
        repeated = {name: tensor.repeat_interleave(num_frames, dim=0) for name, tensor in inputs.items()}
        images = transformer.compute_conditioning(timesteps, **repeated, latent_size=latent_size)
    image_latents = latents[0].transpose(0, 1).contiguous()

    def predict(latents: torch.Tensor, conditioning: Conditioning) -> object:
        with torch.no_grad():
            return transformer(latents, conditioning=conditioning.select_step(0))

    return partial(predict, image_latents, images), partial(predict, latents, video)


def measure_steps(model: str, *, pairs: int) -> dict[str, Quantiles]:
    """Return seconds of predictions, a video and an animation, and the ratio of a video's prediction to its images'."""
    _, video_pipe, animation_pipe = load_pipelines(model)
    side = animation_pipe.default_size_px
    image = np.full((side, side, 3), 255, np.uint8)
    mask = np.zeros((side, side), bool)
    image[side // 4 : side // 2, side // 4 : side // 2] = (200, 40, 40)
    mask[side // 4 : side // 2, side // 4 : side // 2] = True
    predict_images, predict_video = make_predictions(
        animation_pipe.transformer, num_frames=animation_pipe.config.default_num_frames
    )
    regions = [Region(motion=MOTION, mask=mask)]
    functions = {
        "image_step": predict_images,
        "video_step": predict_video,
        "video": lambda: video_pipe(PROMPT, num_frames=NUM_FRAMES, output_type="latent"),
        "animation": lambda: animation_pipe(image, regions, num_frames=NUM_FRAMES, output_type="uint8"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_index in range(pairs + 1):
        for name, function in functions.items():
            repeats = PREDICTIONS_PER_ROUND if name.endswith("_step") else 1
            elapsed_s = sum(time_call(function, time.perf_counter)[0] for _ in range(repeats)) / repeats
            if round_index:  # the first round warms up
                seconds[name].append(elapsed_s)
    results = {f"{name}_s": compute_quantiles(values) for name, values in seconds.items()}
    return results | {
        "video_to_images": compute_quantiles(compute_ratios(seconds["video_step"], seconds["image_step"]))
    }


def measure_duration(model: str, *, duration_s: float, long_video: str) -> dict[str, float]:
    """Generate a video in this process; return its seconds, the peak memory before and after it, and its borders.

    window_border_change: mean change from frame to frame where windows meet, relative to elsewhere.
    """
    _, pipe, _ = load_pipelines(model)
    settings: dict[str, Any] = {"output_type": "uint8", "long_video": long_video}
    pipe(PROMPT, num_frames=2, generator=torch.Generator().manual_seed(0), **settings)
    peak_before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.perf_counter()
    frames = pipe(PROMPT, duration_s=duration_s, generator=torch.Generator().manual_seed(0), **settings).frames[0]
    elapsed_s = time.perf_counter() - start_s
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    borders = _find_window_borders(len(frames), pipe, long_video)
    inside = np.delete(change, borders).mean() if len(borders) < len(change) else 0.0
    return {
        "duration_s": duration_s,
        "num_frames": len(frames),
        "seconds": elapsed_s,
        "peak_mib": peak_kib / 1024,
        "peak_before_mib": peak_before_kib / 1024,
        "window_border_change": float(change[borders].mean() / inside) if borders and inside else 1.0,
    }


def _find_window_borders(num_frames: int, pipe: TextToVideoPipeline, long_video: str) -> list[int]:
    """Return the indices of the frame changes between the windows of the last step."""
    window = pipe.config.default_num_frames
    if long_video == "autoregressive":
        return list(range(window - 1, num_frames - 1, window - 1))
    last = pipe.config.default_num_inference_steps - 1
    return [part.stop - 1 for part in make_joint_windows(num_frames, window_size=window, step=last)][:-1]


def measure_durations(model: str, *, long_video: str) -> list[dict[str, float]]:
    """Run `measure_duration` for each of DURATIONS_S, each in its own process."""
    command = [sys.executable, "-m", "benchmarks.video", "--model", model, "--long-video", long_video]
    results = []
    for duration_s in DURATIONS_S:
        completed = subprocess.run(
            [*command, "--duration", str(duration_s)], check=True, stdout=subprocess.PIPE, text=True
        )
        results.append(json.loads(completed.stdout.splitlines()[-1]))
    return results


def format_video_results(frames: dict[str, Quantiles], durations: Sequence[dict[str, float]]) -> str:
    """Format the results as text, with a Markdown table of the durations."""
    first = durations[0]
    lines = [
        f"{name}: {each.median:.3g} ({each.quartile_1:.3g} to {each.quartile_3:.3g})" for name, each in frames.items()
    ]
    lines += [
        "",
        "| video | seconds | relative to linear | peak MiB | relative to the shortest | change at window borders |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for each in durations:
        linear = each["seconds"] / (first["seconds"] * each["num_frames"] / first["num_frames"])
        lines.append(
            f"| {each['duration_s']:g} s | {each['seconds']:.1f} | {linear:.2f} | {each['peak_mib']:.0f} | "
            f"{each['peak_mib'] / first['peak_mib']:.2f} | {each['window_border_change']:.2f} |"
        )
    return "\n".join(lines)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--pairs", type=int, default=7, help="rounds of all that is timed (default 7)")
    parser.add_argument("--long-video", choices=("joint", "autoregressive"), default="joint")
    parser.add_argument("--duration", type=float, help="measure one video of so many seconds, as JSON")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    if arguments.duration is not None:
        print(
            json.dumps(
                measure_duration(arguments.model, duration_s=arguments.duration, long_video=arguments.long_video)
            )
        )
        return
    frames = measure_steps(arguments.model, pairs=arguments.pairs)
    durations = measure_durations(arguments.model, long_video=arguments.long_video)
    print(format_video_results(frames, durations))
    if arguments.json is not None:
        report = {"frames": {name: asdict(each) for name, each in frames.items()}, "durations": durations}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
