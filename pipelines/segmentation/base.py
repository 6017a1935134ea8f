"""Points, regions and the interface of segmenters, checked without weights.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from dianjing.errors import DianjingError, Message
from dianjing.pipelines import validation
from dianjing.pipelines.media.color import flatten_alpha
from dianjing.pipelines.media.mask import check_mask, to_mask
from dianjing.pipelines.media.metadata import compute_pixels_sha256
from dianjing.pipelines.video.motion_path import check_path

MAX_POINTS = 1000
MAX_WARPED_REGIONS = 16  # of an image that is moved itself, whatever the model
MIN_REMAINING_FRACTION = 0.1  # of a mask: what a negative click finds is taken away only if more than this remains
MAX_OWN_AREA = 4.0  # of the images that a model was trained on: larger ones are not taken for its own
SEGMENTER_FOLDER = "segmenter"  # of a model's folder: its `UNetSegmenter`, for its own images
RegionTarget = Literal["object", "image"]
REGION_TARGETS: tuple[RegionTarget, ...] = ("object", "image")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point prompt in px of the image; a negative one marks what the mask must leave out."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, kw_only=True)
class Region:
    """Part of an image that should move: given by points in px or by a mask of the size of the image.

    motion: a short phrase such as "jump" or 翅膀拍动; without one, path, turn and scale say how it moves. mask: what
    `to_mask` takes, white where it should move; kept as bool (H, W). strength: of the phrase, from 0 (hardly) to 1 (as
    far as the model was trained). path: points (x, y) in px of a smooth curve that the region follows from the first
    one. turn: degrees in all, clockwise. scale: size at the end, relative to the first frame. times: when it is at each
    point of the path, from 0 (the first frame) to 1 (the last); an even pace without. anchor: where the part joins the
    rest, which stays; found for phrases that bend a part. target: "image" moves all of the image, like a camera
    whose view never leaves it, without points and mask.
    Raises: DianjingError for a region without motion, a strength outside 0 to 1, a mask that is none, a path that
    `check_path` refuses, and unless one of points and mask is given.
    """

    motion: str = ""
    points: Sequence[Point] = ()
    mask: np.ndarray | None = None
    strength: float = 0.5
    path: Sequence[tuple[float, float]] | None = None
    turn: float = 0.0
    scale: float = 1.0
    times: Sequence[float] | None = None
    anchor: Point | None = None
    target: RegionTarget = "object"

    def __post_init__(self) -> None:
        path, turn, scale, times = check_path(self.path, turn=self.turn, scale=self.scale, times=self.times)
        for name, value in {"path": path, "turn": turn, "scale": scale, "times": times}.items():
            object.__setattr__(self, name, value)
        if self.target not in REGION_TARGETS:
            raise DianjingError(
                "value_not_allowed", name="target", value=validation.format_value(self.target), allowed=REGION_TARGETS
            )
        is_image = self.target == "image"
        if is_image and (self.mask is not None or self.points or self.motion or not self.has_transform):
            raise DianjingError("image_region_with_selection")
        if self.motion != "":
            validation.check_prompt(self.motion, "motion")
        elif not self.has_transform:
            raise DianjingError("region_motion_missing")
        validation.check_number(self.strength, "strength", low=0, high=1)
        if not is_image and (self.mask is None) == (not self.points):
            raise DianjingError("region_points_or_mask", motion=self.motion_name)
        if self.mask is not None:
            object.__setattr__(self, "mask", to_mask(self.mask, name=self.name_mask()))

    @property
    def has_transform(self) -> bool:
        """True if the region moves by a path, a turn or a scale."""
        return self.path is not None or self.turn != 0 or self.scale != 1

    @property
    def needs_warp(self) -> bool:
        """True if the motion is more than a phrase, so that the image itself has to be moved."""
        return self.has_transform or self.anchor is not None or self.target == "image"

    @property
    def motion_name(self) -> str | Message:
        """The motion, as messages name it."""
        return self.motion or Message("motion_by_path")

    def name_mask(self) -> Message:
        """Name the mask of the region, for messages."""
        return Message("mask_of_region", motion=self.motion_name)


def get_region_metadata(region: Region) -> dict[str, object]:
    """Describe a region for generation metadata, as JSON values; a mask by its size and a hash of its pixels."""
    described: dict[str, object] = {"motion": region.motion, "strength": region.strength}
    if region.has_transform:
        described |= {"path": region.path, "turn": region.turn, "scale": region.scale, "times": region.times}
    if region.anchor is not None:
        described["anchor"] = {"x": region.anchor.x, "y": region.anchor.y}
    if region.target == "image":
        return {**described, "target": region.target}
    if region.mask is None:
        return {**described, "points": [vars(point) for point in region.points]}
    mask = region.mask.astype(np.uint8) * 255
    pixels_sha256 = compute_pixels_sha256(mask)
    return {**described, "mask": {"width": mask.shape[1], "height": mask.shape[0], "pixels_sha256": pixels_sha256}}


def check_region(region: Region, *, size: tuple[int, int]) -> None:
    """Raise DianjingError for points, a path or a mask that do not fit an image of (width, height) px."""
    if region.target == "object":
        if region.mask is None:
            check_points(region.points, width=size[0], height=size[1])
        else:
            check_mask(region.mask, size=size, name=region.name_mask())
    for x, y in region.path or ():
        _check_position(x, y, width=size[0], height=size[1])
    if region.anchor is not None:
        _check_position(region.anchor.x, region.anchor.y, width=size[0], height=size[1])


class Segmenter(Protocol):
    """Interface of a segmenter: one image, then any number of predictions from points (SAM's terms)."""

    def set_image(self, image: np.ndarray) -> None:
        """Prepare an image, uint8 (H, W, 3)."""

    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at the points."""
        ...


def predict_masks(image: np.ndarray, regions: Sequence[Region], segmenter: Segmenter) -> np.ndarray:
    """Predict the masks of regions, bool (R, H, W), of an image (H, W, 3) or (H, W, 4); a camera move has all of it."""
    if any(region.points for region in regions):
        segmenter.set_image(flatten_alpha(image))
    everything = np.ones(image.shape[:2], bool)
    masks = []
    for region in regions:
        mask = everything if region.target == "image" else region.mask
        masks.append(segmenter.predict(region.points) if mask is None else mask)
    return np.stack(masks)


def check_points(points: Sequence[Point], *, width: int, height: int) -> list[Point]:
    """Check points against an image of width x height px.

    Raises: DianjingError for no points, too many, one outside the image, or negative ones alone.
    """
    if not points:
        raise DianjingError("points_missing")
    if len(points) > MAX_POINTS:
        raise DianjingError("too_many_points", count=f"{len(points):,}", maximum=f"{MAX_POINTS:,}")
    for point in points:
        _check_position(point.x, point.y, width=width, height=height)
    if not any(point.positive for point in points):
        raise DianjingError("points_all_negative")
    return list(points)


def _check_position(x: float, y: float, *, width: int, height: int) -> None:
    """Raise DianjingError for a position that is not finite, or outside an image of width x height px."""
    if not (math.isfinite(x) and math.isfinite(y)):
        raise DianjingError("point_not_finite", x=x, y=y)
    if not (0 <= x < width and 0 <= y < height):
        size = {"width": width, "height": height, "max_x": width - 1, "max_y": height - 1}
        raise DianjingError("point_outside_image", x=f"{x:g}", y=f"{y:g}", **size)


def parse_click(text: str) -> list[Point]:
    """Parse "30,40" or "30,40;-50,60" to points in pixels; a minus in front marks a point outside the region.

    Raises: DianjingError.
    """
    number = r"\s*[-+]?(?:\d+\.?\d*|\.\d+|nan|inf)\s*"
    points = []
    for part in text.split(";"):
        match = re.fullmatch(rf"\s*(-?)(\s*{number}),({number})", part, flags=re.IGNORECASE)
        if match is None:
            raise DianjingError("click_malformed", value=repr(text))
        points.append(Point(x=float(match[2]), y=float(match[3]), positive=not match[1]))
    return points
