"""Sprite classes of the sticker world: their names in both languages, and the colours that some of them take.

The id of a class is its line in `objects.txt`, counted from 0; ids are stable because lines are only ever appended.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class SpriteClass:
    """A class of objects that the sticker world can show.

    `names_en` and `names_zh` start with the canonical name; `measure_word_zh` is the Chinese measure word (只, 朵).
    `is_colourable`: captions may name a colour for it.
    """

    id: int
    emoji: str
    names_en: tuple[str, ...]
    names_zh: tuple[str, ...]
    measure_word_zh: str
    is_colourable: bool


@dataclass(frozen=True, kw_only=True)
class SpriteColour:
    """A colour that captions may name; `rgb` (0 to 255) is what the brightest plain area of a sprite gets."""

    name_en: str
    name_zh: str
    rgb: tuple[int, int, int]


COLOURS = (
    SpriteColour(name_en="red", name_zh="红色", rgb=(225, 40, 45)),
    SpriteColour(name_en="orange", name_zh="橙色", rgb=(250, 140, 25)),
    SpriteColour(name_en="yellow", name_zh="黄色", rgb=(252, 212, 40)),
    SpriteColour(name_en="green", name_zh="绿色", rgb=(65, 175, 60)),
    SpriteColour(name_en="blue", name_zh="蓝色", rgb=(40, 120, 235)),
    SpriteColour(name_en="purple", name_zh="紫色", rgb=(145, 60, 190)),
    SpriteColour(name_en="pink", name_zh="粉色", rgb=(250, 140, 185)),
    SpriteColour(name_en="brown", name_zh="棕色", rgb=(135, 85, 50)),
    SpriteColour(name_en="black", name_zh="黑色", rgb=(50, 50, 56)),
    SpriteColour(name_en="white", name_zh="白色", rgb=(244, 244, 246)),
)


@cache
def load_sprite_classes() -> tuple[SpriteClass, ...]:
    """Load all sprite classes, in the order of their ids."""
    lines = files(__package__).joinpath("objects.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines if line and not line.startswith("#")]
    return tuple(
        SpriteClass(
            id=index,
            emoji=row[0],
            names_en=tuple(row[1].split(",")),
            names_zh=tuple(row[2].split(",")),
            measure_word_zh=row[3],
            is_colourable=row[4:] == ["*"],
        )
        for index, row in enumerate(rows)
    )
