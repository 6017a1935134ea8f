"""Make the embedded bundle again, from nothing: autoencoder, text encoders and DiT, figures, model card.

python -m dianjing.train.recipes.sticker --processes 2   # everything; hours on two cores, resumable
python -m dianjing.train.recipes.sticker --only bundle   # from the last export to weights/sticker
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from dianjing.pipelines.motions import FILE_NAME as MOTIONS_FILE
from dianjing.pipelines.motions import Motion, Motions
from dianjing.pipelines.names import FILE_NAME as NAMES_FILE
from dianjing.pipelines.own_segmenting import FOLDER as SEGMENTER_FOLDER
from dianjing.train.recipes.card import Seen, samples_seen, write_card
from dianjing.train.stickers import Stage, World
from dianjing.train.stickers.captions import motion_vocabulary, names, vocabulary
from dianjing.train.stickers.clips import Move
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.scenes import CANVAS_PX
from dianjing.weights.sums import write_sums

RECIPES = Path(__file__).parent
INFERENCE_STEPS, GUIDANCE_SCALE = 30, 4.0
FILM_STEPS, FILM_GUIDANCE_SCALE = 10, 1.0  # of frames that go on from a given one
MOTIONS_PX = 64  # of the pictures that motions are measured on; speeds are in picture sides
NUM_FRAMES, FPS = 9, 8.0  # of a clip, as in sticker_film.toml: a second, and the frame it ends with


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of the trainer: its recipe, its folder, and the folder of the run that it goes on from."""

    recipe: str
    folder: str
    after: str | None = None


AUTOENCODER = "sticker-vae"
SEGMENTER = "sticker-segmenter"
OF_FILM = ("field", "film")
MEASURED = ("report.json", "grid.png", "clips.json", "clips.png", "README.md")  # in the bundle, but of no export
TRAININGS = {
    "autoencoder": Training(recipe="sticker_vae.toml", folder=AUTOENCODER),
    "text_to_image": Training(recipe="sticker_dit.toml", folder="sticker-dit"),
    "refine": Training(recipe="sticker_refine.toml", folder="sticker-refine", after="sticker-dit"),
    "tidy": Training(recipe="sticker_tidy.toml", folder="sticker-tidy", after="sticker-refine"),
    "segmenter": Training(recipe="sticker_segmenter.toml", folder=SEGMENTER),
    "field": Training(recipe="sticker_field.toml", folder="sticker-field", after="sticker-tidy"),
    "film": Training(recipe="sticker_film.toml", folder="sticker-film", after="sticker-field"),
}


def run_training(training: Training, runs: Path, *, processes: int) -> None:
    """One process, or several: on a CPU each then has one thread, and they scale where threads do not."""
    settings = {"run.folder": runs / training.folder}
    if training.folder not in (AUTOENCODER, SEGMENTER):
        settings["model.vae"] = runs / AUTOENCODER / "export" / "vae"
    if training.after is not None:
        settings["model.start_from"] = runs / training.after / "export"
    command = [sys.executable, "-m", "dianjing.train", str(RECIPES / training.recipe)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environment = dict(os.environ)
    if processes > 1:
        command[1:2] = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m"]
        if not torch.cuda.is_available():
            environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, check=True, env=environment)


def taught_motions(*, size_px: int) -> Motions:
    """The motions of the sticker world, each with its usual speed at full strength and its reach."""
    world = World(size_px=size_px, stages=[Stage(kinds={"single": 1.0}, snap_px=(16,), sized=0.0)])
    clips = [world.click(0, position, num_frames=NUM_FRAMES, fps=FPS) for position in range(24)]
    taught = []
    for index, motion in enumerate(MOTIONS):
        full = Move(motion=index, amplitude=1.0)
        speed = median(replace(clip, moves=(full,) * len(clip.moves)).strengths[0] for clip in clips)
        zh, en = motion.phrasings
        poses = [motion.pose(t / 16, 1.0) for t in range(17)]
        sides = [max(way) / CANVAS_PX for way in zip(*((-p.dx, -p.dy, p.dx, p.dy) for p in poses), strict=True)]
        left, up, right, down = (round(side, 4) + 0.0 for side in sides)
        taught.append(
            Motion(name=motion.name, phrases=(*zh, *en), speed=round(speed, 4), reach=(left, up, right, down))
        )
    return Motions(tuple(taught))


def build_bundle(export: Path, bundle: Path, *, segmenter: Path | None = None) -> None:
    """Copy an export into the package with its lexicon, names, defaults and checksums; a segmenter goes along."""
    for old in [path for path in bundle.glob("*") if path.name not in MEASURED]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(export, bundle, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))  # it has its own
    if segmenter is not None:
        shutil.copytree(segmenter, bundle / segmenter.name)
    for config_path in bundle.glob("*/config.json"):  # diffusers and transformers note where a part was loaded from
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    transformer = json.loads((bundle / "transformer" / "config.json").read_text(encoding="utf-8"))
    defaults: dict[str, float] = {
        "default_num_inference_steps": INFERENCE_STEPS, "default_guidance_scale": GUIDANCE_SCALE,
    }  # fmt: skip
    words = vocabulary()
    if transformer.get("use_motion_blocks"):
        defaults |= {"default_num_frames": NUM_FRAMES, "default_fps": FPS}
        defaults |= {"default_film_steps": FILM_STEPS, "default_film_guidance_scale": FILM_GUIDANCE_SCALE}
        words = {language: sorted({*words[language], *moving}) for language, moving in motion_vocabulary().items()}
        taught_motions(size_px=MOTIONS_PX).save(bundle / MOTIONS_FILE)
    index_path = bundle / "model_index.json"
    index = json.loads(index_path.read_text(encoding="utf-8")) | defaults
    index_path.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    lexicon = json.dumps(words, ensure_ascii=False, indent=0)
    (bundle / "lexicon.json").write_text(lexicon + "\n", encoding="utf-8")
    names().save(bundle / NAMES_FILE)
    write_sums(bundle)


def seen_in(runs: Path, trainings: Mapping[str, Training]) -> Seen:
    seen = {name: samples_seen(runs / each.folder) for name, each in trainings.items()}
    clips = sum(seen.pop(name, 0) for name in OF_FILM)
    seen.pop("segmenter", None)
    return Seen(autoencoder=seen.pop("autoencoder"), pictures=sum(seen.values()), clips=clips)


def evaluate(module: str, bundle: Path, *, count: int, processes: int) -> None:
    command = [sys.executable, "-m", f"dianjing.train.{module}", "--model", str(bundle), "--out", str(bundle)]
    subprocess.run([*command, "--count", str(count), "--processes", str(processes)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.recipes.sticker", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", metavar="STEP", help="do one step, not all of them")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--bundle", type=Path, default=Path("weights/sticker"))
    parser.add_argument("--count", type=int, default=200, help="evaluation prompts a category and language")
    parser.add_argument("--processes", type=int, default=1, help="training processes: GPUs, or cores of a CPU")
    given = parser.parse_args()
    steps = (*TRAININGS, "bundle", "evaluate")
    if given.only is not None and given.only not in steps:
        parser.error(f"--only {given.only}; the steps are {', '.join(steps)}")
    for step in steps if given.only is None else (given.only,):
        if step in TRAININGS:
            run_training(TRAININGS[step], given.runs, processes=given.processes)
        elif step == "bundle":
            segmenter = given.runs / SEGMENTER / "export" / SEGMENTER_FOLDER
            build_bundle(given.runs / list(TRAININGS.values())[-1].folder / "export", given.bundle, segmenter=segmenter)
        elif step == "evaluate":
            evaluate("evaluate", given.bundle, count=given.count, processes=given.processes)
            evaluate("evaluate_clips", given.bundle, count=given.count // 2, processes=given.processes)
            measured = json.loads((given.runs / AUTOENCODER / "export" / "vae" / "measured.json").read_text())
            write_card(given.bundle, seen=seen_in(given.runs, TRAININGS), psnr_db=measured["psnr_db"])
            write_sums(given.bundle)


if __name__ == "__main__":
    main()
