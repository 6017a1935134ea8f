"""The recipe of the bundled model, from nothing: autoencoders, text encoders and DiT, motion, reports, model card.

python -m dianjing.train.recipes.sticker --processes 2   # everything; hours on two cores, resumable
python -m dianjing.train.recipes.sticker --only bundle   # from the last export to weights/sticker
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.train.data.latent_pairs import join_latent_pairs
from dianjing.train.recipes.averages import average_adapters, average_models
from dianjing.train.recipes.bundle import (
    GUIDANCE_SCALE,
    add_default_adapter,
    build_bundle,
    measure_psnr_db,
    replace_vae,
)
from dianjing.train.recipes.bundle_card import TrainingSampleCounts, count_run_samples, write_bundle_card
from dianjing.train.recipes.sticker_runs import (
    AUTOENCODERS,
    AVERAGED_DECODER_FOLDER,
    AVERAGED_MODEL_FOLDER,
    CONTRAST_MODEL_FOLDER,
    COUPLED_MODEL_FOLDER,
    DECODER_FOLDER,
    FEW_STEPS_RUNS,
    LAST_DECODER_FOLDER,
    LAST_DECODERS,
    LAST_SEGMENTER,
    MOTION_STAGES,
    SEGMENTER_RUN_FOLDER,
    TRAINING_RUNS,
    WIDE_AUTOENCODER_FOLDER,
    TrainingRun,
)
from dianjing.train.recipes.sticker_scene_data import FEW_STEPS, write_scenes
from dianjing.weights.adapter_sampling import AdapterSampling, write_adapter_sampling
from dianjing.weights.checksums import write_checksums

RECIPES = Path(__file__).parent
GENERATED_LATENTS_FILE, NUM_GENERATED_LATENTS = "generated-latents.safetensors", 6000
FEW_STEPS_LATENTS_FILE, NUM_FEW_STEPS_LATENTS = "few-steps-latents.safetensors", 24000
FEW_STEPS_LATENTS_SEED = 93
GENERATED_LATENTS_STEPS = 4  # with guidance, about what the adapter for few steps does
NUM_FEW_STEPS_SCENES, FEW_STEPS_SEED = 16000, 977
AVERAGED_ADAPTER_FOLDER = "sticker-few-steps-averaged"
FEW_STEPS_INFERENCE_STEPS = 6  # two more than the adapters are trained for


def run_training(name: str, runs_folder: Path, *, processes: int) -> None:
    """Run one of TRAINING_RUNS."""
    if name == "flow_field":
        exports = [runs_folder / each / "export" for each in (COUPLED_MODEL_FOLDER, CONTRAST_MODEL_FOLDER)]
        average_models(exports, runs_folder / AVERAGED_MODEL_FOLDER)
    latent_pairs = write_latents(runs_folder) if name == "generated_decoder" else None
    launch_training(TRAINING_RUNS[name], runs_folder, processes=processes, latent_pairs=latent_pairs)


def launch_training(
    training: TrainingRun, runs_folder: Path, *, processes: int, latent_pairs: Path | None = None
) -> None:
    """Run the trainer in a process of its own, or in several (GPUs, or CPU processes with one thread each).

    latent_pairs: file of generated latents that an autoencoder is trained with.
    """
    settings = {"run.folder": runs_folder / training.folder}
    if training.vae_key is not None:
        settings[training.vae_key] = runs_folder / training.vae_run / "export" / "vae"
    if training.base_export is not None:
        settings["model.start_from"] = runs_folder / training.base_export
    if latent_pairs is not None:
        settings["objective.latent_pairs"] = latent_pairs
    _run_trainer(training.recipe, settings, processes=processes)


def _run_trainer(recipe: str, settings: Mapping[str, Any], *, processes: int) -> None:
    """Run the trainer with a run file of this folder, and wait for its end."""
    command = [sys.executable, "-m", "dianjing.train", str(RECIPES / recipe)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environment = dict(os.environ)
    if processes > 1:
        command[1:2] = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m"]
        if not torch.cuda.is_available():
            environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, check=True, env=environment)


def write_latents(runs_folder: Path) -> Path:
    """Write latents that the image model generates, and the images of their scenes; returns their file."""
    path, model = runs_folder / GENERATED_LATENTS_FILE, runs_folder / COUPLED_MODEL_FOLDER / "export"
    sampling = ["--steps", str(GENERATED_LATENTS_STEPS), "--guidance", str(GUIDANCE_SCALE)]
    return _generate_latents(path, model, NUM_GENERATED_LATENTS, *sampling)


def write_few_steps_latents(bundle: Path, runs_folder: Path) -> Path:
    """Write latents that a bundle generates by default, with those of `write_latents`; returns their file."""
    path = runs_folder / FEW_STEPS_LATENTS_FILE
    default_path, seed = runs_folder / f"default-{path.name}", str(FEW_STEPS_LATENTS_SEED)
    generated = _generate_latents(default_path, bundle, NUM_FEW_STEPS_LATENTS, "--seed", seed)
    join_latent_pairs([write_latents(runs_folder), generated], path)
    return path


def _generate_latents(path: Path, model: Path, count: int, *options: str) -> Path:
    """Write generated latents to a file, unless it is there; returns the file."""
    if not path.exists():
        command = [sys.executable, "-m", "dianjing.train.recipes.generated_latents", str(path)]
        command += ["--model", str(model), "--count", str(count), *options]
        subprocess.run(command, check=True)
    return path


def train_few_steps(bundle: Path, runs_folder: Path, *, processes: int) -> None:
    """Distill both image models to few steps on scenes that are written first, and add the mean of the adapters."""
    scenes, datasets_file = runs_folder / "few-steps-scenes", runs_folder / "few-steps-scenes.toml"
    if not (scenes / "metadata.jsonl").exists():
        write_scenes(scenes, FEW_STEPS, count=NUM_FEW_STEPS_SCENES, seed=FEW_STEPS_SEED)
    datasets_file.write_text(f'[[datasets]]\npath = "{scenes.name}"\n', encoding="utf-8")
    for run in FEW_STEPS_RUNS:
        settings: dict[str, Any] = {"data.datasets_file": datasets_file, "run.folder": runs_folder / run.folder}
        settings["model.name"] = runs_folder / run.model_folder / "export"
        settings["objective.distillation_guidance_scale"] = GUIDANCE_SCALE  # of the bundle; exports name none
        if run.base_folder is not None:
            settings["model.lora.start_from"] = runs_folder / run.base_folder / "export"
        _run_trainer(run.recipe, settings, processes=processes)
    averaged = runs_folder / AVERAGED_ADAPTER_FOLDER
    average_adapters([runs_folder / run.folder / "export" for run in FEW_STEPS_RUNS], averaged)
    write_adapter_sampling(averaged, AdapterSampling(num_inference_steps=FEW_STEPS_INFERENCE_STEPS, guidance_scale=1.0))
    add_default_adapter(averaged, bundle)


def train_last_decoders(bundle: Path, runs_folder: Path, *, processes: int) -> None:
    """Train the decoder of a bundle on with the latents that it generates, and put it into the bundle."""
    latent_pairs = write_few_steps_latents(bundle, runs_folder)
    for training in LAST_DECODERS:
        launch_training(training, runs_folder, processes=processes, latent_pairs=latent_pairs)
    replace_vae(bundle / "vae", runs_folder / LAST_DECODER_FOLDER / "export" / "vae")
    write_checksums(bundle)


def train_last_segmenter(bundle: Path, runs_folder: Path, *, processes: int) -> None:
    """Train the segmenter of a bundle on with images that a decoder reconstructs, and put it into the bundle."""
    launch_training(LAST_SEGMENTER, runs_folder, processes=processes)
    shutil.rmtree(bundle / SEGMENTER_FOLDER)
    shutil.copytree(runs_folder / LAST_SEGMENTER.folder / "export" / SEGMENTER_FOLDER, bundle / SEGMENTER_FOLDER)
    write_checksums(bundle)


def count_training_samples(runs_folder: Path) -> TrainingSampleCounts:
    """Count the samples of all runs behind the bundle; those of the segmenter are left out."""
    counts = {name: count_run_samples(runs_folder / each.folder) for name, each in TRAINING_RUNS.items()}
    clips = sum(counts.pop(name) for name in MOTION_STAGES)
    counts.pop("segmenter")
    autoencoder = sum(counts.pop(name) for name in AUTOENCODERS)
    autoencoder += sum(count_run_samples(runs_folder / each.folder) for each in LAST_DECODERS)
    return TrainingSampleCounts(autoencoder=autoencoder, images=sum(counts.values()), clips=clips)


def run_evaluation(module: str, bundle: Path, *, num_samples: int, processes: int) -> None:
    """Run an evaluation command on a bundle, and write its report into it."""
    command = [sys.executable, "-m", f"dianjing.train.{module}", "--model", str(bundle), "--out", str(bundle)]
    subprocess.run([*command, "--count", str(num_samples), "--processes", str(processes)], check=True)


def evaluate_bundle(bundle: Path, runs_folder: Path, *, num_samples: int, processes: int) -> None:
    """Evaluate a bundle, and write its reports, its model card and its checksums."""
    run_evaluation("evaluation.image_generation", bundle, num_samples=num_samples, processes=processes)
    run_evaluation("evaluation.few_steps", bundle, num_samples=num_samples, processes=processes)
    run_evaluation("evaluation.video_generation", bundle, num_samples=num_samples // 2, processes=processes)
    write_bundle_card(
        bundle, sample_counts=count_training_samples(runs_folder), psnr_db=measure_psnr_db(bundle / "vae")
    )
    write_checksums(bundle)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dianjing.train.recipes.sticker", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", metavar="STEP", help="run a single step: a training run, bundle, or evaluate")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    parser.add_argument(
        "--bundle", type=Path, default=Path("weights/sticker"), help="folder of the bundle (default: weights/sticker)"
    )
    parser.add_argument("--count", type=int, default=200, help="prompts per category and language (default: 200)")
    parser.add_argument("--processes", type=int, default=1, help="training processes: GPUs, or CPU cores (default: 1)")
    return parser


def _main() -> None:
    parser = _make_parser()
    arguments = parser.parse_args()
    runs, bundle = arguments.runs, arguments.bundle
    steps = (*TRAINING_RUNS, "bundle", "few_steps", "last_decoders", "last_segmenter", "evaluate")
    if arguments.only is not None and arguments.only not in steps:
        parser.error(f"--only {arguments.only}: the steps are {', '.join(steps)}")
    for step in steps if arguments.only is None else (arguments.only,):
        if step in TRAINING_RUNS:
            run_training(step, runs, processes=arguments.processes)
        elif step == "bundle":
            last_run = list(TRAINING_RUNS.values())[-1]
            segmenter = runs / SEGMENTER_RUN_FOLDER / "export" / SEGMENTER_FOLDER
            vae = runs / AVERAGED_DECODER_FOLDER
            decoders = (WIDE_AUTOENCODER_FOLDER, DECODER_FOLDER)
            average_models([runs / each / "export" / "vae" for each in decoders], vae)
            build_bundle(runs / last_run.folder / "export", bundle, vae=vae, segmenter=segmenter)
        elif step == "few_steps":
            train_few_steps(bundle, runs, processes=arguments.processes)
        elif step == "last_decoders":
            train_last_decoders(bundle, runs, processes=arguments.processes)
        elif step == "last_segmenter":
            train_last_segmenter(bundle, runs, processes=arguments.processes)
        else:
            evaluate_bundle(bundle, runs, num_samples=arguments.count, processes=arguments.processes)


if __name__ == "__main__":
    _main()
