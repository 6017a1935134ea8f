"""Phrases that name a motion of the sticker world in a prompt, beyond those that models are trained on.

Models get the canonical phrase of the motion that a phrase names (`MotionVocabulary.canonicalize`).
"""

import re
from collections.abc import Sequence
from itertools import product

from dianjing.train.stickers.motions import SpriteMotion

TRAVEL_VERBS_EN = ("move", "go", "walk", "run", "slide", "fly", "swim", "drive", "roll", "glide")
TRAVEL_VERBS_ZH = ("移动", "移", "走", "跑", "飞", "游", "滑", "滚", "开")
DIRECTIONS_EN = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up", "upwards", "upward"),
    "down": ("down", "downwards", "downward"),
}
DIRECTIONS_ZH = {"left": "左", "right": "右", "up": "上", "down": "下"}
# Verbs in their base form; nouns that are objects as well, such as "fly" and "rock", are left out.
SYNONYMS_EN = {
    "up": ("soar", "ascend", "take off", "lift off"),
    "down": ("descend", "drop down", "fall down"),
    "jump": ("leap up", "bounce", "jump around"),
    "arc": ("fly away", "fly around", "fly past", "leap over"),
    "spin": ("twirl", "whirl", "turn in circles", "revolve"),
    "shake": ("vibrate", "quiver", "shiver"),
    "sway": ("wobble", "sway in the wind", "swing back and forth"),
    "nod": ("nod its head",),
    "flap": ("flap its wings", "beat the wings"),
    "grow": ("get larger", "become bigger", "expand", "inflate"),
    "shrink": ("become tiny", "deflate"),
}
SYNONYMS_ZH = {
    "up": ("飞起来", "升起", "起飞", "飞上天", "升空"),
    "down": ("掉下来", "掉落", "下落", "落下来", "坠落", "沉下去"),
    "jump": ("蹦起来", "蹦蹦跳跳", "弹跳", "跳动"),
    "arc": ("飞走", "飞翔", "飞行", "飞来飞去"),
    "spin": ("打转", "转圈圈", "自转"),
    "shake": ("震动", "发抖", "晃动"),
    "sway": ("晃来晃去", "摇来摇去", "飘动", "随风摇曳"),
    "flap": ("拍打翅膀", "扇动翅膀", "挥动翅膀"),
    "grow": ("越来越大", "膨胀"),
    "shrink": ("越来越小", "收缩"),
}


def list_known_phrases(motion: SpriteMotion) -> tuple[str, ...]:
    """List every phrase that names a motion, Chinese before English, those that models are trained on first.

    English verbs are known in the forms of "move left", "moves left" and "moving left".
    """
    zh, en = motion.paraphrases
    more_zh, more_en = list(SYNONYMS_ZH.get(motion.name, ())), [*motion.phrases_en, *SYNONYMS_EN.get(motion.name, ())]
    if motion.name in DIRECTIONS_EN:
        more_zh += map("".join, product("向往朝", DIRECTIONS_ZH[motion.name], TRAVEL_VERBS_ZH))
        more_en += map(" ".join, product(TRAVEL_VERBS_EN, DIRECTIONS_EN[motion.name]))
    return tuple(dict.fromkeys((*zh, *more_zh, *en, *_list_forms(more_en))))


def _list_forms(phrases: Sequence[str]) -> list[str]:
    """List the base forms, third persons and gerunds of phrases that begin with a regular verb."""
    forms = []
    for phrase in phrases:
        verb, *rest = phrase.split()
        forms += [" ".join((each, *rest)) for each in (verb, make_third_person(verb), make_gerund(verb))]
    return forms


def make_third_person(verb: str) -> str:
    """Return "goes" for "go", and "flies" for "fly"."""
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"(?:[sxzo]|[cs]h)$", verb) else "s")


def make_gerund(verb: str) -> str:
    """Return "moving" for "move", and "spinning" for "spin": a short vowel doubles the consonant after it."""
    if re.search(r"[^e]e$", verb):
        return verb[:-1] + "ing"
    is_doubled = re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb)
    return verb + (verb[-1] if is_doubled else "") + "ing"
