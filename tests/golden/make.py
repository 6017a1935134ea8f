"""Write the golden files anew: `OMP_NUM_THREADS=1 python -m tests.golden.make [CASE ...]`, from the repository's root.

They are made once, before names change, and stay as they are until the renaming is done.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.golden import transformer
from tests.golden.cases import CASES, FINGERPRINT, MADE
from tests.golden.machine import fingerprint, settled
from tests.golden.results import array, save
from tests.golden.trainings import GOLDEN

CAPTIONS = ("草地上的一只小猫", "海上的红色气球", "a small cat on the grass", "a Red balloon at sea")


def make_inputs(folder: Path) -> None:
    """Inputs that are not there yet: tensors, a scene to click on, line art, and pictures to fine-tune on."""
    if not transformer.INPUTS.exists():
        save(transformer.INPUTS, {name: array(tensor) for name, tensor in transformer.make_inputs().items()})
    if not (folder / "scene.png").exists():
        scene = Image.new("RGB", (64, 64), (180, 220, 250))
        pen = ImageDraw.Draw(scene)
        pen.rectangle((0, 50, 63, 63), fill=(120, 190, 90))
        pen.ellipse((6, 24, 27, 46), fill=(230, 120, 40))
        pen.polygon([(48, 20), (36, 50), (60, 50)], fill=(40, 120, 60))
        scene.save(folder / "scene.png")
    if not (folder / "lines.png").exists():
        lines = Image.new("RGB", (64, 64))
        ImageDraw.Draw(lines).ellipse((10, 10, 40, 50), outline="white", width=2)
        lines.save(folder / "lines.png")
    for index in range(6):
        path = folder / "pictures" / f"{index}.png"
        if not path.exists():
            width = 32 if index < 4 else 60
            levels = np.random.default_rng(index).integers(0, 256, (8, width // 4, 3), dtype=np.uint8)
            Image.fromarray(levels).resize((width, 32), Image.Resampling.BICUBIC).save(path)
            path.with_suffix(".txt").write_text(CAPTIONS[index % 4] + "\n", encoding="utf-8")


def main(names: list[str]) -> None:
    MADE.mkdir(exist_ok=True)
    make_inputs(GOLDEN / "inputs")
    with tempfile.TemporaryDirectory() as root:
        for name in names or CASES:
            began = time.perf_counter()
            with settled():
                save(MADE / f"{name}.npz", CASES[name](Path(root)))
            size_kb = (MADE / f"{name}.npz").stat().st_size / 1000
            print(f"{name}: {time.perf_counter() - began:.1f} s, {size_kb:.0f} kB", file=sys.stderr)
    with settled():
        facts = fingerprint()
    FINGERPRINT.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
