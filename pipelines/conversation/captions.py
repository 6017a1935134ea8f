"""Captions of scenes in English and Chinese, in the sentence patterns that the bundled model was trained on.

Other models understand them as plain prompts.
"""

from collections.abc import Sequence

from dianjing.pipelines.conversation.edits import ObjectSpec
from dianjing.pipelines.conversation.layout import has_relation
from dianjing.pipelines.conversation.scene import DEFAULT_SIDE, RELATIONS, SMALL_SIDE, Box, Scene, SceneObject
from dianjing.pipelines.prompting.concepts import ConceptVocabulary

NUMBER_WORDS_EN = ("", "one", "two", "three", "four")
NUMBER_WORDS_ZH = ("", "一", "两", "三", "四")
POSITION_PHRASES_EN = {
    "top left": "at the top left",
    "top": "at the top",
    "top right": "at the top right",
    "left": "on the left",
    "center": "in the middle",
    "right": "on the right",
    "bottom left": "at the bottom left",
    "bottom": "at the bottom",
    "bottom right": "at the bottom right",
}
POSITION_PHRASES_ZH = {
    "top left": "左上角",
    "top": "上方",
    "top right": "右上角",
    "left": "左边",
    "center": "中间",
    "right": "右边",
    "bottom left": "左下角",
    "bottom": "下方",
    "bottom right": "右下角",
}
RELATION_PHRASES_EN = {
    "left": "{} to the left of {}",
    "right": "{} to the right of {}",
    "above": "{} above {}",
    "below": "{} below {}",
}
RELATION_PHRASES_ZH = {
    "left": "{}在{}的左边",
    "right": "{}在{}的右边",
    "above": "{}在{}的上面",
    "below": "{}在{}的下面",
}


def get_size_word(box: Box) -> str | None:
    """Return "small" or "big" for a box that does not have the default size, else None."""
    return "small" if box.side <= SMALL_SIDE else "big" if box.side > DEFAULT_SIDE else None


def build_noun_phrase(
    scene_object: SceneObject | ObjectSpec,
    concept_vocabulary: ConceptVocabulary,
    *,
    language: str,
    count: int,
    size: str | None,
) -> str:
    """Build the noun phrase of an object, such as "two small red balloons" or 两个小小的红色的气球.

    size: "big", "small" or None for the default size.
    """
    return (_build_noun_phrase_zh if language == "zh" else _build_noun_phrase_en)(
        scene_object, concept_vocabulary, count, size
    )


def _build_noun_phrase_en(
    scene_object: SceneObject | ObjectSpec, concept_vocabulary: ConceptVocabulary, count: int, size: str | None
) -> str:
    known = concept_vocabulary.find_object(scene_object.name)
    name = scene_object.name if known is None else known.names_en[0]
    plural = f"{name}s" if known is None else known.plurals_en[0]
    words = [word for word in (size, scene_object.colour) if word is not None]
    if count > 1:
        countable = next((p for p in known.plurals_en if p), name) if known is not None else plural
        return " ".join([NUMBER_WORDS_EN[count], *words, plural or countable])
    article = "some" if not plural else "an" if [*words, name][0][0] in "aeiou" else "a"
    return " ".join([article, *words, name])


def _build_noun_phrase_zh(
    scene_object: SceneObject | ObjectSpec, concept_vocabulary: ConceptVocabulary, count: int, size: str | None
) -> str:
    known = concept_vocabulary.find_object(scene_object.name)
    colour = None if scene_object.colour is None else concept_vocabulary.find_colour(scene_object.colour)
    adjective = scene_object.colour if colour is None else f"{colour.name_zh}的"
    measure, name = ("个", scene_object.name) if known is None else (known.measure_word_zh, known.names_zh[0])
    return (
        NUMBER_WORDS_ZH[count]
        + measure
        + {None: "", "big": "大大的", "small": "小小的"}[size]
        + (adjective or "")
        + name
    )


def caption_scene(scene: Scene, concept_vocabulary: ConceptVocabulary, *, language: str) -> str:
    """Describe a scene in one sentence: objects with count, size and colour, their relation or position, background."""
    phrases = [
        build_noun_phrase(
            each, concept_vocabulary, language=language, count=each.count, size=get_size_word(each.boxes[0])
        )
        for each in scene.objects
    ]
    position = scene.boxes[0].position if len(scene.boxes) == 1 else None
    return compose_caption(
        phrases,
        concept_vocabulary,
        relation=_find_relation(*scene.objects) if len(scene.objects) == 2 else None,
        position=None if position == "center" else position,
        background=scene.background,
        language=language,
    )


def compose_caption(
    phrases: Sequence[str],
    concept_vocabulary: ConceptVocabulary,
    *,
    relation: str | None,
    position: str | None,
    background: str | None,
    language: str,
) -> str:
    """Compose a caption of noun phrases, with the relation of two of them or the position of the only one."""
    zh = language == "zh"
    is_phrase = relation is None and position is None
    if relation is not None:
        body = (RELATION_PHRASES_ZH if zh else RELATION_PHRASES_EN)[relation].format(*phrases)
    elif position is not None:
        body = _add_position(phrases[0], position, zh=zh)
    elif zh:
        body = _join_phrases(phrases, separator="、", last_separator="和")
    else:
        body = _join_phrases(phrases, separator=", ", last_separator=" and ")
    return _add_background(body, background, concept_vocabulary, language=language, is_phrase=is_phrase)


def caption_background(background: str | None, concept_vocabulary: ConceptVocabulary, *, language: str) -> str:
    """Describe a background without objects; "" for none that is known."""
    known = None if background is None else concept_vocabulary.find_background(background)
    if known is None:
        return ""
    return (known.location_phrases_zh if language == "zh" else known.location_phrases_en)[0]


def caption_object(
    scene_object: SceneObject | ObjectSpec,
    background: str | None,
    concept_vocabulary: ConceptVocabulary,
    *,
    language: str,
    position: str,
    size: str | None = None,
) -> str:
    """Describe one object at its position, without the other objects: the prompt of a region of the image.

    position: one of POSITIONS. size: as for `build_noun_phrase`.
    """
    phrase = build_noun_phrase(scene_object, concept_vocabulary, language=language, count=1, size=size)
    body = _add_position(phrase, position, zh=language == "zh")
    return _add_background(body, background, concept_vocabulary, language=language, is_phrase=False)


def _add_position(phrase: str, position: str, *, zh: bool) -> str:
    return f"{phrase}在{POSITION_PHRASES_ZH[position]}" if zh else f"{phrase} {POSITION_PHRASES_EN[position]}"


def _find_relation(first: SceneObject, second: SceneObject) -> str | None:
    if first.count > 1 or second.count > 1:
        return None
    return next((each for each in RELATIONS if has_relation(first.boxes[0], second.boxes[0], each)), None)


def _join_phrases(phrases: Sequence[str], *, separator: str, last_separator: str) -> str:
    return phrases[0] if len(phrases) == 1 else separator.join(phrases[:-1]) + last_separator + phrases[-1]


def _add_background(
    body: str, background: str | None, concept_vocabulary: ConceptVocabulary, *, language: str, is_phrase: bool
) -> str:
    if background is None:
        return body
    known = concept_vocabulary.find_background(background)
    if language == "zh":
        location = f"{background}背景上" if known is None else known.location_phrases_zh[0]
        return f"{location}的{body}" if is_phrase else f"{location}，{body}"
    return f"{body}, {background}" if known is None else f"{body} {known.location_phrases_en[0]}"
