"""Regions as the command line gives them: --click, --mask and --region, checked without torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError
from dianjing.pipelines.media.mask import read_mask
from dianjing.pipelines.segmentation.base import Point, Region, parse_click

DEFAULT_STRENGTH = 0.5
REGION_KEYS = ("click", "mask", "target", "motion", "strength", "path", "turn", "scale", "times", "anchor")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?nan|[-+]?inf"


def make_regions(
    click_texts: Sequence[str],
    mask_paths: Sequence[Path],
    region_texts: Sequence[str],
    *,
    motions: Sequence[str],
    strengths: Sequence[float],
    size: tuple[int, int],
) -> list[Region]:
    """Make the regions of an image of (width, height) px: those of clicks, of masks, and of --region, in this order.

    motions: one for each click and mask. strengths: none, one for all, or one for each.
    Raises: DianjingError.
    """
    selections: list[dict[str, Any]] = [{"points": parse_click(click)} for click in click_texts]
    selections += [{"mask": read_mask(path, size=size)} for path in mask_paths]
    if len(motions) != len(selections):
        raise DianjingError("motion_count_mismatch", count=len(motions), num_regions=len(selections))
    if len(strengths) not in (0, 1, len(selections)):
        raise DianjingError("strength_count_mismatch", count=len(strengths), num_regions=len(selections))
    if len(strengths) != len(selections):
        strengths = [strengths[0] if strengths else DEFAULT_STRENGTH] * len(selections)
    regions = [
        Region(motion=motion, strength=strength, **selection)
        for motion, strength, selection in zip(motions, strengths, selections, strict=True)
    ]
    return [*regions, *(parse_region_option(text, size=size) for text in region_texts)]


def parse_region_option(text: str, *, size: tuple[int, int]) -> Region:
    """Parse "click=30,40;motion=jump" or "click=90,40;path=90,40 120,30 150,60" to a region of an image.

    A part without a key goes on with the value before it, as the second point of "click=30,40;-50,60".
    Raises: DianjingError.
    """
    values: dict[str, str] = {}
    last = None
    for part in text.split(";"):
        key, separator, value = part.partition("=")
        key = key.strip().lower()
        if separator and key in REGION_KEYS and key not in values:
            last = key
            values[last] = value.strip()
        elif not separator and last == "click":
            values[last] += f";{part}"
        elif part.strip():
            raise DianjingError("region_malformed", value=repr(text[:80]), part=repr(part[:40]), keys=REGION_KEYS)
    fields: dict[str, Any] = {name: values[name] for name in ("motion", "target") if name in values}
    fields |= {name: _parse_number(values[name], name) for name in ("strength", "turn", "scale") if name in values}
    if "click" in values:
        fields["points"] = parse_click(values["click"])
    if "mask" in values:
        fields["mask"] = read_mask(Path(values["mask"]), size=size)
    if "path" in values:
        fields["path"] = [_parse_position(pair, "path") for pair in values["path"].split()]
    if "times" in values:
        fields["times"] = [_parse_number(number, "times") for number in values["times"].split()]
    if "anchor" in values:
        x, y = _parse_position(values["anchor"], "anchor")
        fields["anchor"] = Point(x=x, y=y)
    return Region(**fields)


def _parse_number(text: str, key: str) -> float:
    if re.fullmatch(NUMBER, text.strip(), flags=re.IGNORECASE) is None:
        raise DianjingError("region_number_malformed", key=key, value=repr(text[:40]))
    return float(text)


def _parse_position(text: str, key: str) -> tuple[float, float]:
    x, separator, y = text.partition(",")
    if not separator:
        raise DianjingError("region_number_malformed", key=key, value=repr(text[:40]))
    return _parse_number(x, key), _parse_number(y, key)
