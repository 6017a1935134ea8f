"""Drawing of the regions of a canvas: masks, points, anchors, paths, and where a region is at the end.

H height, W width; masks are bool (H, W) of the image, pixels uint8 (H, W, 3) of the enlarged one, drawn in place.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.video.camera import plan_camera
from dianjing.pipelines.video.motion_path import XY, Similarity, make_similarities, sample_curve

if TYPE_CHECKING:
    from dianjing.demo.page.canvas import RegionSelection

Color = tuple[int, int, int]
REGION_COLORS: tuple[Color, ...] = (
    (255, 64, 64),
    (64, 128, 255),
    (64, 200, 64),
    (250, 170, 30),
    (180, 90, 220),
    (40, 190, 190),
)
MASK_OPACITY = 0.45
REFERENCE_PX = 512  # longer side for which the following lengths are
POINT_RADIUS_PX = 7
LINE_PX = 3
DASH_PX = 9
NUM_VIEWS = 17  # frames of a camera move at which its views are planned
WHITE, DARK_GRAY = (255, 255, 255), (40, 40, 40)


def draw_regions(pixels: np.ndarray, regions: Sequence["RegionSelection"], *, scale: int) -> None:
    """Draw regions, each in its own color; scale: enlarged px for one of the image."""
    colors = [REGION_COLORS[index % len(REGION_COLORS)] for index in range(len(regions))]
    for region, color in zip(regions, colors, strict=True):
        if region.mask is not None:
            _draw_mask(pixels, region.mask, color)
    for region, color in zip(regions, colors, strict=True):
        if region.has_transform and region.target == "object":
            _draw_end(pixels, region, color, scale=scale)
        if region.path is not None:
            _draw_path(pixels, region.path, color, scale=scale)
        for point in region.points:
            _draw_point(pixels, point, color, scale=scale)
        if region.anchor is not None:
            _draw_anchor(pixels, region.anchor, color, scale=scale)
    camera = [pair for pair in zip(regions, colors, strict=True) if pair[0].target == "image" and pair[0].has_transform]
    if camera:
        _draw_views(pixels, [region for region, _ in camera], camera[-1][1], scale=scale)


def _enlarge(length_px: int, pixels: np.ndarray) -> int:
    """A length in px that looks the same whatever the size of the image."""
    return max(1, round(length_px * max(pixels.shape[:2]) / REFERENCE_PX))


def _draw_mask(pixels: np.ndarray, mask: np.ndarray, color: Color) -> None:
    large = cv2.resize(mask.astype(np.float32), pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    tinted = pixels[large] * (1 - MASK_OPACITY) + np.array(color) * MASK_OPACITY
    pixels[large] = tinted.round().astype(np.uint8)
    outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels, outlines, -1, color, thickness=_enlarge(2, pixels), lineType=cv2.LINE_AA)


def _draw_path(pixels: np.ndarray, path: Sequence[XY], color: Color, *, scale: int) -> None:
    """Draw the smooth curve through a path with a white rim, and an arrow head at its end."""
    curve = sample_curve(np.asarray(path, np.float64)) * scale
    width, head = _enlarge(LINE_PX, pixels), _enlarge(16, pixels)
    line = [curve.round().astype(np.int32)]
    end = curve[-1]
    before = curve[np.hypot(*(curve - end).T) >= min(head, np.hypot(*(curve - end).T).max())][-1]
    direction = (end - before) / max(1e-6, float(np.hypot(*(end - before))))
    side = np.array([-direction[1], direction[0]])
    tip = np.array([end, end - head * direction + 0.5 * head * side, end - head * direction - 0.5 * head * side])
    for thickness, paint in ((width + _enlarge(3, pixels), WHITE), (width, color)):
        cv2.polylines(pixels, line, isClosed=False, color=paint, thickness=thickness, lineType=cv2.LINE_AA)
    cv2.fillPoly(pixels, [tip.round().astype(np.int32)], color, lineType=cv2.LINE_AA)
    cv2.polylines(pixels, [tip.round().astype(np.int32)], isClosed=True, color=WHITE, thickness=_enlarge(1, pixels))


def _draw_end(pixels: np.ndarray, region: "RegionSelection", color: Color, *, scale: int) -> None:
    """Draw the dashed outline of a region where it is in the last frame."""
    if region.mask is None:
        return
    contours, _ = cv2.findContours(region.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rows, columns = np.nonzero(region.mask)
    center = (columns.mean() + 0.5, rows.mean() + 0.5)
    pivot = np.array(center if region.anchor is None else (region.anchor.x, region.anchor.y))
    end = _list_similarities(region, num_frames=2)[-1]
    c, s = np.cos(end.angle) * end.scale, np.sin(end.angle) * end.scale
    for contour in contours:
        x, y = (contour[:, 0] + 0.5 - pivot).T
        moved = np.stack([c * x - s * y, s * x + c * y], axis=1) + pivot + (end.dx, end.dy)
        _draw_dashes(pixels, moved * scale, color)


def _list_similarities(region: "RegionSelection", *, num_frames: int) -> list[Similarity]:
    return make_similarities(
        path=region.path, turn=region.turn, scale=region.scale, times=region.times, num_frames=num_frames
    )


def _draw_views(pixels: np.ndarray, regions: Sequence["RegionSelection"], color: Color, *, scale: int) -> None:
    """Draw what a camera sees of the image: of the first frame with a line, of the last with dashes."""
    size = (pixels.shape[1] // scale, pixels.shape[0] // scale)
    moves = []
    for region in regions:
        pivot = (size[0] / 2, size[1] / 2) if region.anchor is None else (region.anchor.x, region.anchor.y)
        moves.append((_list_similarities(region, num_frames=NUM_VIEWS), pivot))
    camera = plan_camera(moves, size=size)
    if not camera.shows_image(0, size=size):
        first = (camera.find_view(0, size=size) * scale).round().astype(np.int32)
        for paint, thickness in ((WHITE, _enlarge(4, pixels)), (color, _enlarge(2, pixels))):
            cv2.polylines(pixels, [first], isClosed=True, color=paint, thickness=thickness, lineType=cv2.LINE_AA)
    _draw_dashes(pixels, camera.find_view(NUM_VIEWS - 1, size=size) * scale, color)


def _draw_dashes(pixels: np.ndarray, outline: np.ndarray, color: Color) -> None:
    closed = np.concatenate([outline, outline[:1]])
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    dash = _enlarge(DASH_PX, pixels)
    marks = np.arange(0, lengths[-1], dash / 3)
    points = np.stack([np.interp(marks, lengths, closed[:, axis]) for axis in (0, 1)], axis=1).round().astype(np.int32)
    for paint, thickness in ((WHITE, _enlarge(4, pixels)), (color, _enlarge(2, pixels))):
        for first in range(0, len(points), 6):
            cv2.polylines(pixels, [points[first : first + 4]], False, paint, thickness, cv2.LINE_AA)


def _draw_point(pixels: np.ndarray, point: Point, color: Color, *, scale: int) -> None:
    """Draw a disc with a white rim; a negative point is dark and crossed."""
    center, radius = (round(point.x * scale), round(point.y * scale)), _enlarge(POINT_RADIUS_PX, pixels)
    fill = color if point.positive else DARK_GRAY
    cv2.circle(pixels, center, radius + _enlarge(2, pixels), WHITE, thickness=-1, lineType=cv2.LINE_AA)
    cv2.circle(pixels, center, radius, fill, thickness=-1, lineType=cv2.LINE_AA)
    if not point.positive:
        cv2.drawMarker(pixels, center, WHITE, cv2.MARKER_TILTED_CROSS, radius, _enlarge(2, pixels), cv2.LINE_AA)


def _draw_anchor(pixels: np.ndarray, anchor: Point, color: Color, *, scale: int) -> None:
    """Draw a square with a white rim where a part joins the rest."""
    x, y, radius = round(anchor.x * scale), round(anchor.y * scale), _enlarge(POINT_RADIUS_PX, pixels)
    rim = _enlarge(2, pixels)
    cv2.rectangle(pixels, (x - radius - rim, y - radius - rim), (x + radius + rim, y + radius + rim), WHITE, -1)
    cv2.rectangle(pixels, (x - radius, y - radius), (x + radius, y + radius), color, -1)
