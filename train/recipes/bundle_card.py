"""The model card of the embedded bundle, written from what was measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.sprite_classes import load_sprite_classes

CARD_TEMPLATE = """# sticker: the embedded model of Dianjing

A small bilingual (Chinese and English) model for pictures{and_films} in the Hunyuan-DiT arrangement: `BertModel` and
`T5EncoderModel`, trained jointly from scratch with their own tokenizers, `AutoencoderKL`, `DiT`. It draws emoji-like
objects in small scenes, {size_px} x {size_px} px. {parameters:.1f} M parameters, half precision.

## How it was made
By this repository's own trainer, from procedural pictures (`train/stickers/`) and nothing else:

    python -m dianjing.train.recipes.sticker

Every number is in `train/recipes/`. This bundle saw {pictures:,} pictures with captions, after {autoencoder:,} for the
autoencoder, which gives back pictures it never saw at {psnr_db:.1f} dB{and_clips}.

## Figures
Prompts of combinations of object, background and place that training never shows, {count} for each row and language,
{steps} steps, guidance {guidance}; every picture is read back by matching against all sprites.
"Ceiling" is the truth itself, read by the same matcher.

    python -m dianjing.train.evaluation.image_generation --model sticker --count {count}

| % right | Chinese | English | ceiling |
|---|---|---|---|
{rows}

![Held-out prompts: eight of each row above, Chinese then English](grid.png)
{clip_figures}
## Limits
It knows the words in `vocabulary.json`: {objects} objects, ten colours for some of them, {backgrounds} backgrounds,
numbers up to four, places and relations. It names the words it does not know. Small objects
are the ones it most often gets wrong: about one in six of those that are asked for.

## Licence
Weights: Apache-2.0. The sprites it learned from are rendered from Noto Color Emoji (SIL OFL 1.1; artwork Apache-2.0);
the names follow Unicode CLDR. See NOTICE.
"""
VIDEO_SECTION_TEMPLATE = """
Clips of {frames} frames at {fps:g} a second, as many as each row says for each language, of combinations that training
never shows, with {motions} motions. How an object moved is read by comparing it with itself in every motion; a change
is one of more than 32 levels. Objects of films must be recognised on the first, middle and last frame.

    python -m dianjing.train.evaluation.video_generation --model sticker

| % | Chinese | English | ceiling |
|---|---|---|---|
{rows}

The first frame differs from the given picture by {mse:.2f} (I1-MSE, 0 to 255), {decoded:.1f} before what stands still
takes the picture's own pixels. Strength asked and motion seen: rank correlation {strength}. One click's mask and the
truth: median IoU {iou:.2f}.

![Held-out clips: four of each row above, Chinese then English](clips.png)
"""
VIDEO_ROWS = {
    "one click moves its object as told": ("one_region", "motion_accuracy"),
    "picture changed outside its track": ("one_region", "outside_change"),
    "two clicks: both as told": ("two_regions", "motion_accuracy"),
    "films: objects recognised": ("text_to_video", "object_consistency"),
    "films: objects move as told": ("text_to_video", "motion_accuracy"),
}
COLUMNS = ("zh", "en", "ground_truth")


@dataclass(frozen=True, kw_only=True)
class TrainingSampleCounts:
    """Samples that the runs behind a bundle trained on."""

    autoencoder: int
    images: int
    clips: int


def count_run_samples(run_folder: Path) -> int:
    """How many samples a run has trained on; of buckets of several sizes, by their shares."""
    config = _read_json(run_folder / "config.json")
    last = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    whole = config["run"]["batch_size"]
    buckets = config["data"].get("buckets") or [{"sampling_weight": 1.0, "batch_size": None}]
    share = sum(bucket["sampling_weight"] for bucket in buckets)
    mean = sum(bucket["sampling_weight"] * (bucket["batch_size"] or whole) for bucket in buckets) / share
    return round(json.loads(last)["step"] * mean)


def write_bundle_card(bundle: Path, *, sample_counts: TrainingSampleCounts, psnr_db: float) -> None:
    """README.md of the bundle; its figures are those of report.json and clips.json beside it."""
    report, index = _read_json(bundle / "report.json"), _read_json(bundle / "model_index.json")
    names = [name for name, value in report.items() if isinstance(value, dict) and "ground_truth" in value]
    rows = [_format_row(name.replace("_", " "), {c: report[name][c] for c in COLUMNS}) for name in names]
    clips = _read_json(bundle / "clips.json") if (bundle / "clips.json").exists() else None
    weights = sum(path.stat().st_size for path in bundle.glob("*/*.safetensors"))
    card = CARD_TEMPLATE.format(
        and_films="" if clips is None else ", clicks and films",
        size_px=8 * _read_json(bundle / "transformer" / "config.json")["sample_size"],
        parameters=weights / 2e6,
        pictures=sample_counts.images,
        autoencoder=sample_counts.autoencoder,
        psnr_db=psnr_db,
        and_clips="" if clips is None else f", and then {sample_counts.clips:,} clips",
        count=report["prompts_per_language"]["single_object"],
        steps=index["default_num_inference_steps"],
        guidance=index["default_guidance_scale"],
        rows="\n".join(rows),
        clip_figures="" if clips is None else _format_video_section(clips, index),
        objects=len(load_sprite_classes()),
        backgrounds=len(BACKGROUNDS),
    )
    (bundle / "README.md").write_text(card, encoding="utf-8")


def _format_video_section(report: Mapping[str, Any], index: Mapping[str, Any]) -> str:
    counts = report["clips_per_language"]
    found = {
        f"{name} ({counts[row]} clips)": {c: report[row][c][figure] for c in COLUMNS}
        for name, (row, figure) in VIDEO_ROWS.items()
    }
    clicks, strengths = report["one_region"], report["strength"]
    return VIDEO_SECTION_TEMPLATE.format(
        frames=index["default_num_frames"],
        fps=index["default_fps"],
        motions=len(MOTIONS),
        rows="\n".join(_format_row(name, values) for name, values in found.items()),
        mse=max(clicks[c]["i1_mse"] for c in ("zh", "en")),
        decoded=max(clicks[c]["i1_mse_decoded"] for c in ("zh", "en")),
        strength=" and ".join(f"{strengths[c]['rank_correlation']:.2f}" for c in ("zh", "en")),
        iou=report["mask_iou_median"],
    )


def _format_row(name: str, values: Mapping[str, float]) -> str:
    return f"| {name} | " + " | ".join(f"{100 * values[c]:.1f}" for c in COLUMNS) + " |"


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
