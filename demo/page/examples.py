"""Example prompts in the words of a model, in one language; a model without a list of its words has none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dianjing.errors import Language
from dianjing.pipelines.conversation.captions import POSITION_PHRASES_EN, POSITION_PHRASES_ZH, build_noun_phrase
from dianjing.pipelines.conversation.scene import Box, SceneObject
from dianjing.pipelines.prompting.concepts import BackgroundConcept, ConceptVocabulary, ObjectConcept
from dianjing.pipelines.prompting.motions import MotionConcept

# by their English names; a model that lacks one gets another of its own in place of it
OBJECTS, BACKGROUNDS, MOTIONS = ("cat", "house", "penguin", "dog"), ("grass", "night sky", "snow"), ("jump", "right")
COLOURED_OBJECTS = ("balloon", "car")
CENTER = Box(x=2, y=2, side=4)

T = TypeVar("T", ObjectConcept, BackgroundConcept, MotionConcept)


@dataclass(frozen=True, kw_only=True)
class ExamplePrompts:
    """Prompts for images and videos, and messages of a conversation."""

    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


def make_example_prompts(engine: Any, language: Language) -> ExamplePrompts:
    """Make the examples of an engine's model."""
    vocabulary = engine.text_to_image.concept_vocabulary
    if vocabulary is None or not vocabulary.objects:
        return ExamplePrompts()
    words = _ExampleWords(vocabulary, language)
    motions = () if engine.image_to_video is None else engine.image_to_video.motion_vocabulary.motions
    return ExamplePrompts(
        images=words.make_image_prompts(), videos=words.make_video_prompts(motions), messages=words.make_messages()
    )


@dataclass(frozen=True)
class _ExampleWords:
    """The words of one model in one language."""

    vocabulary: ConceptVocabulary
    language: Language

    @property
    def is_chinese(self) -> bool:
        return self.language == "zh"

    def make_image_prompts(self) -> tuple[str, ...]:
        objects = self.pick_objects(OBJECTS)
        backgrounds = _pick(self.vocabulary.backgrounds, BACKGROUNDS, name=lambda background: background.name_en)
        prompts = [
            self.place(self.describe(concept), background)
            for concept, background in zip(objects, backgrounds, strict=False)
        ]
        coloured = self.describe_coloured(count=3)
        return tuple(prompts if coloured is None else [*prompts, coloured])

    def make_video_prompts(self, motions: Sequence[MotionConcept]) -> tuple[str, ...]:
        subjects = [self.describe(concept) for concept in self.pick_objects((OBJECTS[0], OBJECTS[-1]))]
        moving = _pick(motions, MOTIONS, name=lambda motion: motion.name)
        return tuple(
            f"{subject}{'在' if self.is_chinese else ' '}{phrase}"
            for subject, motion in zip(subjects, moving, strict=False)
            if (phrase := self.find_participle(motion)) is not None
        )

    def make_messages(self) -> tuple[str, ...]:
        first = self.describe(self.pick_objects(OBJECTS)[0])
        backgrounds = _pick(self.vocabulary.backgrounds, BACKGROUNDS[1:2], name=lambda background: background.name_en)
        coloured = self.describe_coloured(count=1)
        if self.is_chinese:
            messages = [f"画{first}", *(f"背景换成{background.name_zh}" for background in backgrounds)]
            return (*messages, *([] if coloured is None else [f"{POSITION_PHRASES_ZH['top right']}加{coloured}"]))
        messages = [f"draw {first}", *(background.location_phrases_en[0] for background in backgrounds)]
        return (*messages, *([] if coloured is None else [f"add {coloured} {POSITION_PHRASES_EN['top right']}"]))

    def pick_objects(self, names: Sequence[str]) -> list[ObjectConcept]:
        return _pick(self.vocabulary.objects, names, name=lambda concept: concept.names_en[0])

    def describe(self, concept: ObjectConcept, *, colour: str | None = None, count: int = 1) -> str:
        """Build the noun phrase of an object, such as "a cat"."""
        described = SceneObject(name=concept.names_en[0], boxes=(CENTER,) * count, colour=colour)
        return build_noun_phrase(described, self.vocabulary, language=self.language, count=count, size=None)

    def describe_coloured(self, *, count: int) -> str | None:
        """Build the noun phrase of an object in a colour, such as "three red balloons"; None if none has colours."""
        colourable = [concept for concept in self.vocabulary.objects if concept.is_colourable]
        if not colourable or not self.vocabulary.colours:
            return None
        concept = _pick(colourable, COLOURED_OBJECTS[:1], name=lambda concept: concept.names_en[0])[0]
        return self.describe(concept, colour=self.vocabulary.colours[0].name_en, count=count)

    def place(self, phrase: str, background: BackgroundConcept) -> str:
        """Add a background, as in "a cat on the grass"."""
        if self.is_chinese:
            return f"{background.location_phrases_zh[0]}的{phrase}"
        return f"{phrase} {background.location_phrases_en[0]}"

    def find_participle(self, motion: MotionConcept) -> str | None:
        """Find a phrase that follows a noun: a Chinese one, or an English one such as "jumping"."""
        if self.is_chinese:
            return next((phrase for phrase in motion.phrases if not phrase.isascii()), None)
        return next(
            (phrase for phrase in motion.phrases if phrase.isascii() and phrase.split()[0].endswith("ing")), None
        )


def _pick(concepts: Sequence[T], names: Sequence[str], *, name: Any) -> list[T]:
    """The concepts of the given names, each missing one replaced by another of the model; at most one for each name."""
    named = {name(concept): concept for concept in concepts}
    others = iter([concept for concept in concepts if name(concept) not in names])
    picked = [named[each] if each in named else next(others, None) for each in names]
    return [concept for concept in picked if concept is not None]
