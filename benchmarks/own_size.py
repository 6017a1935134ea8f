"""A photograph in motion at its own size: the time and the memory of 24 frames of 1600 x 900.

    python -m benchmarks.own_size --out report

The photograph is the coffee cup of scikit-image (public domain), enlarged and cropped. Every case runs in a process of
its own, whose peak memory counts whole; a short film of the photograph before it is the warm-up. The bounds that
`seconds_left` and `gib_left` are left of: 15 s and 1.5 GiB.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT, NUM_FRAMES = 1600, 900, 24
MAX_SECONDS, MAX_GIB = 15.0, 1.5
CASES: dict[str, dict[str, Any]] = {
    "phrase": {"motion": "spin", "strength": 0.3},
    "path": {"path": [(800, 450), (1000, 300), (1200, 500)], "turn": 45},
}


def load_photograph() -> np.ndarray:
    """The photograph, uint8 (HEIGHT, WIDTH, 3)."""
    from skimage import data

    photograph = Image.fromarray(data.coffee())
    height = round(photograph.height * WIDTH / photograph.width)
    top = (height - HEIGHT) // 2
    return np.asarray(photograph.resize((WIDTH, height)).crop((0, top, WIDTH, top + HEIGHT)))


def measure(case: str) -> dict[str, float]:
    """Seconds of the film in this process, and GiB at its peak."""
    from dianjing import ImageToVideoPipeline, Point, Region

    pipe = ImageToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    image, point = load_photograph(), Point(x=WIDTH / 2, y=HEIGHT / 2)
    regions = [Region(points=[point], **CASES[case])]
    list(pipe.warp(image, regions, num_frames=2).frames)
    start = time.perf_counter()
    frames = list(pipe.warp(image, regions, num_frames=NUM_FRAMES).frames)
    seconds = time.perf_counter() - start
    assert len(frames) == NUM_FRAMES
    assert frames[0].shape == image.shape
    return {"seconds": seconds, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def run_cases() -> dict[str, Any]:
    """All cases, each in a new process, and what is left of the bounds."""
    report: dict[str, Any] = {}
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.own_size", "--case", case]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        report[case] = json.loads(printed[printed.index("{") :])
    worst = {name: max(report[case][name] for case in CASES) for name in ("seconds", "peak_gib")}
    return report | {"seconds_left": MAX_SECONDS - worst["seconds"], "gib_left": MAX_GIB - worst["peak_gib"]}


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--case", choices=list(CASES), help="measure one case in this process, and print it")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for report.json (default: report)")
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(arguments.case)))
        return
    report = run_cases()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    _main()
