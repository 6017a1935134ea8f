"""Regions of an animation's metadata, with which the Animate tab goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from dianjing.demo.page.canvas import REGION_FIELDS, RegionCanvas, RegionSelection
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.region_events import predict_mask
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.segmentation.base import Point, Region, check_region


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedRegion:
    """A region of a file: its motion phrase and strength, and its selection without a mask."""

    motion: str
    strength: float
    selection: RegionSelection


def parse_regions(metadata: GenerationMetadata) -> list[ImportedRegion]:
    """Parse the regions of an animation's metadata; none for metadata of another kind, or for masks."""
    listed = metadata.settings.get("regions")
    try:
        return [_parse_region(region) for region in (listed if isinstance(listed, list) else [])]
    except (KeyError, TypeError, ValueError, AttributeError):  # of which a DianjingError is one
        return []


def _parse_region(region: Mapping[str, Any]) -> ImportedRegion:
    anchor = region.get("anchor")
    target = region.get("target", "object")
    fields: dict[str, Any] = {name: region[name] for name in ("path", "turn", "scale", "times") if name in region}
    points = [] if target == "image" else region["points"]
    parsed = Region(
        motion=str(region["motion"]),
        strength=min(max(float(region["strength"]), 0.0), 1.0),
        points=tuple(_parse_point(point) for point in points),
        anchor=None if anchor is None else replace(_parse_point(anchor), positive=True),
        target=target,
        **fields,
    )
    selection = RegionSelection(**{name: getattr(parsed, name) for name in REGION_FIELDS})
    return ImportedRegion(motion=parsed.motion, strength=parsed.strength, selection=selection)


def _parse_point(point: Mapping[str, Any]) -> Point:
    return Point(x=float(point["x"]), y=float(point["y"]), positive=bool(point.get("positive", True)))


def select_regions(context: PageContext, image: Image.Image, regions: list[ImportedRegion]) -> RegionCanvas:
    """Make a canvas with the regions of a file. Raises: DianjingError for any that does not fit the image."""
    canvas, selections = RegionCanvas(image=image), []
    for region in regions:
        fields = {name: getattr(region.selection, name) for name in REGION_FIELDS}
        check_region(Region(motion=region.motion, **fields), size=image.size)
        mask = predict_mask(context, canvas, region.selection.points)
        selections.append(replace(region.selection, mask=mask))
    return replace(canvas, regions=tuple(selections) or canvas.regions)
