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

from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE
from dianjing.pipelines.prompting.motions import MOTIONS_FILE, MotionConcept, MotionVocabulary
from dianjing.pipelines.segmentation.unet import SEGMENTER_FOLDER
from dianjing.train.recipes.bundle_card import TrainingSampleCounts, count_run_samples, write_bundle_card
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.captions import list_caption_words, list_motion_words, make_concept_vocabulary
from dianjing.train.stickers.clips import ObjectMotion
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.scenes import CANVAS_PX
from dianjing.weights.checksums import write_checksums

RECIPES = Path(__file__).parent
INFERENCE_STEPS, GUIDANCE_SCALE = 30, 4.0
CONTINUATION_STEPS, CONTINUATION_GUIDANCE_SCALE = 10, 1.0  # of frames that go on from a given one
NUM_FRAMES, FPS = 9, 8.0  # of a clip, as in sticker_film.toml: a second, and the frame it ends with


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One run of the trainer: its recipe, its folder, and the folder of the run that it goes on from."""

    recipe: str
    folder: str
    base_folder: str | None = None


AUTOENCODER_FOLDER = "sticker-vae"
SEGMENTER_RUN_FOLDER = "sticker-segmenter"
MOTION_STAGES = ("flow_field", "motion")
EVALUATION_FILES = (
    "report.json",
    "grid.png",
    "clips.json",
    "clips.png",
    "README.md",
)  # in the bundle, but of no export
TRAINING_RUNS = {
    "cpu": {
        "autoencoder": TrainingRun(recipe="sticker_vae.toml", folder=AUTOENCODER_FOLDER),
        "text_to_image": TrainingRun(recipe="sticker_dit.toml", folder="sticker-dit"),
        "refine": TrainingRun(recipe="sticker_refine.toml", folder="sticker-refine", base_folder="sticker-dit"),
        "canonical": TrainingRun(
            recipe="sticker_canonical.toml", folder="sticker-canonical", base_folder="sticker-refine"
        ),
        "segmenter": TrainingRun(recipe="sticker_segmenter.toml", folder=SEGMENTER_RUN_FOLDER),
        "flow_field": TrainingRun(
            recipe="sticker_flow_field.toml", folder="sticker-flow-field", base_folder="sticker-canonical"
        ),
        "motion": TrainingRun(recipe="sticker_motion.toml", folder="sticker-motion", base_folder="sticker-flow-field"),
    },
    "gpu": {  # faster, and so needs no second one
        "autoencoder": TrainingRun(recipe="sticker_vae_gpu.toml", folder=AUTOENCODER_FOLDER),
        "text_to_image": TrainingRun(recipe="sticker_dit_gpu.toml", folder="sticker-dit"),
    },
}


def launch_training(training: TrainingRun, runs_folder: Path, *, processes: int) -> None:
    """One process, or several: on a CPU each then has one thread, and they scale where threads do not."""
    settings = {"run.folder": runs_folder / training.folder}
    if training.folder not in (AUTOENCODER_FOLDER, SEGMENTER_RUN_FOLDER):
        settings["model.vae"] = runs_folder / AUTOENCODER_FOLDER / "export" / "vae"
    if training.base_folder is not None:
        settings["model.start_from"] = runs_folder / training.base_folder / "export"
    command = [sys.executable, "-m", "dianjing.train", str(RECIPES / training.recipe)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environment = dict(os.environ)
    if processes > 1:
        command[1:2] = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m"]
        if not torch.cuda.is_available():
            environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, check=True, env=environment)


def measure_motion_vocabulary(*, size_px: int) -> MotionVocabulary:
    """The motions of the sticker world, each with its usual speed at full strength and its reach."""
    world = StickerWorld(
        size_px=size_px, stages=[CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), sized_share=0.0)]
    )
    clips = [world.get_controlled_clip(0, position, num_frames=NUM_FRAMES, fps=FPS) for position in range(24)]
    taught = []
    for index, motion in enumerate(MOTIONS):
        full = ObjectMotion(motion=index, amplitude=1.0)
        speed = median(replace(clip, object_motions=(full,) * len(clip.object_motions)).strengths[0] for clip in clips)
        zh, en = motion.paraphrases
        poses = [motion.get_pose(t / 16, 1.0) for t in range(17)]
        sides = [max(way) / CANVAS_PX for way in zip(*((-p.dx, -p.dy, p.dx, p.dy) for p in poses), strict=True)]
        left, up, right, down = (round(side, 4) + 0.0 for side in sides)
        taught.append(
            MotionConcept(name=motion.name, phrases=(*zh, *en), speed=round(speed, 4), extent=(left, up, right, down))
        )
    return MotionVocabulary(tuple(taught))


def build_bundle(export_folder: Path, bundle: Path, *, segmenter: Path | None = None) -> None:
    """Copy an export into the package with its lexicon, names, defaults and checksums; a segmenter goes along."""
    for old in [path for path in bundle.glob("*") if path.name not in EVALUATION_FILES]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(
        export_folder, bundle, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md")
    )  # it has its own
    if segmenter is not None:
        shutil.copytree(segmenter, bundle / segmenter.name)
    for config_path in bundle.glob("*/config.json"):  # diffusers and transformers note where a part was loaded from
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    transformer = json.loads((bundle / "transformer" / "config.json").read_text(encoding="utf-8"))
    defaults: dict[str, float] = {
        "default_num_inference_steps": INFERENCE_STEPS,
        "default_guidance_scale": GUIDANCE_SCALE,
    }
    words = list_caption_words()
    if transformer.get("use_motion_blocks"):
        defaults |= {"default_num_frames": NUM_FRAMES, "default_fps": FPS}
        defaults |= {
            "default_continuation_steps": CONTINUATION_STEPS,
            "default_continuation_guidance_scale": CONTINUATION_GUIDANCE_SCALE,
        }
        words = {language: sorted({*words[language], *moving}) for language, moving in list_motion_words().items()}
        measure_motion_vocabulary(size_px=8 * transformer["sample_size"]).save(bundle / MOTIONS_FILE)
    index_path = bundle / "model_index.json"
    index = json.loads(index_path.read_text(encoding="utf-8")) | defaults
    index_path.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    lexicon = json.dumps(words, ensure_ascii=False, indent=0)
    (bundle / "vocabulary.json").write_text(lexicon + "\n", encoding="utf-8")
    make_concept_vocabulary().save(bundle / CONCEPTS_FILE)
    write_checksums(bundle)


def count_training_samples(runs_folder: Path, training_runs: Mapping[str, TrainingRun]) -> TrainingSampleCounts:
    seen = {name: count_run_samples(runs_folder / each.folder) for name, each in training_runs.items()}
    clips = sum(seen.pop(name, 0) for name in MOTION_STAGES)
    seen.pop("segmenter", None)
    return TrainingSampleCounts(autoencoder=seen.pop("autoencoder"), images=sum(seen.values()), clips=clips)


def run_evaluation(module: str, bundle: Path, *, num_samples: int, processes: int) -> None:
    command = [sys.executable, "-m", f"dianjing.train.{module}", "--model", str(bundle), "--out", str(bundle)]
    subprocess.run([*command, "--count", str(num_samples), "--processes", str(processes)], check=True)


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.recipes.sticker", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", metavar="STEP", help="do one step, not all of them")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--bundle", type=Path, default=Path("weights/sticker"))
    parser.add_argument("--count", type=int, default=200, help="evaluation prompts a category and language")
    parser.add_argument(
        "--hardware", choices=("cpu", "gpu"), default="cpu", help="which pair of recipes (64 or 128 px)"
    )
    parser.add_argument("--processes", type=int, default=1, help="training processes: GPUs, or cores of a CPU")
    given = parser.parse_args()
    trainings = TRAINING_RUNS[given.hardware]
    steps = (*trainings, "bundle", "evaluate")
    if given.only is not None and given.only not in steps:
        parser.error(f"--only {given.only} on a {given.hardware}; the steps are {', '.join(steps)}")
    for step in steps if given.only is None else (given.only,):
        if step in trainings:
            launch_training(trainings[step], given.runs, processes=given.processes)
        elif step == "bundle":
            segmenter = (
                given.runs / SEGMENTER_RUN_FOLDER / "export" / SEGMENTER_FOLDER if "segmenter" in trainings else None
            )
            build_bundle(given.runs / list(trainings.values())[-1].folder / "export", given.bundle, segmenter=segmenter)
        elif step == "evaluate":
            run_evaluation(
                "evaluation.image_generation", given.bundle, num_samples=given.count, processes=given.processes
            )
            if "motion" in trainings:
                run_evaluation(
                    "evaluation.video_generation", given.bundle, num_samples=given.count // 2, processes=given.processes
                )
            measured = json.loads((given.runs / AUTOENCODER_FOLDER / "export" / "vae" / "measured.json").read_text())
            write_bundle_card(
                given.bundle, sample_counts=count_training_samples(given.runs, trainings), psnr_db=measured["psnr_db"]
            )
            write_checksums(given.bundle)


if __name__ == "__main__":
    _main()
