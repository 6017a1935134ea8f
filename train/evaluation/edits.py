"""Evaluation of edits of images against the exact ground truth of the sticker world.

    python -m dianjing.train.evaluation.edits --model sticker --count 100 --out report

Scenes of held-out combinations of object, background and cell are what an edit asks for, in a prompt of the whole
scene; the images that it starts from show another object there, another colour, or nothing, or the same objects on
another background. The mask is painted roughly around the object, or around what is not an object, or found by words.
Every result is read back by template matching: what was asked must be there, and every pixel outside the mask and its
rim as before. Writes report.json and grid.png.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing.train.data.images import tile_images
from dianjing.train.evaluation.image_generation import image_to_tensor
from dianjing.train.evaluation.settings import (
    GRID_PX,
    LANGUAGES,
    EvaluationSettings,
    exit_on_user_error,
    make_evaluation_parser,
    map_in_processes,
    parse_evaluation_settings,
)
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.backgrounds import BACKGROUNDS
from dianjing.train.stickers.captions import make_noun_phrase_en, make_noun_phrase_zh
from dianjing.train.stickers.matching import SpriteMatcher
from dianjing.train.stickers.rendering import get_instance_box, render_scene
from dianjing.train.stickers.scenes import NounMention, SpriteInstance
from dianjing.train.stickers.sprite_classes import COLOURS
from dianjing.train.stickers.world import StickerSample

KINDS = ("replace", "add", "recolour", "words", "background")
MASK_MARGINS = (2, 6)  # 64ths of the image: of each side of a mask around an object, as a person would paint it
BACKGROUND_MARGINS = (0, 2)  # 64ths of the image: of a mask of the background around each object
BACKGROUND_WORDS = {"zh": "背景", "en": "the background"}
NUM_PREVIEWS = 12  # for each kind, in grid.png


@dataclass(frozen=True, kw_only=True)
class EditSample:
    """One edit: the image that it starts from, prompts, the box (x, y, side, side) in px that changes, and the truth.

    expected: the image of the scene that is asked for. words: a phrase that names what changes, for an edit by words;
    None for one by a mask. painted_mask: bool (H, W), the box with a margin on each side, which reaches into the
    neighbouring object where there is one; all but the objects for a new background. background: its index.
    """

    kind: str
    source: np.ndarray
    expected: np.ndarray
    texts: dict[str, str]
    words: dict[str, str] | None
    box: tuple[int, int, int, int]
    painted_mask: np.ndarray
    target: SpriteInstance
    background: int | None = None


def sample_edit(kind: str, position: int, *, seed: int, size_px: int) -> EditSample:
    """Sample an edit whose result is a held-out scene of two objects, the second of which it makes.

    size_px: side of its images.
    """
    coloured_share = 1.0 if kind == "recolour" else None
    stage = CurriculumStage(
        scene_weights={"pair": 1.0}, grid_px=(GRID_PX,), coloured_share=coloured_share, canonical_share=1.0
    )
    world = StickerWorld(size_px=size_px, split="held_out", stages=(stage,))
    sample = world.get_image_sample(seed, position)
    rng = random.Random(f"{kind} {seed} {position}")
    if kind == "background":
        return _sample_new_background(sample, rng, by_words=position % 2 == 1, size_px=size_px)
    other, target = sample.scene.instances
    instances: tuple[SpriteInstance, ...] = (other,)
    words = None
    if kind != "add":
        before = _replace_object(target, other, kind, world, rng)
        instances = (other, before)
        if kind == "words":
            mention = NounMention(class_id=before.class_id)
            words = {"zh": make_noun_phrase_zh(mention, rng), "en": make_noun_phrase_en(mention, rng)}
    source = render_scene(replace(sample.scene, instances=instances), size_px=size_px)
    texts = {"zh": sample.text_zh, "en": sample.text_en}
    box = get_instance_box(target, size_px)
    return EditSample(
        kind=kind,
        source=source,
        expected=sample.image,
        texts=texts,
        words=words,
        box=box,
        painted_mask=_paint_mask(box, rng, size_px=size_px),
        target=target,
    )


def _sample_new_background(sample: StickerSample, rng: random.Random, *, by_words: bool, size_px: int) -> EditSample:
    """An edit of the background of a scene, all of whose objects stay."""
    from dianjing.pipelines.media.mask import grow_mask

    scene, target = sample.scene, sample.scene.instances[1]
    others = [each for each in range(len(BACKGROUNDS)) if each != scene.background]
    margin_px = rng.randint(*BACKGROUND_MARGINS) * size_px // 64
    return EditSample(
        kind="background",
        source=render_scene(replace(scene, background=rng.choice(others)), size_px=size_px),
        expected=sample.image,
        texts={"zh": sample.text_zh, "en": sample.text_en},
        words=BACKGROUND_WORDS if by_words else None,
        box=get_instance_box(target, size_px),
        painted_mask=~grow_mask(sample.masks.max(axis=0), radius_px=margin_px),
        target=target,
        background=scene.background,
    )


def _paint_mask(box: tuple[int, int, int, int], rng: random.Random, *, size_px: int) -> np.ndarray:
    """Paint a mask over a box (x, y, side, side) in px, with a random margin on each side."""
    x, y, side, _ = box
    left, top, right, bottom = (rng.randint(*MASK_MARGINS) * size_px // 64 for _ in range(4))
    mask = np.zeros((size_px, size_px), bool)
    mask[max(0, y - top) : y + side + bottom, max(0, x - left) : x + side + right] = True
    return mask


def _replace_object(
    target: SpriteInstance, other: SpriteInstance, kind: str, world: StickerWorld, rng: random.Random
) -> SpriteInstance:
    """The object that the image shows in place of the target: the same in another colour, or one of another class."""
    if kind == "recolour":
        return replace(target, colour=rng.choice([each for each in range(len(COLOURS)) if each != target.colour]))
    others = [each for each in world.class_ids if each not in (target.class_id, other.class_id)]
    return replace(target, class_id=rng.choice(others), colour=None)


def has_target(sample: EditSample, image: np.ndarray, matcher: SpriteMatcher) -> bool:
    """True if the object that was asked for is in the box, with the colour and the background, if these were too."""
    x, y, side, _ = sample.box
    pixels = image_to_tensor(image)
    scale = matcher.size_px / len(image)
    detections = matcher.detect(pixels)
    if sample.background not in (None, detections.background):
        return False
    for detection in detections.objects:
        center_x, center_y = (value / scale for value in detection.center)
        is_there = x <= center_x < x + side and y <= center_y < y + side
        if is_there and detection.class_id == sample.target.class_id:
            colour = sample.target.colour
            return colour is None or matcher.classify_colour(pixels, detection) == colour
    return False


def keeps_rest(sample: EditSample, image: np.ndarray, mask: np.ndarray, *, rim_px: int) -> bool:
    """True if every pixel outside the mask and its rim is as it was."""
    from dianjing.pipelines.media.mask import grow_mask

    is_changed = (image != sample.source).any(axis=2)
    return not (is_changed & ~grow_mask(mask, radius_px=rim_px)).any()


def make_masks(pipe: Any, samples: Sequence[EditSample], language: str) -> list[np.ndarray]:
    """The mask of what each edit may change, bool (H, W): the box, or what its words name."""
    from dianjing.pipelines.editing.edit import ImageEdit

    masks = []
    for sample in samples:
        if sample.words is not None:
            edit = ImageEdit(image=Image.fromarray(sample.source), words=sample.words[language])
            masks.append(edit.select(pipe))
        else:
            masks.append(sample.painted_mask)
    return masks


def make_edit(
    pipe: Any, sample: EditSample, mask: np.ndarray, language: str, settings: EvaluationSettings, *, seed: int
) -> np.ndarray:
    """Make an edit as the command line, the page and HTTP do, with their default settings."""
    from dianjing.pipelines.editing.edit import ImageEdit, run_edit

    edit = ImageEdit(image=Image.fromarray(sample.source), mask=mask)
    [image] = run_edit(pipe, edit, sample.texts[language], seeds=[seed], **settings.generation_settings)
    return np.asarray(image)


def evaluate_kind(kind: str, language: str, settings: EvaluationSettings) -> tuple[dict[str, int], list[np.ndarray]]:
    """Make the edits of one kind in one language: the counts of successes, and images before and after for the grid."""
    pipe, matcher = _load_evaluator(settings)
    count = -(-settings.num_samples // len(KINDS))
    first = KINDS.index(kind) * count  # so that no two edits have the same scene
    samples = [
        sample_edit(kind, first + position, seed=settings.seed, size_px=pipe.default_size_px)
        for position in range(count)
    ]
    masks = make_masks(pipe, samples, language)
    images = [
        make_edit(pipe, sample, mask, language, settings, seed=settings.seed + position)
        for position, (sample, mask) in enumerate(zip(samples, masks, strict=True))
    ]
    pairs = list(zip(samples, images, masks, strict=True))
    rim_px = get_rim_px(pipe)
    counts = {
        "count": count,
        "applied": sum(has_target(sample, image, matcher) for sample, image, _ in pairs),
        "unchanged": sum(keeps_rest(sample, image, mask, rim_px=rim_px) for sample, image, mask in pairs),
    }
    preview = [each for sample, image, _ in pairs[:NUM_PREVIEWS] for each in (sample.source, image)]
    return counts, preview


def get_rim_px(pipe: Any) -> int:
    """The rim around a mask in which a result fades into the image, and one pixel of rounding."""
    from dianjing.pipelines.inpaint import MASK_RIM_LATENTS

    return math.ceil(MASK_RIM_LATENTS * pipe.vae_scale_factor) + 1


@cache
def _load_evaluator(settings: EvaluationSettings) -> tuple[Any, SpriteMatcher]:
    """Load the model and the matcher, once per process."""
    from dianjing.pipelines.inpaint import InpaintPipeline

    pipe = InpaintPipeline.from_pretrained(settings.model).to(settings.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe, SpriteMatcher.for_images(pipe.default_size_px, settings.device)


def _evaluate_in_process(
    case: tuple[str, str], *, settings: EvaluationSettings
) -> tuple[dict[str, int], list[np.ndarray]]:
    return evaluate_kind(*case, settings)


def summarize_edits(results: dict[tuple[str, str], dict[str, int]]) -> dict[str, Any]:
    """Convert counts by kind and language to rates: of each kind, and over all kinds."""

    def get_rate(key: str, language: str, kinds: Sequence[str]) -> float:
        cells = [results[kind, language] for kind in kinds]
        return round(sum(cell[key] for cell in cells) / sum(cell["count"] for cell in cells), 4)

    rows = {**{kind: [kind] for kind in KINDS}, "overall": KINDS}
    report: dict[str, Any] = {
        name: {language: get_rate("applied", language, kinds) for language in LANGUAGES} for name, kinds in rows.items()
    }
    report["rest_identical"] = {language: get_rate("unchanged", language, KINDS) for language in LANGUAGES}
    report["edits_per_language"] = sum(results[kind, LANGUAGES[0]]["count"] for kind in KINDS)
    return report


def write_edit_report(settings: EvaluationSettings, out: Path) -> None:
    """Evaluate all kinds, write the report and a grid of images to a folder, and print the report."""
    cases = [(kind, language) for kind in KINDS for language in LANGUAGES]
    evaluate = partial(_evaluate_in_process, settings=settings)
    results = list(map_in_processes(evaluate, cases, num_processes=settings.num_processes))
    report = summarize_edits({case: counts for case, (counts, _) in zip(cases, results, strict=True)})
    report |= {"model": settings.model, "seed": settings.seed, **settings.generation_settings}
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    preview = torch.from_numpy(np.stack([image for _, images in results for image in images]))
    Image.fromarray(tile_images(preview, columns=2 * NUM_PREVIEWS)).save(out / "grid.png")
    print(json.dumps(report, indent=1))


def _main() -> None:
    parser = make_evaluation_parser(
        "dianjing.train.evaluation.edits",
        description=__doc__.split("\n")[0],
        default_count=100,
        count_help="edits per language",
    )
    arguments = parser.parse_args()
    with exit_on_user_error(parser):
        write_edit_report(parse_evaluation_settings(arguments), arguments.out)


if __name__ == "__main__":
    _main()
