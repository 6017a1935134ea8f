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
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from dianjing.pipelines.motions import FILE_NAME as MOTIONS_FILE
from dianjing.pipelines.motions import Motion, Motions
from dianjing.pipelines.names import FILE_NAME as NAMES_FILE
from dianjing.train.stickers import Stage, World
from dianjing.train.stickers.captions import motion_vocabulary, names, vocabulary
from dianjing.train.stickers.clips import Move
from dianjing.train.stickers.motions import MOTIONS
from dianjing.weights.sums import write_sums

RECIPES = Path(__file__).parent
INFERENCE_STEPS, GUIDANCE_SCALE = 30, 4.0
NUM_FRAMES, FPS = 9, 8.0  # of a clip, as in sticker_film.toml: a second, and the frame it ends with


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of the trainer: its recipe, its folder, and the folder of the run that it goes on from."""

    recipe: str
    folder: str
    after: str | None = None


AUTOENCODER = "sticker-vae"
TRAININGS = {
    "cpu": {
        "autoencoder": Training(recipe="sticker_vae.toml", folder=AUTOENCODER),
        "text_to_image": Training(recipe="sticker_dit.toml", folder="sticker-dit"),
        "refine": Training(recipe="sticker_refine.toml", folder="sticker-refine", after="sticker-dit"),
        "tidy": Training(recipe="sticker_tidy.toml", folder="sticker-tidy", after="sticker-refine"),
        "field": Training(recipe="sticker_field.toml", folder="sticker-field", after="sticker-tidy"),
        "film": Training(recipe="sticker_film.toml", folder="sticker-film", after="sticker-field"),
    },
    "gpu": {  # faster, and so needs no second one
        "autoencoder": Training(recipe="sticker_vae_gpu.toml", folder=AUTOENCODER),
        "text_to_image": Training(recipe="sticker_dit_gpu.toml", folder="sticker-dit"),
    },
}

CARD = """# sticker: the embedded model of Dianjing

A small bilingual (Chinese and English) text-to-image model in the Hunyuan-DiT arrangement: `BertModel` and
`T5EncoderModel`, trained jointly from scratch with their own tokenizers, `AutoencoderKL`, `DiT`. It draws emoji-like
objects in small scenes, {size_px} x {size_px} px. {parameters:.1f} M parameters, half precision.

## How it was made
By this repository's own trainer, from procedural pictures (`train/stickers/`) and nothing else:

    python -m dianjing.train.recipes.sticker

Every number is in `train/recipes/`. This bundle saw {samples:,} pictures with captions, after {vae_samples:,} for the
autoencoder, which gives back pictures it never saw at {psnr_db:.1f} dB.

## Figures
Prompts of combinations of object, background and place that training never shows, {count} for each row and language,
{inference_steps} steps, guidance {guidance_scale}; every picture is read back by matching against all sprites.
"Ceiling" is the truth itself, read by the same matcher.

    python -m dianjing.train.evaluate --model sticker --count {count}

| % right | Chinese | English | ceiling |
|---|---|---|---|
{rows}

![Held-out prompts: eight of each row above, Chinese then English](grid.png)

## Limits
It knows the words in `lexicon.json`: {objects} objects, ten colours for some of them, {backgrounds} backgrounds,
numbers up to four, places and relations. It names the words it does not know. Small objects
are the ones it most often gets wrong: about one in six of those that are asked for.

## Licence
Weights: Apache-2.0. The sprites it learned from are rendered from Noto Color Emoji (SIL OFL 1.1; artwork Apache-2.0);
the names follow Unicode CLDR. See NOTICE.
"""


def run_training(training: Training, runs: Path, *, processes: int) -> None:
    """One process, or several: on a CPU each then has one thread, and they scale where threads do not."""
    settings = {"run.folder": runs / training.folder}
    if training.folder != AUTOENCODER:
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
    """The motions of the sticker world, each with its usual speed at full strength."""
    world = World(size_px=size_px, stages=[Stage(kinds={"single": 1.0}, snap_px=(16,), sized=0.0)])
    clips = [world.click(0, position, num_frames=NUM_FRAMES, fps=FPS) for position in range(24)]
    taught = []
    for index, motion in enumerate(MOTIONS):
        full = Move(motion=index, amplitude=1.0)
        speed = median(replace(clip, moves=(full,) * len(clip.moves)).strengths[0] for clip in clips)
        phrases = (*motion.phrases_zh, *motion.phrases_en)
        taught.append(Motion(name=motion.name, phrases=phrases, speed=round(speed, 4)))
    return Motions(tuple(taught))


def build_bundle(export: Path, bundle: Path) -> None:
    """Copy an export into the package with its lexicon, names, defaults and checksums."""
    for old in [path for path in bundle.glob("*") if path.name not in ("report.json", "grid.png", "README.md")]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(export, bundle, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))  # it has its own
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
        words = {language: sorted({*words[language], *moving}) for language, moving in motion_vocabulary().items()}
        taught_motions(size_px=8 * transformer["sample_size"]).save(bundle / MOTIONS_FILE)
    index_path = bundle / "model_index.json"
    index = json.loads(index_path.read_text(encoding="utf-8")) | defaults
    index_path.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    lexicon = json.dumps(words, ensure_ascii=False, indent=0)
    (bundle / "lexicon.json").write_text(lexicon + "\n", encoding="utf-8")
    names().save(bundle / NAMES_FILE)
    write_sums(bundle)


def samples_seen(run: Path) -> int:
    """How many samples a run has trained on; of buckets of several sizes, by their shares."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    last = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    whole = config["run"]["batch_size"]
    buckets = config["data"].get("buckets") or [{"share": 1.0, "batch_size": None}]
    share = sum(bucket["share"] for bucket in buckets)
    mean = sum(bucket["share"] * (bucket["batch_size"] or whole) for bucket in buckets) / share
    return round(json.loads(last)["step"] * mean)


def write_card(bundle: Path, runs: Path, *, on: str = "cpu") -> None:
    """README.md of the bundle, from what was measured."""
    from dianjing.train.stickers.backgrounds import BACKGROUNDS
    from dianjing.train.stickers.objects import things

    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    names = [name for name, value in report.items() if isinstance(value, dict) and "ceiling" in value]
    rows = [
        f"| {name.replace('_', ' ')} | " + " | ".join(f"{100 * report[name][c]:.1f}" for c in ("zh", "en", "ceiling"))
        for name in names
    ]
    of_pictures = (each for name, each in TRAININGS[on].items() if name not in ("autoencoder", "field", "film"))
    samples = sum(samples_seen(runs / each.folder) for each in of_pictures)
    measured = json.loads((runs / AUTOENCODER / "export" / "vae" / "measured.json").read_text())
    sample_size = json.loads((bundle / "transformer" / "config.json").read_text())["sample_size"]
    weights = sum(path.stat().st_size for path in bundle.glob("*/*.safetensors"))
    card = CARD.format(
        size_px=8 * sample_size, parameters=weights / 2e6,
        samples=samples, vae_samples=samples_seen(runs / AUTOENCODER),
        psnr_db=measured["psnr_db"], count=report["prompts_a_language"]["single_object"],
        inference_steps=INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE, rows=" |\n".join(rows) + " |",
        objects=len(things()), backgrounds=len(BACKGROUNDS),
    )  # fmt: skip
    (bundle / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.recipes.sticker", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", metavar="STEP", help="do one step, not all of them")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--bundle", type=Path, default=Path("weights/sticker"))
    parser.add_argument("--count", type=int, default=200, help="evaluation prompts a category and language")
    parser.add_argument("--on", choices=("cpu", "gpu"), default="cpu", help="which pair of recipes (64 or 128 px)")
    parser.add_argument("--processes", type=int, default=1, help="training processes: GPUs, or cores of a CPU")
    given = parser.parse_args()
    trainings = TRAININGS[given.on]
    steps = (*trainings, "bundle", "evaluate")
    if given.only is not None and given.only not in steps:
        parser.error(f"--only {given.only} on a {given.on}; the steps are {', '.join(steps)}")
    for step in steps if given.only is None else (given.only,):
        if step in trainings:
            run_training(trainings[step], given.runs, processes=given.processes)
        elif step == "bundle":
            build_bundle(given.runs / list(trainings.values())[-1].folder / "export", given.bundle)
        elif step == "evaluate":
            command = [sys.executable, "-m", "dianjing.train.evaluate", "--model", str(given.bundle)]
            command += ["--count", str(given.count), "--out", str(given.bundle)]
            command += ["--processes", str(given.processes)]
            subprocess.run(command, check=True)
            write_card(given.bundle, given.runs, on=given.on)
            write_sums(given.bundle)


if __name__ == "__main__":
    main()
