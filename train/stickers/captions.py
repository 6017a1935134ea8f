"""Captions of scenes in Chinese and English, in varied words, and their vocabulary."""

import random
from collections.abc import Sequence
from string import ascii_letters

from dianjing.pipelines.prompting.concepts import BackgroundConcept, ColourConcept, ConceptVocabulary, ObjectConcept
from dianjing.train.stickers.backgrounds import BACKGROUNDS, Background
from dianjing.train.stickers.motions import MOTIONS, SpriteMotion
from dianjing.train.stickers.scenes import NounMention, StickerScene
from dianjing.train.stickers.sprite_classes import COLOURS, SpriteClass, load_sprite_classes

# names without an article and without a number: "some grapes", "some rice"
UNCOUNTABLE_NAMES = frozenset(
    """cherries/grapes/peanuts/french fries/fries/noodles/glasses/sunglasses/jeans/trousers/gloves/socks/headphones/
    scissors/crossed swords/swords/fireworks/bowling pins/bowling/fallen leaves/autumn leaves/eyes/dice/rice/cheese/
    popcorn/sushi/chocolate/honey/milk/coffee/tea/wine/beer/bubble tea/corn/broccoli/bread/luggage/fire/yarn/thread/
    soap/dango/fried shrimp""".replace("\n    ", "").split("/")
)
IRREGULAR_PLURALS = {
    "mouse": "mice",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "ox": "oxen",
    "wolf": "wolves",
    "leaf": "leaves",
    "loaf": "loaves",
    "tooth": "teeth",
    "shrimp": "shrimp",
    "squid": "squid",
    "scarf": "scarves",
    "christmas tree": "christmas trees",
    "spacecraft": "spacecraft",
    "thumbs up": "thumbs up",
    "merry-go-round": "merry-go-rounds",
}

NUMBERS_EN = {1: "one", 2: "two", 3: "three", 4: "four"}
NUMBERS_ZH = {1: "一", 2: "两", 3: "三", 4: "四"}
SIZES_EN = {"big": ("big", "large", "huge"), "small": ("small", "little", "tiny")}
SIZES_ZH = {"big": ("大大的", "很大的", "巨大的"), "small": ("小小的", "很小的", "迷你的")}
CELLS_EN = (
    ("at the top left", "in the top left corner", "in the upper left"),
    ("at the top", "on top"),
    ("at the top right", "in the top right corner", "in the upper right"),
    ("on the left", "on the left side"),
    ("in the middle", "in the center", "in the centre"),
    ("on the right", "on the right side"),
    ("at the bottom left", "in the bottom left corner", "in the lower left"),
    ("at the bottom", "down at the bottom"),
    ("at the bottom right", "in the bottom right corner", "in the lower right"),
)
CELLS_ZH = (
    ("左上角", "左上方"),
    ("上方", "上面", "顶部"),
    ("右上角", "右上方"),
    ("左边", "左侧"),
    ("中间", "正中间", "中央"),
    ("右边", "右侧"),
    ("左下角", "左下方"),
    ("下方", "下面", "底部"),
    ("右下角", "右下方"),
)
RELATIONS_EN = {
    "left": (
        "{a} to the left of {b}",
        "{a} left of {b}",
        "{a} on the left side of {b}",
        "{a} on the left and {b} on the right",
    ),
    "right": (
        "{a} to the right of {b}",
        "{a} right of {b}",
        "{a} on the right side of {b}",
        "{a} on the right and {b} on the left",
    ),
    "above": ("{a} above {b}", "{a} over {b}", "{a} on top of {b}", "{a} at the top and {b} at the bottom"),
    "below": ("{a} below {b}", "{a} under {b}", "{a} beneath {b}", "{a} at the bottom and {b} at the top"),
}
RELATIONS_ZH = {
    "left": ("{a}在{b}的左边", "{a}在{b}左侧", "{b}的左边有{a}", "左边是{a}，右边是{b}"),
    "right": ("{a}在{b}的右边", "{a}在{b}右侧", "{b}的右边有{a}", "右边是{a}，左边是{b}"),
    "above": ("{a}在{b}的上面", "{a}在{b}上方", "{b}的上面有{a}", "上面是{a}，下面是{b}"),
    "below": ("{a}在{b}的下面", "{a}在{b}下方", "{b}的下面有{a}", "下面是{a}，上面是{b}"),
}
OPENINGS_EN = ("", "", "", "", "a sticker of ", "a picture of ", "draw ", "please draw ", "i want ")
OPENINGS_ZH = ("", "", "", "", "画", "请画", "画一张贴纸：", "帮我画", "我想要")


def pluralize(noun: str) -> str:
    """Form the plural of an English noun phrase: "cup of coffee" -> "cups of coffee", "mouse" -> "mice"."""
    head, of, rest = noun.partition(" of ")
    if of:
        return pluralize(head) + of + rest
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    first, space, last = noun.rpartition(" ")
    if last in IRREGULAR_PLURALS:
        return first + space + IRREGULAR_PLURALS[last]
    if noun.endswith(("s", "x", "ch", "sh")) or noun in ("potato", "tomato", "mango"):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def list_countable_names(sprite_class: SpriteClass) -> list[str]:
    """List the English names of a sprite class that take "a" and a number."""
    return [name for name in sprite_class.names_en if name not in UNCOUNTABLE_NAMES]


def _choose_name(rng: random.Random, names: tuple[str, ...] | list[str]) -> str:
    return names[0] if rng.random() < 0.6 else rng.choice(names)


def make_noun_phrase_en(mention: NounMention, rng: random.Random) -> str:
    """Make the English noun phrase of a mention: "three red balloons", "a small cat", "some grapes"."""
    sprite_class = load_sprite_classes()[mention.class_id]
    names = list_countable_names(sprite_class)
    name = _choose_name(rng, sprite_class.names_en if mention.count == 1 or not names else names)
    words = [] if mention.size is None else [rng.choice(SIZES_EN[mention.size])]
    words += [] if mention.colour is None else [COLOURS[mention.colour].name_en]
    if mention.count > 1:
        return " ".join([NUMBERS_EN[mention.count], *words, pluralize(name) if names else name])
    words.append(name)
    if name in UNCOUNTABLE_NAMES:
        return " ".join(["some", *words])
    article = "one" if rng.random() < 0.08 else "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def make_noun_phrase_zh(mention: NounMention, rng: random.Random) -> str:
    """Make the Chinese noun phrase of a mention: 三个红色的气球, 一只小小的猫."""
    sprite_class = load_sprite_classes()[mention.class_id]
    size = "" if mention.size is None else rng.choice(SIZES_ZH[mention.size])
    colour = "" if mention.colour is None else COLOURS[mention.colour].name_zh
    if colour:
        colour = colour + "的" if rng.random() < 0.75 else colour[:-1]
    number = "1234"[mention.count - 1] if rng.random() < 0.05 else NUMBERS_ZH[mention.count]
    return number + sprite_class.measure_word_zh + size + colour + _choose_name(rng, sprite_class.names_zh)


def _join_phrases(phrases: list[str], conjunction: str, comma: str) -> str:
    return phrases[0] if len(phrases) == 1 else comma.join(phrases[:-1]) + conjunction + phrases[-1]


def _make_clause_en(scene: StickerScene, rng: random.Random) -> str:
    phrases = [make_noun_phrase_en(mention, rng) for mention in scene.mentions]
    if scene.relation is not None:
        return rng.choice(RELATIONS_EN[scene.relation]).format(a=phrases[0], b=phrases[1])
    if (cell := scene.mentions[0].cell) is not None:
        return f"{phrases[0]} {rng.choice(CELLS_EN[cell])}"
    return _join_phrases(phrases, " and ", ", ")


def _choose_location_phrase(background: Background, rng: random.Random, phrases: tuple[str, ...]) -> str | None:
    """Choose a location phrase; the white background is often left unnamed."""
    is_default = background is BACKGROUNDS[0]
    return None if is_default and rng.random() < 0.6 else _choose_name(rng, phrases)


def make_caption_en(scene: StickerScene, rng: random.Random) -> str:
    """Make an English caption for a scene at rest."""
    background = BACKGROUNDS[scene.background]
    clause = _make_clause_en(scene, rng)
    location = _choose_location_phrase(background, rng, background.location_phrases_en)
    end = "." if rng.random() < 0.1 else ""
    style = rng.random()
    if location is None:
        return rng.choice(OPENINGS_EN) + clause + end
    if style < 0.65:
        return f"{rng.choice(OPENINGS_EN)}{clause}{rng.choice((' ', ' ', ', '))}{location}{end}"
    if style < 0.85:
        return f"{location}, {clause}{end}"
    name = background.name_en
    return f"{clause}, {name if name.endswith('background') else name + ' background'}{end}"


def _make_clause_zh(scene: StickerScene, rng: random.Random) -> tuple[str, bool]:
    """Make the caption without its background; also, if it is a bare noun phrase."""
    phrases = [make_noun_phrase_zh(mention, rng) for mention in scene.mentions]
    if scene.relation is not None:
        return rng.choice(RELATIONS_ZH[scene.relation]).format(a=phrases[0], b=phrases[1]), False
    if (cell := scene.mentions[0].cell) is not None:
        position = rng.choice(CELLS_ZH[cell])
        return rng.choice(
            (f"{phrases[0]}在{position}", f"{position}有{phrases[0]}", f"{position}是{phrases[0]}")
        ), False
    return _join_phrases(phrases, rng.choice(("和", "和", "还有")), "、"), True


def make_caption_zh(scene: StickerScene, rng: random.Random) -> str:
    """Make a Chinese caption for a scene at rest."""
    background = BACKGROUNDS[scene.background]
    clause, is_noun_phrase = _make_clause_zh(scene, rng)
    location = _choose_location_phrase(background, rng, background.location_phrases_zh)
    end = "。" if rng.random() < 0.1 else ""
    opening = rng.choice(OPENINGS_ZH)
    style = rng.random()
    if location is None:
        return opening + clause + end
    if style < 0.2:
        name = background.name_zh
        return f"{opening}{clause}，{name if name.endswith('背景') else '背景是' + name}{end}"
    if is_noun_phrase and style < 0.9:
        forms = (f"{opening}{location}的{clause}", f"{location}有{clause}", f"{opening}{clause}在{location}")
        return rng.choice(forms) + end
    return f"{location}，{clause}{end}" if style < 0.85 else f"{clause}，在{location}{end}"


def make_motion_caption_en(scene: StickerScene, motions: Sequence[SpriteMotion | None], rng: random.Random) -> str:
    """Make an English caption for a scene whose mentions move: "a cat jumping and a dog spinning on the grass".

    motions: one per mention; None for a mention at rest.
    """
    parts = []
    for mention, motion in zip(scene.mentions, motions, strict=True):
        noun = make_noun_phrase_en(mention, rng)
        parts.append(noun if motion is None else f"{noun} {rng.choice(motion.verbs_en)}")
    background = BACKGROUNDS[scene.background]
    clause = _join_phrases(parts, " and ", ", ")
    location = _choose_location_phrase(background, rng, background.location_phrases_en)
    if location is None:
        return clause
    return f"{clause} {location}" if rng.random() < 0.8 else f"{location}, {clause}"


def make_motion_caption_zh(scene: StickerScene, motions: Sequence[SpriteMotion | None], rng: random.Random) -> str:
    """Make a Chinese caption for a scene whose mentions move: 草地上，一只小猫在跳，一只小狗在旋转.

    motions: one per mention; None for a mention at rest.
    """
    nouns = [make_noun_phrase_zh(mention, rng) for mention in scene.mentions]
    verbs = [None if motion is None else rng.choice(motion.verbs_zh) for motion in motions]
    background = BACKGROUNDS[scene.background]
    location = _choose_location_phrase(background, rng, background.location_phrases_zh)
    if location is not None and len(nouns) == 1 and rng.random() < 0.6:
        return f"{nouns[0]}在{location}{verbs[0]}"
    parts = [noun if verb is None else f"{noun}在{verb}" for noun, verb in zip(nouns, verbs, strict=True)]
    return "，".join(parts if location is None else [location, *parts])


# words of the templates above between the names
GRAMMAR_ZH = ("在", "的", "有", "是", "和", "还有", "画", "请", "帮我画", "我想要", "一张", "贴纸", "背景")
GRAMMAR_EN = ("a", "an", "one", "two", "three", "four", "some", "and", "of", "background", *OPENINGS_EN[4:])


def list_motion_words() -> dict[str, list[str]]:
    """List every word of a motion: {"zh": words, "en": words or phrases}."""
    zh = {word for motion in MOTIONS for word in (*motion.phrases_zh, *motion.verbs_zh)}
    en = {word for motion in MOTIONS for word in (*motion.phrases_en, *motion.verbs_en)}
    return {"zh": sorted(zh), "en": sorted(en)}


def list_caption_words() -> dict[str, list[str]]:
    """List every word that the caption of an image can hold: {"zh": words, "en": words or phrases}."""
    zh = {*GRAMMAR_ZH, *"1234", *NUMBERS_ZH.values(), *(w for words in (*SIZES_ZH.values(), *CELLS_ZH) for w in words)}
    en = {*GRAMMAR_EN, *(w for words in (*SIZES_EN.values(), *CELLS_EN) for w in words)}
    for templates, words in ((RELATIONS_ZH, zh), (RELATIONS_EN, en)):
        words |= {
            part.strip("，的") for t in templates.values() for x in t for part in x.format(a="|", b="|").split("|")
        }
    for each in load_sprite_classes():
        zh |= {each.measure_word_zh, *each.names_zh, *(name.lstrip(ascii_letters) for name in each.names_zh)}
        latin = (name[: -len(name.lstrip(ascii_letters))] for name in each.names_zh)  # the T of T恤
        en |= {*latin, *each.names_en, *(pluralize(name) for name in list_countable_names(each))}
    for colour in COLOURS:
        zh |= {colour.name_zh, colour.name_zh[:-1]}
        en.add(colour.name_en)
    for background in BACKGROUNDS:
        zh |= {background.name_zh, *background.location_phrases_zh}
        en |= {background.name_en, *background.location_phrases_en}
    return {"zh": sorted(zh - {""}), "en": sorted({word.strip() for word in en} - {""})}


def make_concept_vocabulary() -> ConceptVocabulary:
    """Make the concept vocabulary of the sticker world: objects, colours and backgrounds, in the order of their ids."""
    return ConceptVocabulary(
        objects=tuple(
            ObjectConcept(
                names_en=each.names_en,
                plurals_en=tuple("" if name in UNCOUNTABLE_NAMES else pluralize(name) for name in each.names_en),
                names_zh=each.names_zh,
                measure_word_zh=each.measure_word_zh,
                is_colourable=each.is_colourable,
            )
            for each in load_sprite_classes()
        ),
        colours=tuple(ColourConcept(name_en=colour.name_en, name_zh=colour.name_zh) for colour in COLOURS),
        backgrounds=tuple(
            BackgroundConcept(
                name_en=b.name_en,
                name_zh=b.name_zh,
                location_phrases_en=b.location_phrases_en,
                location_phrases_zh=b.location_phrases_zh,
            )
            for b in BACKGROUNDS
        ),
    )
