"""How long films take and what memory: frames against pictures, a click, and long films against short ones.

Frames and pictures are compared by one prediction of the transformer, which is all that differs between their steps.

    python -m benchmarks.video --model sticker

A model for pictures is given motion blocks that do nothing: they take the time of trained ones. Long films are drawn in
processes of their own, so that the peak of each one's memory is known.
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
from dianjing.pipelines.video.windows import make_windows

NUM_FRAMES = 16
PREDICTIONS_PER_ROUND = 20  # predictions that are timed together
DURATIONS_S = (2, 4, 8, 16)
PROMPT, MOTION = "草地上的一只小猫在旋转", "jump"  # what spins changes as much from every frame to the next
NUM_REGIONS = 3  # of motion blocks made up for a picture model
COMPONENT_NAMES = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler", "text_encoder_2", "tokenizer_2")


def load_pipelines(model: str) -> tuple[TextToImagePipeline, TextToVideoPipeline, ImageToVideoPipeline]:
    """All three pipelines over the same parts."""
    pictures: Any = TextToImagePipeline.from_pretrained(model)
    parts = {name: getattr(pictures, name) for name in COMPONENT_NAMES}
    if parts["transformer"].config.use_motion_blocks:
        films = [kind.from_pretrained(model, **parts) for kind in (TextToVideoPipeline, ImageToVideoPipeline)]
    else:
        film = DiT(**{**parts["transformer"].config, "use_motion_blocks": True, "max_regions": NUM_REGIONS})
        film.load_state_dict(parts["transformer"].state_dict(), strict=False)
        parts["transformer"] = film
        defaults = {name: value for name, value in pictures.config.items() if name.startswith("default_")}
        films = [kind(**parts, **defaults) for kind in (TextToVideoPipeline, ImageToVideoPipeline)]
    pipes: Any = (pictures, *films)
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    return pipes


def make_predictions(transformer: DiT, *, num_frames: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """One prediction of that many pictures, and of a film of as many frames."""
    config, draw = transformer.config, torch.Generator().manual_seed(0)
    side = config.sample_size
    latents = torch.randn(1, config.in_channels, num_frames, side, side, generator=draw)
    texts = {}
    for suffix in ("", "_t5"):
        length, width = config[f"text_len{suffix}"], config[f"cross_attention_dim{suffix}"]
        texts[f"encoder_hidden_states{suffix}"] = torch.randn(1, length, width, generator=draw)
        texts[f"text_embedding_mask{suffix}"] = torch.ones(1, length, dtype=torch.long)
    if config.use_style_cond_and_image_meta_size:
        texts |= {"image_meta_size": torch.full((1, 6), 1024.0), "style": torch.zeros(1, dtype=torch.long)}
    sizes: dict[str, Any] = {"latent_size": (side, side)}
    timesteps = torch.tensor([500.0])
    with torch.no_grad():
        film = transformer.compute_conditioning(timesteps, **texts, **sizes, num_frames=num_frames)
        each = {name: tensor.repeat_interleave(num_frames, dim=0) for name, tensor in texts.items()}
        pictures = transformer.compute_conditioning(timesteps, **each, **sizes)
    apart = latents[0].transpose(0, 1).contiguous()

    def predict(inputs: torch.Tensor, condition: Conditioning) -> object:
        with torch.no_grad():
            return transformer(inputs, condition=condition.select_step(0))

    return partial(predict, apart, pictures), partial(predict, latents, film)


def measure_steps(model: str, *, pairs: int) -> dict[str, Quantiles]:
    """How many times as long a film's prediction takes as that of as many pictures; seconds of a film, and a click."""
    _, words, clicks = load_pipelines(model)
    side = clicks.transformer.config.sample_size * clicks.vae_scale_factor
    picture = np.full((side, side, 3), 255, np.uint8)
    mask = np.zeros((side, side), bool)
    picture[side // 4 : side // 2, side // 4 : side // 2] = (200, 40, 40)
    mask[side // 4 : side // 2, side // 4 : side // 2] = True
    of_pictures, of_film = make_predictions(clicks.transformer, num_frames=clicks.config.default_num_frames)
    work = {
        "image_step": of_pictures,
        "video_step": of_film,
        "video": lambda: words(PROMPT, num_frames=NUM_FRAMES, output_type="latent"),
        "animation": lambda: clicks(
            picture, [Region(motion=MOTION, mask=mask)], num_frames=NUM_FRAMES, output_type="uint8"
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(pairs + 1):
        for name, call in work.items():
            repeats = PREDICTIONS_PER_ROUND if name.endswith("_step") else 1
            taken = sum(time_call(call, time.perf_counter)[0] for _ in range(repeats)) / repeats
            if turn:  # the first one warms up
                seconds[name].append(taken)
    found = {f"{name}_s": compute_quantiles(taken) for name, taken in seconds.items()}
    return found | {"video_to_images": compute_quantiles(compute_ratios(seconds["video_step"], seconds["image_step"]))}


def measure_duration(model: str, *, duration_s: float, long_video: str) -> dict[str, float]:
    """A film in this process: its seconds, the peak of memory before and after it, and its seams.

    seams: the mean change between frames where windows meet, against elsewhere.
    """
    _, words, _ = load_pipelines(model)
    settings: dict[str, Any] = {"output_type": "uint8", "long_video": long_video}
    words(PROMPT, num_frames=2, generator=torch.Generator().manual_seed(0), **settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    frames = words(PROMPT, duration_s=duration_s, generator=torch.Generator().manual_seed(0), **settings).frames[0]
    taken = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    borders = _find_window_borders(len(frames), words, long_video)
    inside = np.delete(change, borders).mean() if len(borders) < len(change) else 0.0
    return {
        "duration_s": duration_s,
        "num_frames": len(frames),
        "seconds": taken,
        "peak_mib": after / 1024,
        "peak_before_mib": before / 1024,
        "window_border_change": float(change[borders].mean() / inside) if borders and inside else 1.0,
    }


def _find_window_borders(num_frames: int, pipe: TextToVideoPipeline, long_video: str) -> list[int]:
    """Changes from one frame to the next across the windows of the last step."""
    window = pipe.config.default_num_frames
    if long_video == "autoregressive":
        return list(range(window - 1, num_frames - 1, window - 1))
    last = pipe.config.default_num_inference_steps - 1
    return [part.stop - 1 for part in make_windows(num_frames, window_size=window, step=last)][:-1]


def measure_durations(model: str, *, long_video: str) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.video", "--model", model, "--long-video", long_video]
    found = []
    for duration_s in DURATIONS_S:
        done = subprocess.run([*command, "--duration", str(duration_s)], check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def format_video_results(frames: dict[str, Quantiles], durations: Sequence[dict[str, float]]) -> str:
    first = durations[0]
    lines = [
        f"{name}: {each.median:.3g} ({each.quartile_1:.3g} to {each.quartile_3:.3g})" for name, each in frames.items()
    ]
    lines += ["", "| film | seconds | against linear | peak MiB | against the shortest | change at seams |"]
    lines += ["|---|---|---|---|---|---|"]
    for each in durations:
        linear = each["seconds"] / (first["seconds"] * each["num_frames"] / first["num_frames"])
        lines.append(
            f"| {each['duration_s']:g} s | {each['seconds']:.1f} | {linear:.2f} | {each['peak_mib']:.0f} | "
            f"{each['peak_mib'] / first['peak_mib']:.2f} | {each['seams']:.2f} |"
        )
    return "\n".join(lines)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id")
    parser.add_argument("--pairs", type=int, default=7, help="turns of all that is timed (default 7)")
    parser.add_argument("--long-video", choices=("joint", "autoregressive"), default="joint")
    parser.add_argument("--duration", type=float, help="measure one film of so many seconds, as JSON")
    parser.add_argument("--json", type=Path, help="write every number here")
    given = parser.parse_args()
    if given.duration is not None:
        print(json.dumps(measure_duration(given.model, duration_s=given.duration, long_video=given.long_film)))
        return
    frames = measure_steps(given.model, pairs=given.pairs)
    lengths = measure_durations(given.model, long_video=given.long_film)
    print(format_video_results(frames, lengths))
    if given.json is not None:
        report = {"frames": {name: asdict(each) for name, each in frames.items()}, "durations": lengths}
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
