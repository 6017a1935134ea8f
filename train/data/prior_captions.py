"""Captions of what a model can generate already, for prior preservation, and their place in batches.

A model that comes with its concepts (concepts.json) gets captions of them; any other one gets common subjects in
common places.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dianjing.pipelines.conversation.captions import caption_scene
from dianjing.pipelines.conversation.layout import get_position_box, make_adjacent_boxes, make_group_boxes
from dianjing.pipelines.conversation.scene import (
    DEFAULT_SIDE,
    MAX_INSTANCES,
    POSITIONS,
    RELATIONS,
    SMALL_SIDE,
    Box,
    Scene,
    SceneObject,
)
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary, ObjectConcept
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.data.loader import ScheduledBatches
from dianjing.train.data.prior_images import PriorImages
from dianjing.train.data.samples import Batch, CaptionBatcher

PRIOR_PREFIX = "prior_"  # of the keys of a batch
NUM_CONCEPT_CAPTIONS = 400
NUM_COMMON_CAPTIONS = 96
SCENE_WEIGHTS = {"single": 5, "placed": 2, "pair": 3, "count": 3}
COLOURED_SHARE = 0.4  # of colourable objects
BIG_SIDE = 6  # cells, as large as the model draws what captions call big
SINGLE_SIDES = (SMALL_SIDE, DEFAULT_SIDE, DEFAULT_SIDE, BIG_SIDE, BIG_SIDE)  # of boxes: captions name the size
PLACED_SIDES = (SMALL_SIDE, DEFAULT_SIDE, DEFAULT_SIDE)
SUBJECTS = {
    "en": (
        "a cat", "a dog", "a horse", "a bird", "a young woman", "an old man", "a child", "a group of people", "a car",
        "a bicycle", "a wooden house", "a bridge", "a tree", "a bouquet of flowers", "a cup of coffee",
        "a bowl of fruit", "a chair", "a ship",
    ),
    "zh": (
        "一只猫", "一只狗", "一匹马", "一只鸟", "一位年轻女子", "一位老人", "一个孩子", "一群人", "一辆汽车",
        "一辆自行车", "一座木屋", "一座桥", "一棵树", "一束花", "一杯咖啡", "一碗水果", "一把椅子", "一艘船",
    ),
}  # fmt: skip
PLACES = {
    "en": (
        "a photo of {} on the grass", "a photo of {} by the sea", "{} in a city at night", "{} in the snow",
        "an oil painting of {}", "a watercolor of {}", "a cartoon of {}", "a close-up of {} in a bright room",
    ),
    "zh": (
        "草地上的{}，照片", "海边的{}，照片", "夜晚城市里的{}", "雪地里的{}", "{}，油画", "{}，水彩画", "{}，卡通画",
        "明亮房间里{}的特写",
    ),
}  # fmt: skip


def make_prior_captions(model_folder: Path) -> tuple[str, ...]:
    """Captions in both languages of what the model in a folder can generate; always the same ones."""
    if (model_folder / CONCEPTS_FILE).is_file():
        return caption_concepts(ConceptVocabulary.from_file(model_folder / CONCEPTS_FILE))
    captions = [
        place.format(subject) for language in SUBJECTS for place in PLACES[language] for subject in SUBJECTS[language]
    ]
    return tuple(random.Random(0).sample(captions, NUM_COMMON_CAPTIONS))


def caption_concepts(concepts: ConceptVocabulary) -> tuple[str, ...]:
    """Captions of single, placed, counted and paired objects of all sizes, with backgrounds; every object occurs."""
    rng = random.Random(0)
    objects: list[ObjectConcept] = []
    captions: dict[str, None] = {}  # in the order of their making
    while len(captions) < NUM_CONCEPT_CAPTIONS:
        if len(objects) < 2:  # the next ones lie below, so that none is left out
            objects[:0] = rng.sample(concepts.objects, len(concepts.objects))
        (kind,) = rng.choices(list(SCENE_WEIGHTS), list(SCENE_WEIGHTS.values()))
        make_boxes: dict[str, Callable[[], Sequence[tuple[Box, ...]]]] = {
            "single": lambda: [(get_position_box("center", side=rng.choice(SINGLE_SIDES)),)],
            "placed": lambda: [(get_position_box(rng.choice(POSITIONS), side=rng.choice(PLACED_SIDES)),)],
            "pair": lambda: [(box,) for box in make_adjacent_boxes(rng.choice(RELATIONS))],
            "count": lambda: [make_group_boxes(rng.randint(2, MAX_INSTANCES))],
        }
        boxes = make_boxes[kind]()
        scene = Scene(
            objects=tuple(_make_object(objects.pop(), each, concepts, rng) for each in boxes),
            background=rng.choice(concepts.backgrounds).name_en if concepts.backgrounds else None,
        )
        captions[caption_scene(scene, concepts, language=("zh", "en")[len(captions) % 2])] = None
    return tuple(captions)


def _make_object(
    concept: ObjectConcept, boxes: tuple[Box, ...], concepts: ConceptVocabulary, rng: random.Random
) -> SceneObject:
    is_coloured = concept.is_colourable and bool(concepts.colours) and rng.random() < COLOURED_SHARE
    colour = rng.choice(concepts.colours).name_en if is_coloured else None
    return SceneObject(name=concept.names_en[0], colour=colour, boxes=boxes)


def list_prior_captions(config: FinetuneRunConfig, model_folder: Path) -> tuple[str, ...]:
    """The captions that a run preserves: its own, or else those of the model; none without prior preservation."""
    if not config.objective.prior_preservation:
        return ()
    return config.objective.prior_captions or make_prior_captions(model_folder)


class PriorCaptionDataset(Dataset[Batch]):
    """Batches of another data set with a caption to preserve beside each sample, under keys with PRIOR_PREFIX.

    With `images`, their latents are beside the captions.
    The captions of a step are a function of (seed, step); some are empty, as often as those of the samples.
    """

    def __init__(
        self,
        batches: ScheduledBatches,
        captions: Sequence[str],
        *,
        images: PriorImages | None,
        caption_batcher: CaptionBatcher,
        caption_dropout: float,
        seed: int,
    ) -> None:
        self.batches, self.captions, self.images, self.caption_batcher = batches, captions, images, caption_batcher
        self.caption_dropout, self.seed = caption_dropout, seed
        self.schedule = batches.schedule

    def __getitem__(self, index: int) -> Batch:
        step, micro_step = divmod(index, self.schedule.accumulation_steps)
        shards = self.schedule.bucket_at(step).shards
        rows = shards.get_rows(micro_step)
        rng = np.random.default_rng((self.seed, step, 2))
        count = len(self.captions) if self.images is None else len(self.images)
        choices = rng.integers(count, size=shards.global_batch_size)[rows]
        dropped = (rng.random(shards.global_batch_size) < self.caption_dropout)[rows]
        texts = [
            "" if is_dropped else self.captions[choice % len(self.captions)]
            for choice, is_dropped in zip(choices, dropped, strict=True)
        ]
        prior = self.caption_batcher([(text, text) for text in texts])
        if self.images is not None:
            prior["latents"] = torch.stack([self.images.load(int(choice)) for choice in choices])
        return self.batches[index] | {f"{PRIOR_PREFIX}{key}": tensor for key, tensor in prior.items()}
