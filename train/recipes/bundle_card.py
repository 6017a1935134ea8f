"""Model card of the bundled model `sticker`, made from its reports and from the logs of its training runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dianjing.train.evaluation.settings import COLUMNS, LANGUAGES
from dianjing.train.recipes.bundle import DEFAULT_ADAPTER_FOLDER
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.sprite_classes import load_sprite_classes
from dianjing.weights.adapter_sampling import DEFAULT_ADAPTER_KEY, read_adapter_sampling
from dianjing.weights.image_sizes import read_default_size_px

CARD_TEMPLATE = """# sticker: the bundled model of Dianjing

A small bilingual (Chinese and English) model for {modalities}. {parameters:.1f} M parameters, half precision.
It generates emoji-like objects in small scenes, {size_px} x {size_px} px. The architecture is that of Hunyuan-DiT:
`BertModel` and `T5EncoderModel`, trained jointly from scratch with their own tokenizers, `AutoencoderKL`, and `DiT`.

## Training
By this repository's own trainer, on procedural samples (`train/stickers/`) and nothing else:

    python -m dianjing.train.recipes.sticker

All settings are in `train/recipes/`. This bundle was trained on {images:,} images with captions, after
{autoencoder:,} for the autoencoder, which reconstructs unseen images at {psnr_db:.1f} dB PSNR{and_clips}.

## Evaluation
Prompts of held-out combinations of object, background and cell, {count} per row and language, drawn in {sampling}.
Every image is read back by template matching with all sprites; "ground truth" is the rendered scene itself, read in the
same way, and so the ceiling.

    python -m dianjing.train.evaluation.image_generation --model sticker --count {count}

| % correct | Chinese | English | ground truth |
|---|---|---|---|
{rows}

![Held-out prompts: eight of each row above, Chinese then English](grid.webp)
{few_steps_section}{video_section}
## Limitations
It knows the words in `vocabulary.json`: {objects} objects, ten colours for some of them, {backgrounds} backgrounds,
numbers up to four, positions and relations; it names words that it does not know. It fails most often on small
objects{small_objects}.

## Licence
Weights: Apache-2.0. The sprites that it was trained on are rendered from Noto Color Emoji (SIL OFL 1.1; artwork
Apache-2.0); the names follow Unicode CLDR. See NOTICE.
"""
FEW_STEPS_SECTION_TEMPLATE = """
With {count} prompts per row, the default and the model alone (`--slow`), which takes {times_as_fast:.1f} times as long;
each prompt by both, with the same seed:

    python -m dianjing.train.evaluation.few_steps --model sticker --count {count_per_language}

| % correct, both languages (prompts) | few steps | the model alone |
|---|---|---|
{rows}
"""
VIDEO_SECTION_TEMPLATE = """
Clips of {frames} frames at {fps:g} frames per second, of held-out combinations, with {motions} motions. The motion of
an object is read by comparison with the object in every motion. A visible change is more than 32 levels. Objects
of text-to-video must be recognized in the first, central and last frame.

    python -m dianjing.train.evaluation.video_generation --model sticker

| % | Chinese | English | ground truth |
|---|---|---|---|
{rows}

The first frame differs from the given image by {mse:.2f} (I1-MSE, 0 to 255), and by {decoded:.1f} before static
regions receive the pixels of the image. Rank correlation of requested strength and observed amplitude: {strength}.
Median IoU of the mask of one point and the true mask: {iou:.2f}.

![Held-out clips: four of each row above, Chinese then English](video_grid.webp)
"""
IMAGE_ROWS = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
    "background": "background",
    "overall": "overall",
}
FEW_STEPS_ROWS = {
    **IMAGE_ROWS,
    "small_objects": "objects that the prompt calls small",
    "zh": "Chinese",
    "en": "English",
}
VIDEO_ROWS = {
    "one region: motion as requested": ("one_region", "motion_accuracy"),
    "one region: change outside its track": ("one_region", "outside_change"),
    "two regions: both motions as requested": ("two_regions", "motion_accuracy"),
    "text to video: objects recognized": ("text_to_video", "object_consistency"),
    "text to video: motions as requested": ("text_to_video", "motion_accuracy"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSampleCounts:
    """Numbers of samples that the runs behind a bundle were trained on."""

    autoencoder: int
    images: int
    clips: int


def count_run_samples(run_folder: Path) -> int:
    """Count the samples that a run was trained on, from its last log line and the mean batch size of its buckets."""
    config = _read_json(run_folder / "config.json")
    last = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    default_batch_size = config["run"]["batch_size"]
    buckets = config["data"].get("buckets") or [{"sampling_weight": 1.0, "batch_size": None}]
    total_weight = sum(bucket["sampling_weight"] for bucket in buckets)
    weighted = sum(bucket["sampling_weight"] * (bucket["batch_size"] or default_batch_size) for bucket in buckets)
    return round(json.loads(last)["step"] * (weighted / total_weight))


def write_bundle_card(bundle: Path, *, sample_counts: TrainingSampleCounts, psnr_db: float) -> None:
    """Write README.md of a bundle; its figures are those of report.json and video_report.json beside it.

    psnr_db: of the autoencoder's reconstruction of unseen images.
    """
    report, index = _read_json(bundle / "report.json"), _read_json(bundle / "model_index.json")
    rows = [_format_row(title, report[name]) for name, title in IMAGE_ROWS.items()]
    few_steps_path, video_path = bundle / "few_steps.json", bundle / "video_report.json"
    few_steps_report = _read_json(few_steps_path) if few_steps_path.exists() else None
    video_report = _read_json(video_path) if video_path.exists() else None
    weights = [path for path in bundle.glob("*/*.safetensors") if path.parent.name != DEFAULT_ADAPTER_FOLDER]
    num_bytes = sum(path.stat().st_size for path in weights)
    card = CARD_TEMPLATE.format(
        modalities="images" if video_report is None else "images, motion control and videos",
        size_px=read_default_size_px(bundle),
        parameters=num_bytes / 2e6,
        images=sample_counts.images,
        autoencoder=sample_counts.autoencoder,
        psnr_db=psnr_db,
        and_clips="" if video_report is None else f", and then on {sample_counts.clips:,} clips",
        count=report["prompts_per_language"]["single_object"],
        sampling=_describe_sampling(bundle, index),
        rows="\n".join(rows),
        few_steps_section="" if few_steps_report is None else _format_few_steps_section(few_steps_report),
        video_section="" if video_report is None else _format_video_section(video_report, index),
        small_objects="" if few_steps_report is None else _describe_small_objects(few_steps_report),
        objects=len(load_sprite_classes()),
        backgrounds=len(BACKGROUNDS),
    )
    (bundle / "README.md").write_text(card, encoding="utf-8")


def _describe_sampling(bundle: Path, index: Mapping[str, Any]) -> str:
    """Describe the default drawing: by the adapter for few steps, if the bundle has one, or by the model alone."""
    alone = f"{index['_default_num_inference_steps']} steps and guidance scale {index['_default_guidance_scale']}"
    name = index.get(DEFAULT_ADAPTER_KEY)
    sampling = None if name is None else read_adapter_sampling(bundle / name)
    if sampling is None:
        return alone
    few = f"{sampling.num_inference_steps} steps\nwithout guidance, by the adapter in `{name}/`"
    return f"{few}; the model alone takes {alone}"


def _format_few_steps_section(report: Mapping[str, Any]) -> str:
    rows = [
        f"| {title} ({row['count']}) | {100 * row['few']:.1f} | {100 * row['slow']:.1f} |"
        for name, title in FEW_STEPS_ROWS.items()
        if (row := report.get(name)) is not None
    ]
    count = report["single_object"]["count"]
    return FEW_STEPS_SECTION_TEMPLATE.format(
        times_as_fast=report["timing"]["times_as_fast"],
        count=count,
        count_per_language=count // len(LANGUAGES),
        rows="\n".join(rows),
    )


def _describe_small_objects(report: Mapping[str, Any]) -> str:
    row = report.get("small_objects")
    return "" if row is None else f": {100 * row['few']:.1f} % of {row['count']} are right"


def _format_video_section(report: Mapping[str, Any], index: Mapping[str, Any]) -> str:
    counts = report["clips_per_language"]
    rows = [
        _format_row(f"{title} ({counts[row]} clips)", {c: report[row][c][metric] for c in COLUMNS})
        for title, (row, metric) in VIDEO_ROWS.items()
    ]
    one_region, strength = report["one_region"], report["strength"]
    return VIDEO_SECTION_TEMPLATE.format(
        frames=index["_default_num_frames"],
        fps=index["_default_fps"],
        motions=len(MOTIONS),
        rows="\n".join(rows),
        mse=max(one_region[c]["i1_mse"] for c in LANGUAGES),
        decoded=max(one_region[c]["i1_mse_decoded"] for c in LANGUAGES),
        strength=" and ".join(f"{strength[c]['rank_correlation']:.2f}" for c in LANGUAGES),
        iou=report["mask_iou_median"],
    )


def _format_row(title: str, values: Mapping[str, float]) -> str:
    return f"| {title} | " + " | ".join(f"{100 * values[c]:.1f}" for c in COLUMNS) + " |"


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
