"""Assembly of a bundle: an export with its vocabularies, default settings and checksums."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL

from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE
from dianjing.pipelines.prompting.motions import MOTIONS_FILE, MotionConcept, MotionVocabulary
from dianjing.pipelines.prompting.vocabulary import VOCABULARY_FILE
from dianjing.train.data.images import to_pixels
from dianjing.train.recipes.motion_phrases import list_known_phrases
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.captions import list_caption_words, list_motion_words, make_concept_vocabulary
from dianjing.train.stickers.clips import ObjectMotion
from dianjing.train.stickers.motions import MOTIONS, SpriteMotion
from dianjing.train.stickers.scenes import CANVAS_PX
from dianjing.train.tasks.image_losses import psnr
from dianjing.weights.adapter_sampling import DEFAULT_ADAPTER_KEY
from dianjing.weights.checksums import write_checksums

INFERENCE_STEPS, GUIDANCE_SCALE = 30, 2.0
CONTINUATION_STEPS, CONTINUATION_GUIDANCE_SCALE = 10, 1.0  # of frames that continue a given first frame
NUM_FRAMES, FPS = 9, 8.0  # of a clip, as in sticker_motion.toml: one second, with its first and its last frame
DEFAULT_ADAPTER_FOLDER = "few_steps"
NUM_MEASURED_CLIPS = 24
MEASURED_SIZE_PX = 64  # of the clips that motions are measured on; speeds are in image sides
NUM_RECONSTRUCTED = 256  # held-out scenes that an autoencoder is measured with
EVALUATION_FILES = (  # files of a bundle that are not part of an export
    "report.json",
    "grid.webp",
    "few_steps.json",
    "video_report.json",
    "video_grid.webp",
    "README.md",
)


def measure_motion_vocabulary(*, size_px: int) -> MotionVocabulary:
    """Measure the motions of the sticker world: the median speed of each at full strength, and its extent.

    size_px: of the clips that are measured.
    """
    stage = CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), sized_share=0.0)
    world = StickerWorld(size_px=size_px, stages=[stage])
    clips = [
        world.get_controlled_clip(0, position, num_frames=NUM_FRAMES, fps=FPS) for position in range(NUM_MEASURED_CLIPS)
    ]
    concepts = []
    for index, motion in enumerate(MOTIONS):
        full = ObjectMotion(motion=index, amplitude=1.0)
        speed = median(replace(clip, object_motions=(full,) * len(clip.object_motions)).strengths[0] for clip in clips)
        phrases, extent = list_known_phrases(motion), _measure_extent(motion)
        concepts.append(MotionConcept(name=motion.name, phrases=phrases, speed=round(speed, 4), extent=extent))
    return MotionVocabulary(tuple(concepts))


def _measure_extent(motion: SpriteMotion) -> tuple[float, float, float, float]:
    """Measure how far a motion goes to the left, up, right and down within a second, in image sides."""
    poses = [motion.get_pose(t / 16, 1.0) for t in range(17)]
    offsets = zip(*((-pose.dx, -pose.dy, pose.dx, pose.dy) for pose in poses), strict=True)
    left, up, right, down = (round(max(each) / CANVAS_PX, 4) + 0.0 for each in offsets)
    return left, up, right, down


def build_bundle(export_folder: Path, bundle: Path, *, vae: Path | None = None, segmenter: Path | None = None) -> None:
    """Copy an export into a bundle, and add its vocabularies, default settings and checksums.

    Files of an older bundle are removed, apart from EVALUATION_FILES. vae: a folder that takes the place of the
    export's, an autoencoder of larger images with the same latents, which keep their scale. segmenter: a folder that is
    copied as well.
    """
    for old in [path for path in bundle.glob("*") if path.name not in EVALUATION_FILES]:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(export_folder, bundle, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
    if vae is not None:
        replace_vae(bundle / "vae", vae)
    if segmenter is not None:
        shutil.copytree(segmenter, bundle / segmenter.name)
    for config_path in bundle.glob("*/config.json"):
        _remove_load_path(config_path)
    _remove_scheduler_defaults(bundle / "scheduler" / "scheduler_config.json")
    transformer = _read_json(bundle / "transformer" / "config.json")
    words = list_caption_words()
    defaults: dict[str, float] = {
        "_default_num_inference_steps": INFERENCE_STEPS,
        "_default_guidance_scale": GUIDANCE_SCALE,
    }
    if transformer.get("use_motion_blocks"):
        defaults |= {
            "_default_num_frames": NUM_FRAMES,
            "_default_fps": FPS,
            "_default_continuation_steps": CONTINUATION_STEPS,
            "_default_continuation_guidance_scale": CONTINUATION_GUIDANCE_SCALE,
        }
        motion_words = list_motion_words()
        words = {language: sorted({*words[language], *motion_words[language]}) for language in motion_words}
        measure_motion_vocabulary(size_px=MEASURED_SIZE_PX).save(bundle / MOTIONS_FILE)
    _write_json(bundle / "model_index.json", _read_json(bundle / "model_index.json") | defaults, indent=1)
    _write_json(bundle / VOCABULARY_FILE, words, indent=0)
    make_concept_vocabulary().save(bundle / CONCEPTS_FILE)
    write_checksums(bundle)


def replace_vae(folder: Path, vae: Path) -> None:
    """Put another autoencoder into `folder`, with the scaling factor that the transformer was trained with.

    vae: a folder of weights for the same latents. The checksums of a bundle have to be written again.
    """
    scaling_factor = _read_json(folder / "config.json")["scaling_factor"]
    shutil.rmtree(folder)
    shutil.copytree(vae, folder, ignore=shutil.ignore_patterns("measured.json", "README.md"))
    config = _read_json(folder / "config.json") | {"scaling_factor": scaling_factor}
    _write_json(folder / "config.json", config, indent=2)


@torch.no_grad()
def measure_psnr_db(vae_folder: Path) -> float:
    """Measure how well an autoencoder reconstructs held-out scenes: the mean peak signal-to-noise ratio in dB."""
    vae = AutoencoderKL.from_pretrained(vae_folder).float()
    stage = CurriculumStage(scene_weights={"single": 0.3, "count": 0.2, "pair": 0.3, "trio": 0.2}, grid_px=(16, 2))
    world = StickerWorld(size_px=vae.config.sample_size, split="held_out", stages=[stage])
    images = [torch.from_numpy(world.get_image_sample(0, index).image) for index in range(NUM_RECONSTRUCTED)]
    batches = [to_pixels(batch) for batch in torch.stack(images).split(32)]
    return torch.stack([psnr(vae(pixels).sample.clamp(-1, 1), pixels) for pixels in batches]).mean().item()


def add_default_adapter(export_folder: Path, bundle: Path) -> None:
    """Copy an adapter for few steps into a bundle, which draws with it by default, and renew the checksums."""
    folder = bundle / DEFAULT_ADAPTER_FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(export_folder, folder, ignore=shutil.ignore_patterns("README.md"))
    index = _read_json(bundle / "model_index.json") | {DEFAULT_ADAPTER_KEY: DEFAULT_ADAPTER_FOLDER}
    _write_json(bundle / "model_index.json", index, indent=1)
    write_checksums(bundle)


def _remove_load_path(config_path: Path) -> None:
    """Remove the path that diffusers and transformers note in the configuration of a part that was loaded."""
    config = _read_json(config_path)
    config.pop("_name_or_path", None)
    _write_json(config_path, config, indent=2)


def _remove_scheduler_defaults(config_path: Path) -> None:
    """Remove settings that are the defaults of a scheduler's class: another class that takes its place has its own."""
    config = _read_json(config_path)
    parameters = inspect.signature(getattr(diffusers, config["_class_name"]).__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    changed = {name: value for name, value in config.items() if name not in defaults or value != defaults[name]}
    _write_json(config_path, changed, indent=2)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: dict[str, Any], *, indent: int) -> None:
    """Write JSON; only Chinese words need more than ASCII."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
