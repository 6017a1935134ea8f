"""Evaluation of edges: how sharp objects are, and how clean the background around them is.

    python -m dianjing.train.evaluation.sharpness --model sticker --count 50 --out out

Three columns: "true" are rendered scenes of one object, "reconstructed" these scenes after the model's autoencoder,
"generated" images that the model generates for their prompts. Size and position of each object are the canonical ones
for its prompt, so that the model draws it where the scene has it: all columns are compared with the true sprites at
their true places. Generated images in which the matcher does not find the object there are counted and left out.

Edge width: the distance in pixels from 10 % to 90 % of the step across the outline of an object, the median over points
of the outline where the true image has a step between two even colours. Ring: the mean absolute difference in levels
(0 to 255) between the background and the RING_PX pixels around an object, on plain backgrounds.

S image side, P points of outlines, T positions across an outline; images are float (S, S, 3) on [0, 1], sprites
(S, S, 4) with premultiplied alpha.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from dianjing.train.evaluation.image_generation import GRID_PX, image_to_tensor
from dianjing.train.evaluation.settings import (
    EvaluationSettings,
    exit_on_user_error,
    make_evaluation_parser,
    parse_evaluation_settings,
)
from dianjing.train.evaluation.transparency import render_true_sprites
from dianjing.train.stickers import CurriculumStage, StickerSample, StickerWorld
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.matching import SpriteMatcher

RING_PX = 3
REACH_PX = 6.0  # on each side of an outline
REFERENCE_PX = 3.5  # beyond it lie the two colours of a step
STEPS_PER_PX = 4
MIN_CONTRAST = 0.25  # of a step, as the distance of two colours
MAX_DEVIATION = 0.06  # of an even colour
STAGE = CurriculumStage(
    scene_weights={"single": 1.0}, grid_px=(GRID_PX,), coloured_share=0.3, sized_share=0.5, canonical_share=1.0
)
MIN_BOX_IOU = 0.5  # of a detected object and the true one, to be in its place
SHEET_CELL_PX, SHEET_COLUMNS = 256, 8


class Outline(NamedTuple):
    """Points (P, 2) of an outline as (y, x), and its normals (P, 2), which point inwards."""

    points: np.ndarray
    normals: np.ndarray


def find_outline(alpha: np.ndarray) -> Outline:
    """Find the outline of what is opaque in alpha (S, S)."""
    smooth = ndimage.gaussian_filter(alpha, 1.0)
    gradient = np.stack(np.gradient(smooth), axis=-1)
    length = np.linalg.norm(gradient, axis=-1)
    opaque = (alpha > 0.5).astype(np.uint8)
    is_rim = (opaque > cv2.erode(opaque, np.ones((3, 3)))) & (length > 0.05)
    return Outline(np.argwhere(is_rim).astype(float), gradient[is_rim] / length[is_rim][:, None])


def sample_profiles(image: np.ndarray, outline: Outline) -> np.ndarray:
    """Sample an image across an outline, from outside to inside: (P, T, 3)."""
    positions = _list_positions()
    coordinates = outline.points[:, None] + positions[None, :, None] * outline.normals[:, None]  # (P, T, 2)
    channels = [ndimage.map_coordinates(image[..., c], coordinates.transpose(2, 0, 1), order=1) for c in range(3)]
    return np.stack(channels, axis=-1)


def select_steps(profiles: np.ndarray, outline: Outline, *, size_px: int) -> np.ndarray:
    """Find the points (P,) where profiles (P, T, 3) go from one even colour to another, inside the image."""
    outside, inside = _get_references(profiles)
    contrast = np.linalg.norm(inside.mean(axis=1) - outside.mean(axis=1), axis=-1)
    deviation = np.maximum(outside.std(axis=1).max(axis=-1), inside.std(axis=1).max(axis=-1))
    ends = outline.points[:, None] + np.array([-REACH_PX, REACH_PX])[None, :, None] * outline.normals[:, None]
    is_within = ((ends >= 0) & (ends <= size_px - 1)).all(axis=(1, 2))
    return (contrast > MIN_CONTRAST) & (deviation < MAX_DEVIATION) & is_within


def measure_edge_widths(profiles: np.ndarray) -> np.ndarray:
    """Measure the distance in pixels from 10 % to 90 % of the step of every profile (P, T, 3); NaN without a step."""
    positions = _list_positions()
    outside, inside = (each.mean(axis=1) for each in _get_references(profiles))
    step = inside - outside
    energy = np.maximum(np.square(step).sum(axis=-1), 1e-6)
    heights = ((profiles - outside[:, None]) * step[:, None]).sum(axis=-1) / energy[:, None]  # (P, T), from 0 to 1
    widths = np.full(len(profiles), np.nan)
    for index, height in enumerate(heights):
        if energy[index] < (MIN_CONTRAST / 2) ** 2:
            continue
        crossing = np.flatnonzero((height[:-1] < 0.5) & (height[1:] >= 0.5))
        if not len(crossing):
            continue
        center = crossing[np.abs(positions[crossing]).argmin()]
        below, above = np.flatnonzero(height[: center + 1] <= 0.1), np.flatnonzero(height[center + 1 :] >= 0.9)
        if len(below) and len(above):
            start, end = below[-1], center + 1 + above[0]
            low = _interpolate(positions, height, start, level=0.1)
            widths[index] = _interpolate(positions, height, end - 1, level=0.9) - low
    return widths


def measure_ring(image: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> float:
    """Measure the mean absolute difference in levels of an image from its background around what is in alpha."""
    covered = (alpha > 0.004).astype(np.uint8)
    reach = 2 * RING_PX + 1
    ring = cv2.dilate(covered, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))) > covered
    return float(255 * np.abs(image - background)[ring].mean())


def _list_positions() -> np.ndarray:
    return np.linspace(-REACH_PX, REACH_PX, round(2 * REACH_PX * STEPS_PER_PX) + 1)


def _get_references(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of profiles, outside and inside."""
    positions = _list_positions()
    return profiles[:, positions <= -REFERENCE_PX], profiles[:, positions >= REFERENCE_PX]


def _interpolate(positions: np.ndarray, height: np.ndarray, index: int, *, level: float) -> float:
    """The position between `index` and the next one where a profile crosses `level`."""
    a, b = height[index], height[index + 1]
    share = 0.0 if a == b else min(max((level - a) / (b - a), 0.0), 1.0)
    return float(positions[index] + share * (positions[index + 1] - positions[index]))


class SharpnessMeasure:
    """Collects edge widths and rings of images, each against its own true rendering."""

    def __init__(self) -> None:
        self.widths: list[np.ndarray] = []
        self.true_widths: list[np.ndarray] = []
        self.rings: list[float] = []

    def add(self, image: np.ndarray, sprites: np.ndarray, background: np.ndarray, *, is_plain: bool) -> None:
        """Measure an image of `sprites` over `background`."""
        alpha = sprites[..., 3]
        truth = sprites[..., :3] + (1 - alpha[..., None]) * background
        outline = find_outline(alpha)
        true_profiles = sample_profiles(truth, outline)
        selected = select_steps(true_profiles, outline, size_px=len(image))
        self.true_widths.append(measure_edge_widths(true_profiles[selected]))
        self.widths.append(measure_edge_widths(sample_profiles(image, outline)[selected]))
        if is_plain:
            self.rings.append(measure_ring(image, background, alpha))

    def summarise(self) -> dict[str, Any]:
        """Figures for a report."""
        width, true_width = (float(np.nanmedian(np.concatenate(each))) for each in (self.widths, self.true_widths))
        return {
            "edge_width_px": round(width, 2),
            "true_edge_width_px": round(true_width, 2),
            "edge_width_ratio": round(width / true_width, 3),
            "ring_levels": round(float(np.mean(self.rings)), 2),
            "ring_within_4_levels": round(float(np.mean(np.array(self.rings) <= 4)), 3),
            "num_points": sum(map(len, self.widths)),
            "num_rings": len(self.rings),
        }


def shows_object_in_place(image: np.ndarray, sample: StickerSample, matcher: SpriteMatcher) -> bool:
    """True if a matcher of size S finds the object of a sample in an image, uint8 (S, S, 3), at its place."""
    (instance,), (x, y, side, _) = sample.scene.instances, sample.boxes[0]
    for each in matcher.detect(image_to_tensor(image)).objects:
        shared = [
            max(0, min(start + side, other + each.size_px) - max(start, other))
            for start, other in ((x, each.x_px), (y, each.y_px))
        ]
        union = side**2 + each.size_px**2 - shared[0] * shared[1]
        if each.class_id == instance.class_id and shared[0] * shared[1] > MIN_BOX_IOU * union:
            return True
    return False


def make_column_sheet(columns: dict[str, list[np.ndarray]]) -> Image.Image:
    """Lay images under each other by column name, SHEET_COLUMNS images in a row, enlarged by whole pixels."""
    count = min(len(images) for images in columns.values())
    rows = [
        np.concatenate([_enlarge(images[i]) for i in range(start, min(start + SHEET_COLUMNS, count))], axis=1)
        for start in range(0, count - count % SHEET_COLUMNS or count, SHEET_COLUMNS)
        for images in columns.values()
    ]
    return Image.fromarray(np.concatenate(rows))


def _enlarge(image: np.ndarray) -> np.ndarray:
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((SHEET_CELL_PX,) * 2, Image.Resampling.NEAREST))


def write_sharpness_report(settings: EvaluationSettings, out: Path) -> None:
    """Evaluate the three columns, write the report and a contact sheet to a folder, and print the report."""
    from dianjing.pipelines.text_to_image import TextToImagePipeline

    pipe: Any = settings.prepare(TextToImagePipeline.from_pretrained(settings.model))
    size_px = pipe.default_size_px
    matcher, seed = SpriteMatcher(size_px=size_px, device=settings.device), settings.seed
    world = StickerWorld(size_px=size_px, stages=[STAGE], split="held_out")
    columns: dict[str, list[np.ndarray]] = {"true": [], "reconstructed": [], "generated": []}
    measures, num_misplaced = {name: SharpnessMeasure() for name in columns}, 0
    for index in range(settings.num_samples):
        sample = world.get_image_sample(seed, index)
        prompt = sample.text_zh if index % 2 else sample.text_en
        generator = torch.Generator().manual_seed(seed + index)
        image = np.asarray(pipe(prompt, generator=generator, **settings.generation_settings).images[0])
        pictures = (sample.image / 255, _reconstruct(pipe, sample.image), image / 255)
        sprites, is_in_place = render_true_sprites(sample), shows_object_in_place(image, sample, matcher)
        num_misplaced += not is_in_place
        background, pixels = matcher.match_background(matcher.resize(image_to_tensor(sample.image)))
        is_plain = BACKGROUNDS[background].name_en.endswith(" background")
        for name, picture in zip(columns, pictures, strict=True):
            columns[name].append(picture)
            if name != "generated" or is_in_place:
                measures[name].add(picture, sprites, pixels.permute(1, 2, 0).cpu().numpy(), is_plain=is_plain)
    report = {"model": settings.model, "seed": seed, "size_px": size_px, **settings.generation_settings}
    report |= {name: measure.summarise() for name, measure in measures.items()}
    report["generated"]["not_in_place"] = num_misplaced
    out.mkdir(parents=True, exist_ok=True)
    make_column_sheet(columns).save(out / "sheet.png")
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


@torch.no_grad()
def _reconstruct(pipe: Any, image: np.ndarray) -> np.ndarray:
    """Encode and decode an image, uint8 (S, S, 3), by the model's autoencoder."""
    pixels = image_to_tensor(image)[None].to(pipe.device) * 2 - 1
    decoded = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample[0]
    return (decoded.permute(1, 2, 0).cpu().numpy() / 2 + 0.5).clip(0, 1)


def _main() -> None:
    parser = make_evaluation_parser(
        "dianjing.train.evaluation.sharpness",
        description=__doc__.split("\n")[0],
        default_count=50,
        count_help="scenes of one object",
    )
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        write_sharpness_report(parse_evaluation_settings(arguments), arguments.out)


if __name__ == "__main__":
    _main()
